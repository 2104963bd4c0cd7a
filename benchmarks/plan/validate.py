"""The plan against the truth, where the truth is at hand: steps of one and two processes of this machine.

Parts are measured (benchmarks.plan.calibrate), the step and its memory are predicted from them exactly as for a
cluster, and then the step is taken. What this cannot show: accelerators, networks, more than two ranks.
"""

import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from benchmarks import rankstep
from benchmarks.plan.calibrate import measure_machine
from benchmarks.plan.forecast import forecast
from benchmarks.plan.shape import model_shape
from benchmarks.ranks import RankPool
from benchmarks.rankstep import StepCost
from benchmarks.timing import Ratio, ratio_entries
from lamae.config import load
from lamae.train.schedule import plan_batch
from sharding.progress import Progress, ignore

RECORDS = {"tiny": 32, "small": 4}
"""Per process and step, by size: enough that a step takes a good part of a second."""
REPEATS = 3


def validate(
    *,
    sizes: Sequence[str] = tuple(RECORDS),
    zero: Sequence[int] = (0, 1, 2, 3),
    processes: Sequence[int] = (1, 2),
    progress: Progress = ignore,
) -> dict[str, Any]:
    """Predicted over measured step time and peak memory, in float32; ``ratios`` of 1 are perfect predictions."""
    measurements: dict[str, Any] = {}
    ratios: dict[str, Ratio] = {}
    total, done = len(sizes) * len(zero) * len(processes), 0
    with ExitStack() as stack:
        pools = {number: stack.enter_context(RankPool(number)) for number in processes}
        for pool in pools.values():
            _measure(pool, _path("tiny"), stage=1, records=1)  # imports and first allocations are nobody's step
        for size in sizes:
            path, records = _path(size), RECORDS[size]
            run = load(path, ["run.dir=unused", "data.path=unused", "engine.precision=fp32"])
            shape = model_shape(run)
            machines = {
                number: measure_machine(pool, width=run.model.width, mlp_ratio=run.model.mlp_ratio)
                for number, pool in pools.items()
            }
            for stage in zero:
                for number in processes:
                    predicted = forecast(
                        shape,
                        machines[number],
                        plan_batch(records * number, micro_batch_size=records, world_size=number),
                        zero_stage=stage,
                        precision="fp32",
                        checkpointing=False,
                    )
                    steps_s, peak = _measure(pools[number], path, stage=stage, records=records)
                    name = f"{size}_zero{stage}_{number}_processes"
                    ratios[f"step_time_{name}"] = Ratio(tuple(predicted.step_s / s for s in steps_s))
                    if peak is not None:
                        ratios[f"memory_{name}"] = Ratio((predicted.memory.total / peak,))
                    measurements[name] = {
                        "step_s": {"predicted": predicted.step_s, "measured": statistics.median(steps_s)},
                        "memory_bytes": {"predicted": predicted.memory.total, "measured": peak},
                        "parts_s": predicted.parts_s,
                    }
                    done += 1
                    progress("predicted and measured", done, total)
    return {
        "settings": {"sizes": list(sizes), "zero": list(zero), "processes": list(processes), "precision": "fp32"},
        "measurements": measurements,
        **ratio_entries(ratios),
    }


def _path(size: str) -> str:
    return f"configs/pretrain/{size}.yaml"


def _measure(pool: RankPool, path: str, *, stage: int, records: int) -> tuple[list[float], int | None]:
    """Seconds of each repeat, of the slowest rank; peak bytes of the rank that held most."""
    overrides = [
        "engine.precision=fp32",
        f"engine.zero_stage={stage}",
        f"train.global_batch_size={records * pool.world_size}",
        f"train.micro_batch_size={records}",
    ]
    pool.call(rankstep.open_steps, config=path, overrides=overrides)
    pool.call(rankstep.time_steps, num_steps=1)
    seconds = []
    for _ in range(REPEATS):
        costs: list[StepCost] = pool.call(rankstep.time_steps, num_steps=1)
        seconds.append(max(cost.seconds for cost in costs))
    peaks = [peak for peak in pool.call(rankstep.peak_bytes) if peak is not None]
    pool.call(rankstep.close_steps)
    return seconds, max(peaks, default=None)
