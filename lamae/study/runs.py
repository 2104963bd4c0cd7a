"""The list of a study's runs: a pure function of its plan and of what the search chose.

A run is named by what it is, and two entries of the study with the same settings share one run.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lamae.base.text import slug
from lamae.model.flops import count_flops
from lamae.study.plan import StudyPlan
from lamae.train import runconfig
from lamae.train.runconfig import RunConfig

FULL, VAL = "full", "val"
BASE = "base"
RECORDS, FLOPS, SWEEP = "equal records", "equal FLOPs", "sweep"


@dataclass(frozen=True)
class Run:
    """One pretraining, and how it is scored afterwards."""

    name: str
    """Its directory below ``runs/``."""
    overrides: tuple[str, ...]
    part: int
    """Of the corpus: which patients are kept out of pretraining."""
    scored: str
    """``full``, or ``val``: the search's runs, which no test record ever meets."""
    weights_of: str | None = None
    """Not trained: the architecture of this run with random weights drawn from the seed."""


@dataclass(frozen=True)
class Setting:
    """What one run of the search tries, and what it chose for a method."""

    method: str
    mask: str
    lr: float


Group = Mapping[tuple[str, int], Run]
"""Runs by (name, seed); seeds outermost, so that what is finished is a whole comparison."""


def learning_rate_runs(plan: StudyPlan) -> dict[Setting, Run]:
    """First stage of the search: every rate under the first mask."""
    settings = [Setting(method, plan.first_mask, lr) for lr in plan.search.learning_rates for method in plan.methods]
    return {setting: _search_run(plan, setting) for setting in settings}


def mask_runs(plan: StudyPlan, best_rates: Mapping[str, Sequence[float]]) -> dict[Setting, Run]:
    """Second stage: the other masks at each method's best rates."""
    settings = [
        Setting(method, mask, lr)
        for mask in list(plan.masks)[1:]
        for method in plan.methods
        if not plan.has_own_mask(method)
        for lr in best_rates[method]
    ]
    return {setting: _search_run(plan, setting) for setting in settings}


def final_runs(plan: StudyPlan, choices: Mapping[str, Setting], *, first_lr: float) -> dict[str, Group]:
    """What is compared once the search has chosen, by stage in the order in which they are run.

    ``first_lr``: the best learning rate of the first method under the first mask, the sweep's base.
    """
    chosen = {method: _overrides(plan, choices[method]) for method in plan.methods}
    costs = {method: record_flops(plan, overrides) for method, overrides in chosen.items()}
    first = costs[plan.first_method]
    # A method that costs as much as the first anyway runs once for both.
    steps = {
        method: plan.steps if abs(cost / first - 1) <= plan.flops_tolerance else round(plan.steps * first / cost)
        for method, cost in costs.items()
    }
    return {
        RECORDS: _by_seed(plan, chosen, dict.fromkeys(chosen, plan.steps)),
        FLOPS: _by_seed(plan, chosen, steps),
        SWEEP: sweep_runs(plan, first_lr),
    }


def sweep_runs(plan: StudyPlan, lr: float) -> Group:
    """BASE is the first method under the first mask. ``lr`` is the best one of that."""
    base = _overrides(plan, Setting(plan.first_method, plan.first_mask, lr))
    changes = {BASE: base, **{name: [*base, *change] for name, change in plan.sweep.items()}}
    return _by_seed(plan, changes, dict.fromkeys(changes, plan.steps))


def finished_seeds(group: Group, is_finished: Callable[[Run], bool]) -> Group:
    """The seeds that are finished for all names of a group."""
    missing = {seed for (_, seed), run in group.items() if not is_finished(run)}
    return {key: run for key, run in group.items() if key[1] not in missing}


def untrained_runs(plan: StudyPlan, claim: Group) -> dict[int, Run]:
    """The first method's model with random weights, by seed: what every pretrained one has to beat."""
    method = plan.first_method
    return {
        seed: dataclasses.replace(run, name=f"untrained/{slug(method)}-seed{seed}", weights_of=run.name)
        for (of, seed), run in claim.items()
        if of == method
    }


def record_flops(plan: StudyPlan, overrides: Sequence[str]) -> int:
    """Training FLOPs of one record."""
    config = configure(plan, overrides)
    num_samples = round(config.signal.rate_hz * (config.signal.seconds or plan.corpus.seconds))
    return count_flops(config.model, config.mask, num_samples=num_samples).training


def run_flops(plan: StudyPlan, run: Run) -> float:
    """Training FLOPs of a whole run."""
    config = configure(plan, run.overrides)
    return float(record_flops(plan, run.overrides)) * config.train.steps * config.train.global_batch_size


def configure(
    plan: StudyPlan, overrides: Sequence[str], *, shards: Sequence[str] = (), run_dir: str = "run"
) -> RunConfig:
    """The configuration of a run on ``shards``, by default the names of the corpus's sets. Raises UsageError naming the
    key."""
    path = json.dumps(list(shards or plan.set_names))
    return _load(plan.run, (*plan.set, f"run.dir={json.dumps(run_dir)}", f"data.path={path}", *overrides))


@functools.cache
def _load(path: str, overrides: tuple[str, ...]) -> RunConfig:
    return runconfig.load(path, overrides)


def _overrides(plan: StudyPlan, setting: Setting) -> list[str]:
    rate = [f"optim.lr={setting.lr:g}", f"optim.final_lr={setting.lr / 100:g}"]
    return [*plan.overrides(setting.method, setting.mask), *rate]


def _search_run(plan: StudyPlan, setting: Setting) -> Run:
    overrides = _overrides(plan, setting)
    overrides += [f"train.steps={plan.search.steps}", f"train.seed={plan.search.seed}"]
    name = f"search/{slug(setting.method)}-{slug(setting.mask)}-{setting.lr:g}"
    return Run(name, tuple(overrides), part=0, scored=VAL)


def _by_seed(plan: StudyPlan, overrides: Mapping[str, Sequence[str]], steps: Mapping[str, int]) -> Group:
    return {
        (name, seed): _final_run(plan, overrides[name], seed, steps[name]) for seed in plan.seeds for name in overrides
    }


def _final_run(plan: StudyPlan, overrides: Sequence[str], seed: int, steps: int) -> Run:
    """Named by a hash of its settings, so that claim and sweep share what they have in common."""
    config = configure(plan, [*overrides, f"train.steps={steps}"])
    digest = runconfig.config_hash(config)[:8]
    parts = 1 if plan.corpus.shards else plan.corpus.parts
    name = f"final/{config.model.kind}-{config.mask.kind}-{digest}-seed{seed}"
    return Run(name, (*overrides, f"train.steps={steps}", f"train.seed={seed}"), part=seed % parts, scored=FULL)
