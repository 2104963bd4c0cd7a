"""One process and several, side by side: what is left of a process's speed when it has to agree with others.

Every process has one thread, pinned to a core of its own. Weak scaling gives each process the same number of records
per step whatever their number; strong scaling shares one global batch out. Steps are whole (masks, forward, backward,
DeepSpeed's reduction and step) on synthetic signal in memory. The jobs of all sizes are up at once and take turns.

The communication share counts time inside collectives, which is sending *and* waiting for slower ranks. Bytes are told
three ways: computed by the planner, counted at torch's collectives, and what the system's loopback sent meanwhile.
"""

import random
import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from benchmarks import rankstep
from benchmarks.plan.traffic import step_traffic
from benchmarks.ranks import RankPool
from benchmarks.rankstep import StepCost
from benchmarks.timing import Ratio, Timing, ratio_entries
from benchmarks.wire import loopback_bytes, sent_per_rank
from sharding.errors import UsageError
from sharding.progress import Progress, ignore

MODES = ("weak", "strong")
HEADLINE_STAGE = 1


def run(
    *,
    quick: bool = False,
    progress: Progress = ignore,
    processes: Sequence[int] = (1, 2),
    mode: str = "weak",
    zero: Sequence[int] = (0, 1, 2, 3),
    precision: str = "fp32",
    size: str | None = None,
) -> dict[str, Any]:
    """Time steps of jobs of several sizes at several ZeRO stages; see benchmarks.timing for the form of the result.

    Raises UsageError where the sizes, the mode or a stage make no sense.
    """
    processes, zero = sorted(set(processes)), sorted(set(zero))
    _check(processes, mode, zero, precision)
    size = size or ("tiny" if quick else "small")
    records = 4
    repeats, num_steps, warmup_steps = (2, 2, 1) if quick else (5, 1, 2)
    ratios: dict[str, Ratio] = {}
    measurements: dict[str, Any] = {}
    batch = {number: records * (number if mode == "weak" else max(processes)) for number in processes}
    with ExitStack() as stack:
        pools = {number: stack.enter_context(RankPool(number)) for number in processes}
        for done, stage in enumerate(zero):
            progress("ZeRO stages", done, len(zero))
            about = {}
            for number, pool in pools.items():
                overrides = [
                    f"engine.zero_stage={stage}",
                    f"engine.precision={precision}",
                    f"train.global_batch_size={batch[number]}",
                    f"train.micro_batch_size={batch[number]}",
                ]
                about[number] = pool.call(
                    rankstep.open_steps, config=f"configs/pretrain/{size}.yaml", overrides=overrides
                )[0]
                pool.call(rankstep.time_steps, num_steps=warmup_steps)
            rounds = _take_turns(pools, repeats=repeats, num_steps=num_steps, seed=stage)
            for pool in pools.values():
                pool.call(rankstep.close_steps)
            timings = {
                number: Timing(tuple(one.seconds for one in rounds[number]), batch[number]) for number in processes
            }
            for number in processes:
                measurements[f"zero{stage}_{number}_processes"] = {
                    **timings[number].to_dict(),
                    **_describe(rounds[number], about[number], number, stage=stage, precision=precision),
                }
            ratios |= _efficiencies(timings, mode=mode, stage=stage, headline=_headline(zero))
        progress("ZeRO stages", len(zero), len(zero))
    return {
        "settings": {
            "mode": mode,
            "size": size,
            "precision": precision,
            "processes": list(processes),
            "zero": list(zero),
            "records_per_process": records if mode == "weak" else None,
            "repeats": repeats,
            "threads_per_process": 1,
            "pinned": pools[max(processes)].pinned,
        },
        "measurements": measurements,
        **ratio_entries(ratios),
    }


