"""``lamae study``: makes what is missing of a study, stage by stage; it can be stopped and started at any time.

corpus ─▶ search: learning rates ─▶ search: masks ─▶ equal records ─▶ equal FLOPs ─▶ sweep ─▶ references ─▶ report
          each run:  train ─▶ embed ─▶ reconstruct ─▶ score
"""

import dataclasses
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lamae import console
from lamae.base import files
from lamae.base.errors import UsageError
from lamae.base.text import few, slug
from lamae.evaluate import store
from lamae.evaluate.embeddings.embed import Embeddings, read_embeddings
from lamae.evaluate.labels.store import Labels
from lamae.evaluate.probe.demographics import AGE_AND_SEX, embed_demographics
from lamae.evaluate.probe.protocol import usable_codes
from lamae.reports.study import write_study_report
from lamae.sharding.format import ShardSet
from lamae.study import runs as run_lists
from lamae.study.corpus import Part, build_corpus, check_labels, check_sources, views
from lamae.study.directory import StudyDirectory
from lamae.study.plan import StudyPlan, TaskConfig
from lamae.study.pool import execute
from lamae.study.results import UNTRAINED, Candidate, collect
from lamae.study.runs import RECORDS, Group, Run, Setting
from lamae.study.runscores import SHARD_SET, RunScores, scored_by
from lamae.study.scoring import rows_of_splits, rows_of_task
from lamae.study.search import search
from lamae.study.worker import read_views, save

log = logging.getLogger(__name__)


def run_study(plan: StudyPlan, out: Path, *, workers: int, report_only: bool = False) -> dict[str, Any]:
    """Everything that is missing of the study below ``out``; what ``results.json`` holds.

    ``report_only`` pretrains nothing once the search is done: the report is of the seeds that are finished. Raises
    UsageError for a plan that cannot be run or that is not the one ``out`` was made with, and LamaeError where a run
    fails.
    """
    check(plan, out)
    with store.lock(out) as lock:
        store.take_lock(lock, out)
        return _run(plan, StudyDirectory(out), workers=workers, report_only=report_only)


def _run(plan: StudyPlan, study: StudyDirectory, *, workers: int, report_only: bool) -> dict[str, Any]:
    study.make_or_resume(plan)
    with console.show_progress() as progress:
        parts = build_corpus(plan, study.corpus, workers=max(1, workers), progress=progress)
        check_labels(plan, parts)
        _check_lengths(plan, parts)
        _check_classes(plan, parts)
        scored = [scored_by(plan, part) for part in parts]

        def is_trained(run: Run) -> bool:
            return study.done(run.name).exists()

        def changes(run: Run) -> list[str]:
            return _changes(study.scored_by(run.name), scored[run.part])

        def is_done(run: Run) -> bool:
            return is_trained(run) and not changes(run)

        def do(stage: str, runs: Iterable[Run]) -> None:
            runs = list({run.name: run for run in runs}.values())
            if again := [run for run in runs if is_trained(run) and changes(run)]:
                what = sorted({one for run in again for one in changes(run)})
                if sets := [one for one in what if one.startswith(SHARD_SET)]:
                    raise UsageError(f"{study.root}: {few(sets)} since its runs were trained; take another --out")
                log.warning("%s: finished runs that are scored again: %d (%s)", stage, len(again), few(what, 4))
            execute(study, runs, workers=workers, stage=stage, is_done=is_done, progress=progress)

        scores, choices, first_lr = search(plan, study, parts, do)
        runs = run_lists.final_runs(plan, choices, first_lr=first_lr)
        if report_only:
            runs = {stage: run_lists.finished_seeds(group, is_trained) for stage, group in runs.items()}
            if not runs[RECORDS]:
                raise UsageError(f"{study.root}: no seed is finished for all methods; nothing to report yet")
        for stage, group in runs.items():
            do(stage, group.values())
        untrained = run_lists.untrained_runs(plan, runs[RECORDS])
        do(UNTRAINED, untrained.values())
        references = {
            UNTRAINED: Candidate({seed: RunScores.read(study.scored(run.name)) for seed, run in untrained.items()})
        }
        names = [files.json_sha256(of)[:12] for of in scored]
        references |= _score_demographics(plan, study, parts, runs[RECORDS], names)
    results = collect(plan, study, parts, scores, choices, runs, references)
    write_study_report(results, study.root)
    return results


