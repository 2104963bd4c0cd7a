"""The plan against the truth, where the truth is at hand: steps of one and two processes of this machine.

Parts are measured (benchmarks.plan.calibrate), again before every step but for what DeepSpeed takes of the host, the
step and its memory are predicted from them exactly as for a cluster, and then the step is taken. Memory is measured in
steps of its own, in which the C library keeps nothing that was freed; a CPU's memory is what has been written, so the
buffers that a GPU would hold unwritten are left out of the comparison. What this cannot show: accelerators, networks,
more than two ranks.
"""

import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

from lamae.base.progress import Progress, ignore
from lamae.benchmarks import rankstep
from lamae.benchmarks.plan.calibrate import measure_engine_host, measure_machine
from lamae.benchmarks.plan.forecast import Forecast, forecast
from lamae.benchmarks.plan.hardware import HostCost
from lamae.benchmarks.plan.shape import model_shape
from lamae.benchmarks.ranks import RankPool
from lamae.benchmarks.rankstep import StepCost
from lamae.benchmarks.timing import Ratio, ratio_entries
from lamae.train.runconfig import load
from lamae.train.schedule import plan_batch

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
    steps = len(sizes) * len(zero) * len(processes)
    measurements: dict[str, Any] = {}
    ratios: dict[str, Ratio] = {}
    predicted: dict[str, Forecast] = {}
    with _pools(processes) as pools:
        for pool in pools.values():
            _open(pool, _path("tiny"), stage=1, records=1)  # imports and first allocations are nobody's step
            pool.call(rankstep.time_steps, num_steps=1)
            pool.call(rankstep.close_steps)
        progress("predicted and timed", 0, steps)
        hosts = {number: _measure_hosts(pool, zero) for number, pool in pools.items()}
        for size in sizes:
            path, records = _path(size), RECORDS[size]
            run = load(path, ["run.dir=unused", "data.path=unused", "engine.precision=fp32"])
            shape = model_shape(run)
            model = run.model
            measure = partial(measure_machine, width=model.width, heads=model.heads, mlp_ratio=model.mlp_ratio)
            for stage, number in product(zero, processes):
                name, pool = f"{size}_zero{stage}_{number}_processes", pools[number]
                batch = plan_batch(records * number, micro_batch_size=records, world_size=number)
                _open(pool, path, stage=stage, records=records)
                pool.call(rankstep.time_steps, num_steps=1)
                forecasts, rounds = [], []
                for _ in range(REPEATS):  # what the machine gives changes by the minute
                    machine = replace(measure(pool), engine_host=hosts[number])
                    forecasts.append(
                        forecast(shape, machine, batch, zero_stage=stage, precision="fp32", checkpointing=False)
                    )
                    rounds.append(pool.call(rankstep.time_steps, num_steps=1))
                pool.call(rankstep.close_steps)
                predicted[name] = forecasts[0]
                ratios[f"step_time_{name}"], measurements[name] = _compare(forecasts, rounds)
                progress("predicted and timed", len(predicted), steps)
    with _pools(processes) as pools:
        for pool in pools.values():
            pool.call(rankstep.map_large_blocks)
            _weigh(pool, _path("tiny"), stage=1, records=1)
        for done, (name, one) in enumerate(predicted.items(), start=1):
            size = name.partition("_")[0]
            peak = _weigh(pools[one.world_size], _path(size), stage=one.zero_stage, records=RECORDS[size])
            held = max(memory.written for memory in one.moments)
            measurements[name]["memory_bytes"] = {"predicted": held, "measured": peak}
            if peak is not None:
                ratios[f"memory_{name}"] = Ratio((held / peak,))
            progress("weighed", done, steps)
    return {
        "engine_host_us": {
            f"{'_'.join(map(str, case))}_{number}_processes": [1e6 * cost.first, 1e6 * cost.further]
            for number, costs in hosts.items()
            for case, cost in costs.items()
        },
        "settings": {"sizes": list(sizes), "zero": list(zero), "processes": list(processes), "precision": "fp32"},
        "measurements": measurements,
        **ratio_entries(ratios),
    }


@contextmanager
def _pools(processes: Sequence[int]) -> Iterator[dict[int, RankPool]]:
    """Jobs of so many processes, by their number."""
    with ExitStack() as stack:
        yield {number: stack.enter_context(RankPool(number, use_gpus=False)) for number in processes}


def _path(size: str) -> str:
    return f"configs/pretrain/{size}.yaml"


def _measure_hosts(pool: RankPool, zero: Sequence[int]) -> dict[tuple[str, int, str], HostCost]:
    """Of both precisions: those of bf16 are told, for ENGINE_HOST, and predict nothing here."""
    machine = measure_machine(pool, width=128, heads=4, mlp_ratio=2.0)
    costs = measure_engine_host(pool, machine, zero=zero)
    return costs | measure_engine_host(pool, machine, zero=[stage for stage in zero if stage], precision="bf16")


def _compare(forecasts: Sequence[Forecast], rounds: Sequence[Sequence[StepCost]]) -> tuple[Ratio, dict[str, Any]]:
    """Predicted over measured, repeat by repeat, and the medians with their parts."""
    measured_s = [max(cost.seconds for cost in costs) for costs in rounds]
    phases = [rankstep.least_waiting(costs).phase_s for costs in rounds]
    ratio = Ratio(tuple(one.step_s / seconds for one, seconds in zip(forecasts, measured_s, strict=True)))
    predicted_s = statistics.median(one.step_s for one in forecasts)
    return ratio, {
        "step_s": {"predicted": predicted_s, "measured": statistics.median(measured_s)},
        "parts_s": {
            "predicted": _medians([one.parts_s for one in forecasts]),
            "measured": _medians(phases),
        },
    }


def _medians(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def _weigh(pool: RankPool, path: str, *, stage: int, records: int) -> int | None:
    """Peak bytes of the rank that held most; from the second step on there are moments."""
    _open(pool, path, stage=stage, records=records)
    pool.call(rankstep.time_steps, num_steps=2)
    peaks = [peak for peak in pool.call(rankstep.peak_bytes) if peak is not None]
    pool.call(rankstep.close_steps)
    return max(peaks, default=None)


def _open(pool: RankPool, path: str, *, stage: int, records: int) -> None:
    overrides = [
        "engine.precision=fp32",
        f"engine.zero_stage={stage}",
        f"train.global_batch_size={records * pool.world_size}",
        f"train.micro_batch_size={records}",
    ]
    pool.call(rankstep.open_steps, config=path, overrides=overrides)