class _Round:
    """One repeat of one job: its slowest rank's time, and every rank's communication."""

    def __init__(self, costs: list[StepCost], loopback_per_rank: float | None) -> None:
        self.costs = costs
        self.seconds = max(cost.seconds for cost in costs)
        self.loopback_per_rank = loopback_per_rank

    @classmethod
    def take(cls, pool: RankPool, *, num_steps: int) -> "_Round":
        before = loopback_bytes()
        costs: list[StepCost] = pool.call(rankstep.time_steps, num_steps=num_steps)
        after = loopback_bytes()
        known = before is not None and after is not None
        return cls(costs, (after - before) / len(costs) / num_steps if known else None)  # type: ignore[operator]

    @property
    def communication_share(self) -> float:
        """Of the rank that waits least: what is left is sending."""
        return min(cost.communication_s for cost in self.costs) / self.seconds


def _take_turns(pools: Mapping[int, RankPool], *, repeats: int, num_steps: int, seed: int) -> dict[int, list["_Round"]]:
    """Steps of every job once per repeat, in an order shuffled anew each time."""
    shuffle = random.Random(seed).shuffle
    rounds: dict[int, list[_Round]] = {number: [] for number in pools}
    for _ in range(repeats):
        order = list(pools)
        shuffle(order)
        for number in order:
            rounds[number].append(_Round.take(pools[number], num_steps=num_steps))
    return rounds


def _describe(
    rounds: Sequence[_Round], about: Mapping[str, Any], number: int, *, stage: int, precision: str
) -> dict[str, Any]:
    described: dict[str, Any] = {
        "step_s": statistics.median(entry.seconds for entry in rounds),
        "communication_share": statistics.median(entry.communication_share for entry in rounds),
    }
    if number > 1:
        traffic = step_traffic(
            zero_stage=stage,
            precision=precision,
            num_parameters=about["parameters"],
            num_tensors=about["parameter_tensors"],
            accumulation=1,
        )
        loopback = [entry.loopback_per_rank for entry in rounds if entry.loopback_per_rank is not None]
        described["sent_bytes_per_rank"] = {
            "computed": sum(sent_per_rank(one.operation, one.num_bytes, number) for one in traffic),
            "collectives": statistics.median(entry.costs[0].sent_bytes for entry in rounds),
            "loopback": statistics.median(loopback) if loopback else None,
        }
        described["collectives"] = {
            name: {"tensor_bytes": num_bytes, "calls": rounds[0].costs[0].calls[name]}
            for name, num_bytes in rounds[0].costs[0].tensor_bytes.items()
        }
    return described


def _efficiencies(timings: Mapping[int, Timing], *, mode: str, stage: int, headline: int) -> dict[str, Ratio]:
    """Records per second and process, over those of the smallest job: 1 is perfect in either mode."""
    fewest = min(timings)
    ratios = {}
    for number, timing in timings.items():
        if number == fewest:
            continue
        rate = Ratio.of(timing, timings[fewest])
        efficiency = Ratio(tuple(value * fewest / number for value in rate.values))
        ratios[f"{mode}_{fewest}_{number}_zero{stage}"] = efficiency
        if stage == headline:
            ratios[f"{mode}_{fewest}_{number}"] = efficiency
    return ratios


def _headline(zero: Sequence[int]) -> int:
    """The stage that ``weak_1_2`` is of: the default one, else the first that is measured."""
    return HEADLINE_STAGE if HEADLINE_STAGE in zero else zero[0]


def _check(processes: Sequence[int], mode: str, zero: Sequence[int], precision: str) -> None:
    if not processes or processes[0] < 1:
        raise UsageError("--processes: numbers of at least 1, for example 1,2")
    if mode not in MODES:
        raise UsageError(f"--mode {mode}: one of {', '.join(MODES)}")
    if not zero or not set(zero) <= {0, 1, 2, 3}:
        raise UsageError("--zero: stages among 0,1,2,3")
    if precision not in ("fp32", "bf16"):
        raise UsageError(f"--precision {precision}: fp32 or bf16")
    if precision == "bf16" and 0 in zero:
        raise UsageError("--zero 0 needs --precision fp32; bf16 runs at stages 1 to 3")
    if mode == "strong" and any(4 * processes[-1] % number for number in processes):
        raise UsageError("--mode strong: the largest number of processes must be a multiple of the others")
