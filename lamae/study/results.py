"""What a study found: every number of its report, from what the runs left behind.

Differences are the first method's value minus the other's, paired by seed and by subject; those of the sweep are the
change's value minus the base's. Intervals are 95 %, over seeds and subjects.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lamae.base import files
from lamae.base.rundirectory import RunDirectory
from lamae.evaluate.embeddings.embed import READOUTS
from lamae.evaluate.labels.groups import code_groups
from lamae.evaluate.reconstruct.reconstruction import SITUATIONS, ReconstructionErrors
from lamae.evaluate.reconstruct.trivial import LINEAR
from lamae.evaluate.statistics import Values, difference, estimate, gaps, simultaneous
from lamae.sharding.format import ShardSet
from lamae.study import runs as run_lists
from lamae.study.corpus import Part
from lamae.study.directory import StudyDirectory
from lamae.study.plan import StudyPlan
from lamae.study.runs import BASE, FLOPS, RECORDS, Group, Run, Setting
from lamae.study.runscores import Key, RunScores

UNTRAINED = "random weights"
RECONSTRUCTED = ("I, II", "V1-V6", "I, II, V1-V6")


@dataclass(frozen=True)
class Candidate:
    """One row of a comparison: what was scored of it, by seed."""

    by_seed: Mapping[int, RunScores]
    readouts: tuple[str, ...] = READOUTS

    def has(self, task: str) -> bool:
        """Whether a task scored it: age and sex are not known of every set."""
        return all(any(scored == task for scored, _, _ in of.by_key) for of in self.by_seed.values())

    def values(self, key: Key, codes: list[str] | None = None) -> Values:
        """Macro AUROC over some codes (default: all) by seed; a candidate's only read-out stands in for any other."""
        task, readout, fraction = key
        readout = readout if readout in self.readouts else self.readouts[0]
        scored = {seed: of.by_key[task, readout, fraction] for seed, of in self.by_seed.items()}
        return {seed: of.drawn(codes) for seed, of in scored.items()}


def collect(
    plan: StudyPlan,
    study: StudyDirectory,
    parts: list[Part],
    scores: Mapping[Setting, float],
    choices: Mapping[str, Setting],
    runs: Mapping[str, Group],
    references: Mapping[str, Candidate],
) -> dict[str, Any]:
    """Everything that ``results.json`` holds."""
    at_records, at_flops, changes = (_candidates(study, group) for group in runs.values())
    # A method whose FLOPs are near the first's has the same runs in both budgets, and is compared once.
    others = {method for (method, seed), run in runs[FLOPS].items() if run != runs[RECORDS].get((method, seed))}
    at_flops = {method: of for method, of in at_flops.items() if others and method in {plan.first_method, *others}}
    by_budget = {RECORDS: {**at_records, **references}, FLOPS: at_flops}
    keys = [
        (name, readout, fraction)
        for name, task in plan.tasks.items()
        for readout in READOUTS
        for fraction in sorted(task.label_fractions)
    ]
    return {
        "plan": dataclasses.asdict(plan),
        "search": [{**_setting(plan, setting), "val_macro_auroc": score} for setting, score in scores.items()],
        "choices": {method: _setting(plan, choice) for method, choice in choices.items()},
        "comparisons": [
            {"task": key[0], "readout": key[1], "labels": key[2], "budget": budget, **comparison}
            for key in keys
            for budget, found in by_budget.items()
            for comparison in ([_compare(found, key, plan.first_method, references)] if found else [])
        ],
        "headline": [
            {"readout": readout, "budget": budget, **entry}
            for readout in READOUTS
            for budget, found in by_budget.items()
            if found
            for entry in _headline(found, plan, readout)
        ],
        "unknown_patients": {name: parts[0].truth_of(name, task).unknown_patients for name, task in plan.tasks.items()},
        "readouts": _readouts(plan, at_records),
        "codes": {name: _by_code({**at_records, **references}, (name, "mean", 1.0)) for name in plan.tasks},
        "sweep": [
            {"task": key[0], "readout": key[1], **_sweep(changes, key)} for key in keys if key[2] == 1.0 and changes
        ],
        "over_subjects_alone": _over_subjects_alone(plan, at_records[plan.first_method]),
        "seeds": {stage: sorted({seed for _, seed in group}) for stage, group in runs.items()},
        "reconstruction": _reconstruction(plan, study, parts, runs[RECORDS]),
        "costs": _costs(plan, study, runs),
        "machine": _machine(study, runs[RECORDS]),
    }


