"""The forecast against the truth, where the truth is at hand: steps of one and two processes of this machine.

The rates of single operations are measured, never a step of a model; the step and its memory are forecast from them
exactly as for a cluster; then the step is taken. A CPU's memory is what has been written, so buffers that a GPU would
hold unwritten are left out. What this cannot show: accelerators, networks, more than two ranks.
"""

import math
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from itertools import product
from operator import truediv
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F

from lamae.base.leads import NUM_LEADS
from lamae.base.progress import Progress, ignore
from lamae.benchmarks import rankstep
from lamae.benchmarks.forecast.engine import device_memory
from lamae.benchmarks.forecast.forecast import forecast
from lamae.benchmarks.forecast.machine import RING_PASSES, Link, Machine
from lamae.benchmarks.forecast.model import ModelShape
from lamae.benchmarks.ranks import RankPool, Session
from lamae.benchmarks.synthetic import load_run
from lamae.benchmarks.timing import Ratio, median_s, ratio_entries
from lamae.benchmarks.watch import Watch
from lamae.kernels import cross_lead_attention
from lamae.model.config import ModelConfig
from lamae.train.schedule import BatchPlan

RECORDS = {"tiny": 32, "small": 4}
"""Per process and step, by size: enough that a step takes a good part of a second."""
REPEATS = 5
TOKENS, LARGE_ELEMENTS = 2048, 16_000_000


def validate(
    *,
    sizes: Sequence[str] = tuple(RECORDS),
    zero: Sequence[int] = (0, 1, 2, 3),
    processes: Sequence[int] = (1, 2),
    progress: Progress = ignore,
) -> dict[str, Any]:
    """Forecast over measured step time and peak memory, in float32; ``ratios`` of 1 are perfect forecasts."""
    measurements: dict[str, Any] = {}
    ratios: dict[str, Ratio] = {}
    with ExitStack() as stack:
        pools = {number: stack.enter_context(RankPool(number, use_gpus=False)) for number in processes}
        cases = list(product(sizes, zero, processes))
        for done, (size, stage, number) in enumerate(cases, start=1):
            name, records = f"{size}_zero{stage}_{number}_processes", RECORDS[size]
            overrides = ["engine.precision=fp32", f"engine.zero_stage={stage}"]
            overrides += [f"train.global_batch_size={records * number}", f"train.micro_batch_size={records}"]
            run, batch = load_run(size, *overrides), BatchPlan(number, accumulation=1, micro=records)
            shape = ModelShape.of(run)
            moments = device_memory(shape, batch, zero_stage=stage, checkpointing=False)
            held, peak = max(memory.written for memory in moments), _peak_bytes(number, size, overrides)
            if peak is not None:
                ratios[f"memory_{name}"] = Ratio((held / peak,))
            pools[number].call(rankstep.open_steps, config=size, overrides=overrides)
            pools[number].call(rankstep.time_steps, num_steps=1)  # from the second step on there are AdamW's moments
            predicted_s, measured_s = [], []
            for _ in range(REPEATS):  # what the machine gives changes by the minute
                machine = measure_machine(pools[number], run.model)
                predicted_s.append(forecast(shape, machine, batch, zero_stage=stage).step_s)
                costs = pools[number].call(rankstep.time_steps, num_steps=1)
                measured_s.append(max(cost.seconds for cost in costs))
            pools[number].call(rankstep.close_steps)
            ratios[f"step_time_{name}"] = Ratio(tuple(map(truediv, predicted_s, measured_s)))
            measurements[name] = {
                "step_s": {"predicted": statistics.median(predicted_s), "measured": statistics.median(measured_s)},
                "memory_bytes": {"predicted": held, "measured": peak},
            }
            progress("forecast and measured", done, len(cases))
    settings = {"sizes": list(sizes), "zero": list(zero), "processes": list(processes), "precision": "fp32"}
    return {"settings": settings, "measurements": measurements, **ratio_entries(ratios)}


def _peak_bytes(processes: int, size: str, overrides: list[str]) -> int | None:
    """Of the rank that held most, in processes whose C library keeps nothing that was freed."""
    with RankPool(processes, use_gpus=False) as pool:
        pool.call(rankstep.map_large_blocks)
        small = [f"train.global_batch_size={processes}", "train.micro_batch_size=1"]
        for config, given in (("tiny", [*overrides, *small]), (size, overrides)):  # imports first: they are no step's
            pool.call(rankstep.open_steps, config=config, overrides=given)
            pool.call(rankstep.time_steps, num_steps=2)
            peaks = [peak for peak in pool.call(rankstep.peak_bytes) if peak is not None]
            pool.call(rankstep.close_steps)
        return max(peaks, default=None)


def measure_machine(pool: RankPool, model: ModelConfig) -> Machine:
    """What the processes of a job reach when all of them work at once, in float32 operations of a model's width."""
    hidden = round(model.width * model.mlp_ratio)
    rates = pool.call(measure_device, width=model.width, heads=model.heads, hidden=hidden)
    link = Link(math.inf, 0.0) if pool.world_size == 1 else pool.call(measure_link)[0]
    return Machine(
        name=f"this machine, {pool.world_size} processes of one thread",
        **{name: min(rate[name] for rate in rates) for name in rates[0]},
        host_is_device=True,
        devices_per_node=pool.world_size,
        in_node=link,
        between_nodes=link,
    )


def measure_device(session: Session, *, width: int, heads: int, hidden: int) -> dict[str, float]:
    """Arithmetic per second in an MLP's products; bytes per second of what a block does beside them, and of passes over
    arrays beyond the caches. What a small operation takes of the host is assumed, as for a cluster."""
    torch.set_num_threads(1)
    x = torch.randn(TOKENS, width, requires_grad=True)
    weight = torch.randn(hidden, width, requires_grad=True)
    wide = torch.randn(TOKENS, hidden, requires_grad=True)
    qkv = torch.randn(TOKENS // NUM_LEADS, NUM_LEADS, 3, heads, width // heads, requires_grad=True)
    mask, out = torch.ones(qkv.shape[:2], dtype=torch.bool), qkv.detach()[:, :, 0]
    large, copy = torch.ones(LARGE_ELEMENTS), torch.ones(LARGE_ELEMENTS)

    def between_products() -> None:
        torch.autograd.grad(F.layer_norm(x, (width,)) + x, x, x.detach())
        torch.autograd.grad(F.gelu(wide), wide, wide.detach())
        torch.autograd.grad(cross_lead_attention(qkv, mask, implementation="eager"), qkv, out)

    with Watch() as watch:
        between_products()
    products_s = median_s(lambda: torch.autograd.grad(F.linear(x, weight), [x, weight], wide.detach()))
    return {
        "flops_per_s": 3 * 2 * TOKENS * width * hidden / products_s,
        "memory_bytes_per_s": watch.moved_bytes / median_s(between_products),
        "stream_bytes_per_s": 2 * large.nbytes / median_s(lambda: copy.copy_(large)),
    }


def measure_link(session: Session) -> Link:
    """Rate and latency, from all-reduces of two sizes, taken for rings."""
    rankstep.join(session)
    world_size, small, large = dist.get_world_size(), torch.zeros(1), torch.zeros(LARGE_ELEMENTS)
    small_s, large_s = (median_s(partial(dist.all_reduce, tensor)) for tensor in (small, large))
    sent = RING_PASSES["all_reduce"] * (world_size - 1) / world_size * large.nbytes
    return Link(sent / max(large_s - small_s, 1e-9), small_s / (RING_PASSES["all_reduce"] * (world_size - 1)))
