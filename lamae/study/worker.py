"""One run of a study in a process of its own: pretrain, embed, reconstruct, score; what is done is not done again.

python -m lamae.study.worker STUDY_DIR RUN_NAME
"""

import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from lamae import console
from lamae.base import files
from lamae.base.errors import LamaeError
from lamae.base.files import new_file
from lamae.evaluate.embeddings.embed import READOUTS, Embeddings, embed, read_embeddings
from lamae.evaluate.reconstruct.reconstruction import reconstruction_errors
from lamae.sharding.format import ShardSet
from lamae.study.corpus import Part, open_parts
from lamae.study.directory import StudyDirectory
from lamae.study.plan import StudyPlan, TaskConfig, load_plan
from lamae.study.runs import FULL, Run, configure
from lamae.study.runscores import RunScores, scoring_hash
from lamae.study.scoring import rows_of_splits
from lamae.train import loop
from lamae.train.checkpoint.format import load_model

EMBED_BATCH, GPU_EMBED_BATCH = 8, 256  # small batches stay in a core's cache


def run_one(study: StudyDirectory, name: str) -> int:
    """Everything of one run; the exit code, 75 where it was stopped and saved."""
    plan, run = load_plan(study.plan), study.read_run(name)
    part = open_parts(plan.corpus, study.corpus)[run.part]
    shard_set = ShardSet.open(part.shards)
    config = configure(plan, run.overrides, shards=str(part.shards), run_dir=str(study.run(name)))
    seconds = _Seconds(study.done(name))
    device = "cuda" if torch.cuda.is_available() else "cpu"

    if run.weights_of is None:
        code = seconds.measure("train", lambda: loop.train(config))
        if code:
            return int(code)
    source = study.run(run.weights_of or name)

    def embed_set(of: ShardSet, rows: np.ndarray, out: Path) -> None:
        embed(
            source,
            of,
            out,
            rows=rows,
            batch_size=EMBED_BATCH if device == "cpu" else GPU_EMBED_BATCH,
            device=device,
            random_weights=run.weights_of is not None,
            seed=config.train.seed,
        )

    if not study.embeddings(name).exists():
        rows = rows_to_embed(plan, run, part, shard_set.num_records)
        seconds.measure("embed", lambda: embed_set(shard_set, rows, study.embeddings(name)))
    for task_name, task in tests_elsewhere(plan).items() if run.scored == FULL else ():
        out = study.embeddings(name, task_name)
        if not out.exists():
            other = ShardSet.open(str(task.test_shards))
            tested = rows_of_splits(part.truth_of(task), task)["test"] - shard_set.num_records
            seconds.measure("embed", functools.partial(embed_set, other, tested, out))
    if run.scored == FULL:
        if run.weights_of is None and plan.reconstruct and not study.reconstruction(name).exists():
            seconds.measure("reconstruct", lambda: _reconstruct(plan, study, name, part, shard_set, device))
        seconds.measure("task", lambda: _score(plan, study, name, part, shard_set))
    seconds.write(scored=scoring_hash(plan) if run.scored == FULL else None)
    return 0


class _Seconds:
    """CPU seconds by stage, written when a run is finished: calls that were stopped before that are not in them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._by_stage: dict[str, float] = files.read_json(path)["cpu_s"] if path.exists() else {}

    def measure(self, stage: str, action: Callable[[], int | None]) -> int | None:
        start = time.process_time()
        result = action()
        spent = round(time.process_time() - start, 2)
        self._by_stage[stage] = max(spent, self._by_stage.get(stage, 0.0))
        return result

    def write(self, **values: str | None) -> None:
        files.write_json(self._path, {"cpu_s": self._by_stage, **values})


def tests_elsewhere(plan: StudyPlan) -> dict[str, TaskConfig]:
    """The tasks that test on another shard set than the corpus, by name."""
    return {name: task for name, task in plan.tasks.items() if task.test_shards is not None}


def rows_to_embed(plan: StudyPlan, run: Run, part: Part, num_records: int) -> np.ndarray:
    """Rows of the corpus, of ``num_records``, that some task needs; of the search's runs none of any test split."""
    rows = []
    for task in plan.tasks.values() if run.scored == FULL else [plan.search_task]:
        truth = part.truth_of(task)
        if task.protocol == "patients":
            rows.append(np.flatnonzero(truth.labelled_N))
        else:
            by_split = rows_of_splits(truth, task)
            rows += [of for split, of in by_split.items() if run.scored == FULL or split != "test"]
    found = np.unique(np.concatenate(rows))
    return found[found < num_records]


def _reconstruct(
    plan: StudyPlan, study: StudyDirectory, name: str, part: Part, shard_set: ShardSet, device: str
) -> None:
    """Errors on the records that the first real task (else the first) is scored on; trivial predictors get means and
    covariances from its other records."""
    here = [task for name, task in plan.tasks.items() if name not in tests_elsewhere(plan)]
    task = next((task for task in here if task.real), here[0])
    truth = part.truth_of(task)
    labelled = np.flatnonzero(truth.labelled_N)
    pretrained = np.isin(labelled, shard_set.rows_of_split("train"))
    rows = labelled[~pretrained] if task.protocol == "patients" else rows_of_splits(truth, task)["test"]
    loaded = load_model(study.run(name), device=device)
    columns = {"row": rows}
    for number, overrides in enumerate(plan.reconstruct.values()):
        mask = configure(plan, overrides).mask
        errors = reconstruction_errors(
            loaded, shard_set, rows, mask=mask, train_rows=labelled[pretrained], device=device
        )
        columns |= {
            f"{number}/squared": errors.squared_RSLP,
            f"{number}/count": errors.count_RSL,
            f"{number}/defined": errors.defined_SLP,
            "predictors": np.array(errors.predictors),
        }
    _save(study.reconstruction(name), columns)


def _score(plan: StudyPlan, study: StudyDirectory, name: str, part: Part, shard_set: ShardSet) -> None:
    """Every task on every read-out and share of labels."""

    def read(task: str | None) -> dict[str, Embeddings]:
        return {readout: read_embeddings(study.embeddings(name, task), readout=readout) for readout in READOUTS}

    elsewhere = {task: read(task) for task in tests_elsewhere(plan)}
    _save(study.scored(name), RunScores.of(read(None), plan, part, shard_set, elsewhere).to_columns())


def _save(out: Path, columns: dict[str, np.ndarray]) -> None:
    with new_file(out) as partial, partial.open("wb") as stream:
        np.savez(stream, **columns)  # type: ignore[arg-type]


if __name__ == "__main__":
    console.set_up_logging()
    try:
        sys.exit(run_one(StudyDirectory(Path(sys.argv[1])), sys.argv[2]))
    except LamaeError as error:
        console.print_error(str(error))
        sys.exit(1)