def _over_subjects_alone(plan: StudyPlan, candidate: Candidate) -> list[str]:
    """Tasks of which every population was scored by one seed, so that their intervals hold nothing of the seeds."""
    populations = {
        name: [of.by_key[name, "mean", 1.0].population for of in candidate.by_seed.values()] for name in plan.tasks
    }
    return [name for name, of in populations.items() if len(set(of)) == len(of)]


def _setting(plan: StudyPlan, setting: Setting) -> dict[str, Any]:
    own = {"mask": "its own"} if plan.has_own_mask(setting.method) else {}
    return dataclasses.asdict(setting) | own


def _candidates(study: StudyDirectory, runs: Group) -> dict[str, Candidate]:
    by_name: dict[str, dict[int, RunScores]] = {}
    for (name, seed), run in runs.items():
        by_name.setdefault(name, {})[seed] = RunScores.read(study.scored(run.name))
    return {name: Candidate(by_seed) for name, by_seed in by_name.items()}


def _compare(
    candidates: Mapping[str, Candidate], key: Key, first: str, references: Mapping[str, Candidate]
) -> dict[str, Any]:
    """Every candidate's macro AUROC, and by how much the first is above it, over all codes and over groups of them."""
    codes = list(next(iter(candidates[first].by_seed.values())).by_key[key].codes)
    rows = []
    for name, candidate in candidates.items():
        if not candidate.has(key[0]):
            continue
        row = {"name": name, "reference": name in references, "macro_auroc": estimate(candidate.values(key))}
        if name != first:
            row |= _gap(candidates[first].values(key), candidate.values(key))
        row["groups"] = {
            group: _gap(candidates[first].values(key, members), candidate.values(key, members))
            for group, members in code_groups(codes).items()
            if name != first
        }
        rows.append(row)
    return {"rows": rows}


def _headline(candidates: Mapping[str, Candidate], plan: StudyPlan, readout: str) -> list[dict[str, Any]]:
    """The first method minus every other, of every task at all labels, with intervals that hold together."""
    first = candidates[plan.first_method]
    family = {
        (name, task): gaps(first.values((task, readout, 1.0)), candidate.values((task, readout, 1.0)))
        for name, candidate in candidates.items()
        for task in plan.tasks
        if name != plan.first_method and candidate.has(task)
    }
    intervals = simultaneous(list(family.values())) if family else []
    return [
        {"name": name, "task": task, "difference": gap, "verdict": gap.verdict}
        for (name, task), gap in zip(family, intervals, strict=True)
    ]


def _readouts(plan: StudyPlan, candidates: Mapping[str, Candidate]) -> list[dict[str, Any]]:
    """By how much every method's own pooled embedding is above the mean of its tokens."""
    return [
        {
            "task": task_name,
            "labels": fraction,
            "name": name,
            **_gap(*(candidate.values((task_name, readout, fraction)) for readout in ("record", "mean"))),
        }
        for task_name, task in plan.tasks.items()
        for name, candidate in candidates.items()
        for fraction in sorted(task.label_fractions)
    ]


def _by_code(candidates: Mapping[str, Candidate], key: Key) -> dict[str, dict[str, Any]]:
    some = next(iter(candidates.values()))
    codes = next(iter(some.by_seed.values())).by_key[key].codes
    return {
        name: {code: estimate(candidate.values(key, [code])) for code in codes}
        for name, candidate in candidates.items()
        if candidate.has(key[0])
    }