def _changes(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What has changed since a run was scored, in words."""
    if not before:
        return ["an older lamae did not note the labels"]
    return [f"{what} changed" for what in now if before.get(what) != now[what]]


def check(plan: StudyPlan, out: Path) -> None:
    """Raises UsageError where a run could not be configured or a source not be used: before anything is made."""
    first = plan.overrides(plan.first_method, plan.first_mask)
    overrides = {
        **{f"methods.{m} under masks.{k}": plan.overrides(m, k) for m in plan.methods for k in plan.masks},
        **{f"sweep.{name}": [*first, *change] for name, change in plan.sweep.items()},
        **{f"reconstruct.{name}": change for name, change in plan.reconstruct.items()},
    }
    for name, changes in overrides.items():
        try:
            run_lists.record_flops(plan, changes)
        except UsageError as error:
            raise UsageError(f"{name}: {error}") from None
    check_sources(plan, StudyDirectory(out).corpus)


def _check_lengths(plan: StudyPlan, parts: list[Part]) -> None:
    """Raises UsageError where a model could not take the records that a task tests it on."""
    config = run_lists.configure(plan, plan.overrides(plan.first_method, plan.first_mask))
    if config.signal.seconds:  # longer records are cropped, shorter ones end in "no sample"
        return
    shard_set = ShardSet.open(next(iter(parts[0].sets.values())))
    seconds = shard_set.num_samples / shard_set.rate_hz
    for name, task in plan.tasks.items():
        if task.test_shards is not None:
            other = ShardSet.open(task.test_shards)
            if other.num_samples / other.rate_hz != seconds:
                raise UsageError(
                    f"tasks.{name}.test_shards: its records have {other.num_samples / other.rate_hz:g} s and the "
                    f"corpus's {seconds:g} s; give all runs one length with 'set: [signal.seconds={seconds:g}]'"
                )


def _check_classes(plan: StudyPlan, parts: list[Part]) -> None:
    """Report the codes that no average of a task holds, for want of one of their classes.

    Raises UsageError where a task or the search has no code to fit, to choose by or to score.
    """
    for name, task in plan.tasks.items():
        for number, part in enumerate(parts, start=1):
            truth = _of_task(part.truth_of(name, task), task)
            rows = rows_of_task(truth, task)
            if task.protocol == "patients":  # fitted and chosen by folds of both
                rows |= dict.fromkeys(("train", "val"), np.concatenate(list(rows.values())))
            _, left_out = usable_codes(truth, rows, name=f"tasks.{name}")
            if left_out:
                codes = few([f"{code} ({reason})" for code, reason in left_out.items()], 4)
                log.warning("tasks.%s, part %d of %d: left out of averages: %s", name, number, len(parts), codes)
    truth = _of_task(parts[0].truth_of(plan.search_task_name, plan.search_task), plan.search_task)
    rows = rows_of_splits(truth, plan.search_task)
    usable_codes(truth, rows | {"test": rows["train"]}, name="the search")  # which looks at no test record


def _of_task(truth: Labels, task: TaskConfig) -> Labels:
    columns = task.columns(truth.codes)
    return dataclasses.replace(
        truth, label_NC=truth.label_NC[:, columns], codes=[truth.codes[column] for column in columns]
    )


def list_runs(plan: StudyPlan, out: Path) -> list[tuple[str, str, int, float]]:
    """(stage, run, steps, training TFLOP) of every run, before anything is known of the search: its choices are taken
    to be the first mask and the middle learning rate. Raises UsageError as ``run_study``."""
    check(plan, out)
    rates = sorted(plan.search.learning_rates)
    choices = {method: Setting(method, plan.first_mask, rates[len(rates) // 2]) for method in plan.methods}
    best_rates = dict.fromkeys(plan.methods, rates[: plan.search.rates_per_mask])
    final = run_lists.final_runs(plan, choices, first_lr=choices[plan.first_method].lr)
    stages: dict[str, Mapping[Any, Run]] = {
        "search: learning rates": run_lists.learning_rate_runs(plan),
        "search: masks": run_lists.mask_runs(plan, best_rates),
        **final,
    }
    rows: dict[str, tuple[str, str, int, float]] = {}
    for stage, runs in stages.items():
        for run in runs.values():
            steps = run_lists.configure(plan, run.overrides).train.steps
            rows.setdefault(run.name, (stage, run.name, steps, run_lists.run_flops(plan, run) / 1e12))
    return list(rows.values())


def _score_demographics(
    plan: StudyPlan, study: StudyDirectory, parts: list[Part], claim: Group, scored: list[str]
) -> dict[str, Candidate]:
    """Age and sex as if they were an embedding, alone and beside the first method's; empty where no file has them.

    ``scored`` names, by part, what the scores depend on.
    """
    alone: dict[int, RunScores] = {}
    beside: dict[int, RunScores] = {}
    for seed, run in ((seed, run) for (method, seed), run in claim.items() if method == plan.first_method):
        part = parts[run.part]
        if not part.demographics:
            return {}
        people = {
            name: _people(study.reference(f"{slug(name)}-{run.part}.zarr"), part.sets[name], file)
            for name, file in part.demographics.items()
        }
        in_view = {
            views(plan, name, part)[0].name: people[plan.set_of(task)]
            for name, task in plan.tasks.items()
            if plan.set_of(task) in people
        }
        path = study.reference(f"age-sex-{run.part}-{scored[run.part]}.npz")
        if not path.exists():
            features = {view: {"record": of} for view, of in in_view.items()}
            save(path, RunScores.of(features, plan, part).to_columns())
        alone[seed] = RunScores.read(path)
        path = study.reference(f"{slug(run.name)}-age-sex-{scored[run.part]}.npz")
        if not path.exists():
            joined = _joined(read_views(plan, study, run.name, part), in_view)
            save(path, RunScores.of(joined, plan, part).to_columns())
        beside[seed] = RunScores.read(path)
    return {
        AGE_AND_SEX: Candidate(alone, readouts=("record",)),
        f"{plan.first_method} with {AGE_AND_SEX}": Candidate(beside),
    }


def _people(out: Path, shards: Path, file: Path) -> Embeddings:
    if not out.exists():
        embed_demographics(file, shards, out)
    return read_embeddings(out)


def _joined(
    of_run: Mapping[str, Mapping[str, Embeddings]], people: Mapping[str, Embeddings]
) -> dict[str, dict[str, Embeddings]]:
    """A run's embeddings of every set whose people are known, each record's age and sex beside them."""
    return {
        view: {
            readout: dataclasses.replace(of, x_ND=np.hstack([of.x_ND, people[view].x_ND]))
            for readout, of in by_readout.items()
        }
        for view, by_readout in of_run.items()
        if view in people
    }
