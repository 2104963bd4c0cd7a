"""A checkpoint saved at any world size and ZeRO stage resumes at any other, moments and step counters included."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lamae.train.checkpoint.format import list_checkpoints
from lamae.train.engine import Engine
from tests.distributed.jobs import run_jobs
from tests.distributed.launch import RankPool
from tests.runs import losses

# Every leg of a way ends after two more steps.
LEG_STEPS = 2
# A resume without moments or step counters is off by .8 % to several per cent (see below), one of these by rounding.
TOLERANCE = {"fp32": 2e-5, "bf16": 4e-3}


@dataclass(frozen=True)
class Leg:
    """Some steps of a run at one topology."""

    world_size: int
    precision: str
    zero_stage: int

    def __str__(self) -> str:
        return f"{self.world_size}x{self.precision}-stage{self.zero_stage}"


def way(precision: str, *topologies: tuple[int, int]) -> tuple[Leg, ...]:
    return tuple(Leg(world_size, precision, zero_stage) for world_size, zero_stage in topologies)


# Each way is one run whose every leg resumes what another world size and another stage saved.
WAYS = [
    *[way("fp32", (2, s), (4, (s + 1) % 4), (2, (s + 2) % 4), (1, (s + 3) % 4)) for s in range(4)],
    *[way("bf16", (2, s), (4, s % 3 + 1), (1, (s + 1) % 3 + 1)) for s in (1, 2, 3)],
    way("fp32", (1, 1), (2, 3)),
    way("bf16", (1, 3), (4, 2)),
    # Between precisions the master weights move all the same.
    (Leg(1, "bf16", 2), Leg(2, "fp32", 1)),
]
NAMES = ["-to-".join(map(str, legs)) for legs in WAYS]
NUM_STEPS = LEG_STEPS * max(map(len, WAYS))
SCHEDULE = (f"train.steps={NUM_STEPS}", "optim.lr=0.01", "optim.warmup_steps=0")


def overrides(leg: Leg, stop_at: int) -> tuple[str, ...]:
    topology = (f"engine.precision={leg.precision}", f"engine.zero_stage={leg.zero_stage}")
    return (*SCHEDULE, *topology, f"train.stop_at={stop_at}")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, shards: Path, two_ranks: RankPool, four_ranks: RankPool) -> Path:
    """All runs: leg after leg, the legs of one number and world size in one call."""
    root: Path = tmp_path_factory.mktemp("portable")
    for precision in ("fp32", "bf16"):
        run_jobs(shards, [(root / precision, overrides(Leg(1, precision, 1), NUM_STEPS))])
    for number in range(max(map(len, WAYS))):
        jobs: dict[int, list[tuple[Path, tuple[str, ...]]]] = {1: [], 2: [], 4: []}
        for name, legs in zip(NAMES, WAYS, strict=True):
            if number < len(legs):
                stop_at = LEG_STEPS * (number + 1)
                jobs[legs[number].world_size].append((root / name, overrides(legs[number], stop_at)))
        codes = [run_jobs(shards, jobs[1])]
        for pool in (two_ranks, four_ranks):
            if jobs[pool.world_size]:
                codes += pool.run("tests.distributed.jobs", "run_jobs", shards=shards, jobs=jobs[pool.world_size])
        assert all(code == 0 for of_rank in codes for code in of_rank)
    return root


@pytest.mark.parametrize(("name", "legs"), zip(NAMES, WAYS, strict=True), ids=NAMES)
def test_the_losses_along_a_way_are_those_of_an_uninterrupted_run(name: str, legs: tuple[Leg, ...], runs: Path) -> None:
    moved, whole = losses(runs / name), losses(runs / legs[0].precision)
    assert list(moved) == list(range(1, LEG_STEPS * len(legs) + 1))
    tolerance = max(TOLERANCE[leg.precision] for leg in legs)
    assert list(moved.values()) == pytest.approx([whole[step] for step in moved], rel=tolerance)


def test_all_ranks_write_their_share(runs: Path) -> None:
    name = next(name for name, legs in zip(NAMES, WAYS, strict=True) if legs[-1].world_size == 4)
    path = list_checkpoints(runs / name / "checkpoints")[-1].path
    sizes = [file.stat().st_size for file in sorted(path.glob("rank-*.safetensors"))]
    assert len(sizes) == 4
    assert max(sizes) < 1.5 * min(sizes)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("forgotten", ["exp_avg", "exp_avg_sq", "step counter"])
def test_a_resume_that_forgot_something_would_be_noticed(
    forgotten: str, precision: str, runs: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tolerance above can tell: without a moment or the counter the next losses are off by more."""
    restore = Engine.restore

    def restore_the_rest(self: Engine, fill: Any, *, applied_steps: int) -> None:
        def fill_or_zero(pieces: Any) -> None:
            fill(pieces)
            for piece in pieces:
                piece.target.mul_(piece.kind != forgotten)

        restore(self, fill_or_zero, applied_steps=0 if forgotten == "step counter" else applied_steps)

    leg = Leg(1, precision, 1)
    run_jobs(shards, [(tmp_path, overrides(leg, LEG_STEPS))])
    monkeypatch.setattr(Engine, "restore", restore_the_rest)
    run_jobs(shards, [(tmp_path, overrides(leg, NUM_STEPS))])
    whole, moved = losses(runs / precision), losses(tmp_path)
    worst = max(abs(moved[step] / whole[step] - 1) for step in whole)
    assert worst > 1.5 * TOLERANCE[precision]
