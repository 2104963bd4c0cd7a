"""One run of a study in a process of its own: pretrain, embed, reconstruct, score; what is done is not done again.

python -m lamae.study.worker STUDY_DIR RUN_NAME
"""

import functools
import logging
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lamae import console
from lamae.base import files
from lamae.base.errors import LamaeError
from lamae.base.files import new_file
from lamae.evaluate import store
from lamae.evaluate.embeddings.embed import (
    KIND,
    READOUTS,
    Embeddings,
    embed,
    has_any_lead,
    read_embeddings,
    rows_hash,
)
from lamae.evaluate.reconstruct.reconstruction import reconstruction_errors
from lamae.sharding.format import ShardSet
from lamae.study.corpus import Part, View, open_parts, views
from lamae.study.directory import StudyDirectory
from lamae.study.plan import StudyPlan, load_plan
from lamae.study.runs import FULL, Run, configure
from lamae.study.runscores import RunScores, scored_by
from lamae.study.scoring import rows_of_splits, rows_of_task
from lamae.train import loop
from lamae.train.checkpoint.format import load_model

log = logging.getLogger(__name__)


def run_one(study: StudyDirectory, name: str) -> int:
    """Everything of one run; the exit code, 75 where it was stopped and saved."""
    plan, run = load_plan(study.plan), study.read_run(name)
    part = open_parts(plan, study.corpus)[run.part]
    config = configure(
        plan, run.overrides, shards=[str(path) for path in part.sets.values()], run_dir=str(study.run(name))
    )
    seconds, scored = _Seconds(study.done(name)), scored_by(plan, part)
    device = "cuda" if torch.cuda.is_available() else "cpu"

    if run.weights_of is None:
        code = seconds.measure("train", lambda: loop.train(config))
        if code:
            return int(code)

    def embed_view(view: View, rows: np.ndarray, out: Path) -> None:
        embed(
            study.run(run.weights_of or name),
            view.shards,
            out,
            rows=rows,
            leads=view.leads,
            device=device,
            random_weights=run.weights_of is not None,
            seed=config.train.seed,
        )

    for view, rows in rows_to_embed(plan, run, part).items():
        out = study.embeddings(name, view.name)
        if not _is_embedded(out, view, rows):
            shutil.rmtree(out, ignore_errors=True)
            seconds.measure("embed", functools.partial(embed_view, view, rows, out))
    if run.scored == FULL:
        if run.weights_of is None and plan.reconstruct:
            seconds.measure("reconstruct", lambda: _reconstruct(plan, study, name, part, device))
        seconds.measure("task", lambda: _score(plan, study, name, part))
    seconds.write(scored=scored)
    return 0


class _Seconds:
    """CPU seconds by stage, written when a run is finished: calls that were stopped before that are not in them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._before: dict[str, float] = files.read_json(path)["cpu_s"] if path.exists() else {}
        self._spent: dict[str, float] = {}

    def measure(self, stage: str, action: Callable[[], int | None]) -> int | None:
        start = time.process_time()
        result = action()
        self._spent[stage] = self._spent.get(stage, 0.0) + time.process_time() - start
        return result

    def write(self, **values: Any) -> None:
        spent = {stage: round(max(s, self._before.get(stage, 0.0)), 2) for stage, s in self._spent.items()}
        files.write_json(self._path, {"cpu_s": {**self._before, **spent}, **values})


def rows_to_embed(plan: StudyPlan, run: Run, part: Part) -> dict[View, np.ndarray]:
    """Rows of every view that some task needs; of the search's runs none of any test split."""
    rows: dict[View, list[np.ndarray]] = {}
    search = {plan.search_task_name: plan.search_task}
    for name, task in (plan.tasks if run.scored == FULL else search).items():
        truth, (here, there) = part.truth_of(name, task), views(plan, name, part)
        by_split = rows_of_task(truth, task) if run.scored == FULL else rows_of_splits(truth, task)
        wanted = np.concatenate([of for split, of in by_split.items() if run.scored == FULL or split != "test"])
        num_here = ShardSet.open(here.shards).num_records
        rows.setdefault(here, []).append(wanted[wanted < num_here])
        if there is not None:
            rows.setdefault(there, []).append(wanted[wanted >= num_here] - num_here)
    return {view: np.unique(np.concatenate(of)) for view, of in rows.items()}


def _is_embedded(out: Path, view: View, rows: np.ndarray) -> bool:
    """Whether a view's embeddings hold these rows of its shard set: labels that were made again may need others."""
    if not out.exists():
        return False
    found, shard_set = store.open_store(out, kind=KIND), ShardSet.open(view.shards)
    wanted = rows[has_any_lead(shard_set, view.leads)[rows]]
    if found.attrs["index_sha256"] == shard_set.index_hash and found["embedded"][wanted].all():
        return True
    log.info("%s: embedded again: other records are needed now", out)
    return False


def _reconstruct(plan: StudyPlan, study: StudyDirectory, name: str, part: Part, device: str) -> None:
    """Errors on the records that the first real task (else the first) is scored on; trivial predictors get means and
    covariances from its other records."""
    task_name = plan.reconstruction_task
    task = plan.tasks[task_name]
    shard_set, truth = ShardSet.open(part.sets[plan.set_of(task)]), part.truth_of(task_name, task)
    rows, train_rows, out = rows_of_task(truth, task)["test"], truth.rows("train"), study.reconstruction(name)
    records = f"{rows_hash(rows)} {rows_hash(train_rows)}"
    if out.exists():
        with np.load(out) as found:
            # A file of an older lamae has the rows alone.
            if str(found["records"]) == records if "records" in found else np.array_equal(found["row"], rows):
                return
    loaded = load_model(study.run(name), device=device)
    columns = {"row": rows, "records": np.array(records)}
    for number, overrides in enumerate(plan.reconstruct.values()):
        mask = configure(plan, overrides).mask
        errors = reconstruction_errors(loaded, shard_set, rows, mask=mask, train_rows=train_rows, device=device)
        columns |= {
            f"{number}/squared": errors.squared_MSLG,
            f"{number}/count": errors.count_MSL,
            f"{number}/defined": errors.defined_SLG,
            "predictors": np.array(errors.predictors),
            "unit": np.array(errors.unit),
        }
    save(out, columns)


def _score(plan: StudyPlan, study: StudyDirectory, name: str, part: Part) -> None:
    """Every task on every read-out and share of labels."""
    features = read_views(plan, study, name, part)
    save(study.scored(name), RunScores.of(features, plan, part).to_columns())


def read_views(plan: StudyPlan, study: StudyDirectory, name: str, part: Part) -> dict[str, dict[str, Embeddings]]:
    """What a finished run made of every view, by read-out."""
    found = {view.name for task in plan.tasks for view in views(plan, task, part) if view is not None}
    return {
        view: {readout: read_embeddings(study.embeddings(name, view), readout=readout) for readout in READOUTS}
        for view in sorted(found)
    }


def save(out: Path, columns: dict[str, np.ndarray]) -> None:
    """Write arrays as a whole npz file."""
    with new_file(out) as partial, partial.open("wb") as stream:
        np.savez(stream, **columns)  # type: ignore[arg-type]


if __name__ == "__main__":
    console.set_up_logging()
    try:
        sys.exit(run_one(StudyDirectory(Path(sys.argv[1])), sys.argv[2]))
    except LamaeError as error:
        console.print_error(str(error))
        sys.exit(1)