def _sweep(changes: Mapping[str, Candidate], key: Key) -> dict[str, Any]:
    rows = []
    for name, candidate in changes.items():
        row: dict[str, Any] = {"name": name, "macro_auroc": estimate(candidate.values(key))}
        if name != BASE:
            row |= _gap(candidate.values(key), changes[BASE].values(key))
        rows.append(row)
    return {"rows": rows}


def _gap(first: Values, second: Values) -> dict[str, Any]:
    gap = difference(first, second)
    return {"difference": gap, "verdict": gap.verdict}


def _reconstruction(plan: StudyPlan, study: StudyDirectory, parts: list[Part], claim: Group) -> list[dict[str, Any]]:
    """Error on scored records over that of the best trivial predictor and of linear regression from the leads."""
    rows = []
    name = plan.set_of(plan.tasks[plan.reconstruction_task])
    subjects = [ShardSet.open(part.sets[name]).column("subject") for part in parts]
    for number, mask in enumerate(plan.reconstruct):
        for method in plan.methods:
            errors = {
                seed: _read_errors(study.reconstruction(run.name), number, subjects[run.part])
                for (of, seed), run in claim.items()
                if of == method
            }
            for situation in SITUATIONS[:2]:
                for group in RECONSTRUCTED:
                    one = next(iter(errors.values()))
                    if not np.isfinite(one.mse(situation, group)["model"]):
                        continue
                    trivial, _ = one.best_trivial(situation, group)
                    rows.append(
                        {
                            "mask": mask,
                            "method": method,
                            "situation": situation,
                            "leads": group,
                            "mse": float(np.mean([of.mse(situation, group)["model"] for of in errors.values()])),
                            "unit": one.unit,
                            "best_trivial": trivial,
                            **{
                                f"ratio_to_{name}": estimate(
                                    {seed: of.drawn_ratio(situation, group, against) for seed, of in errors.items()}
                                )
                                for name, against in (("best_trivial", trivial), ("linear", LINEAR))
                            },
                        }
                    )
    return rows


def _read_errors(path: Path, number: int, subject_N: np.ndarray) -> ReconstructionErrors:
    with np.load(path) as columns:
        return ReconstructionErrors(
            squared_MSLG=columns[f"{number}/squared"],
            count_MSL=columns[f"{number}/count"],
            defined_SLG=columns[f"{number}/defined"],
            predictors=tuple(columns["predictors"].tolist()),
            subject_M=subject_N[columns["row"]],
            unit=str(columns["unit"]),
        )


def _costs(plan: StudyPlan, study: StudyDirectory, runs: Mapping[str, Group]) -> dict[str, Any]:
    """FLOPs and CPU seconds, by what was run; all seeds together in the totals."""
    rows = []
    for stage, group in runs.items():
        for name in dict.fromkeys(name for name, _ in group):
            of = [run for (other, _), run in group.items() if other == name]
            config = run_lists.configure(plan, of[0].overrides)
            rows.append(
                {
                    "stage": stage,
                    "name": name,
                    "mask": config.mask.kind,
                    "lr": config.optim.lr,
                    "steps": config.train.steps,
                    "records": config.train.steps * config.train.global_batch_size,
                    "gflops_per_record": run_lists.record_flops(plan, of[0].overrides) / 1e9,
                    "tflops_per_run": run_lists.run_flops(plan, of[0]) / 1e12,
                    "train_cpu_s": float(np.mean([_seconds(study, run).get("train", np.nan) for run in of])),
                }
            )
    every = [files.read_json(path) for path in sorted((study.root / "runs").rglob("done.json"))]
    return {
        "rows": rows,
        "num_runs": len(every),
        "cpu_hours": sum(sum(done["cpu_s"].values()) for done in every) / 3600,
    }


def _seconds(study: StudyDirectory, run: Run) -> dict[str, float]:
    values: dict[str, float] = files.read_json(study.done(run.name))["cpu_s"]
    return values


def _machine(study: StudyDirectory, claim: Group) -> dict[str, Any]:
    manifest = RunDirectory(study.run(next(iter(claim.values())).name)).read_manifest()
    return {"machine": manifest["machine"], "versions": manifest["versions"]}
