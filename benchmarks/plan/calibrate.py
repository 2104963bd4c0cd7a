"""This machine as the planner sees one: rates of single operations, measured on one pinned thread per process.

Only parts are measured here, never a step: what is predicted from them can be wrong, and ``validate`` says by how much.
"""

import statistics
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.nn.functional as F

from benchmarks.plan.machine import Machine
from benchmarks.plan.trace import count_moved_bytes
from benchmarks.ranks import RankPool, Session

TOKENS = 2048
LARGE_BYTES = 32_000_000
REPEATS = 5


def measure_machine(pool: RankPool, *, width: int, mlp_ratio: float) -> Machine:
    """What the processes of a job reach when all of them work at once, in float32 operations of a model's width.

    They share memory bandwidth and power, so one process alone is another machine than one of two.
    """
    rates = pool.call(measure_device, width=width, hidden=round(width * mlp_ratio))
    latency_s, bytes_per_s = 0.0, float("inf")
    if pool.world_size > 1:
        latency_s, bytes_per_s = pool.call(measure_network)[0]
    memory_bytes_per_s = min(rate["memory"] for rate in rates)
    return Machine(
        name=f"this machine, {pool.world_size} processes of one thread",
        flops_per_s=min(rate["flops"] for rate in rates),
        memory_bytes=float("inf"),
        memory_bytes_per_s=memory_bytes_per_s,
        host_bytes_per_s=memory_bytes_per_s,
        launch_s=0.0,  # the processor that issues an operation carries it out
        devices_per_node=pool.world_size,
        node_bytes_per_s=bytes_per_s,
        node_latency_s=latency_s,
        network_bytes_per_s=bytes_per_s,
        network_latency_s=latency_s,
        storage_bytes_per_s=float("inf"),  # the steps that are compared read nothing
    )


def measure_device(session: Session, *, width: int, hidden: int) -> dict[str, float]:
    """Operations per second in an MLP's products, and bytes per second of what a block does beside them."""
    torch.set_num_threads(1)
    x = torch.randn(TOKENS, width, requires_grad=True)
    weight = torch.randn(hidden, width, requires_grad=True)
    wide = torch.randn(TOKENS, hidden, requires_grad=True)

    def products() -> None:
        y = F.linear(x, weight)
        torch.autograd.grad(y, [x, weight], wide.detach())

    def between_products() -> None:
        normed = F.layer_norm(x, (width,)) + x
        torch.autograd.grad(normed, x, x.detach())
        torch.autograd.grad(F.gelu(wide), wide, wide.detach())

    flops = 3 * 2 * TOKENS * width * hidden
    return {
        "flops": flops / _median_s(products),
        "memory": count_moved_bytes(between_products) / _median_s(between_products),
    }


def measure_network(session: Session) -> tuple[float, float]:
    """Seconds of latency and bytes per second of the planner's alpha-beta model, from all-reduces of two sizes."""
    small, large = torch.zeros(1), torch.zeros(LARGE_BYTES // 4)
    small_s = _median_s(lambda: dist.all_reduce(small))
    large_s = _median_s(lambda: dist.all_reduce(large))
    world_size = dist.get_world_size()
    latency_s = small_s / (2 * (world_size - 1))
    return latency_s, 2 * (world_size - 1) / world_size * LARGE_BYTES / max(large_s - small_s, 1e-9)


def _median_s(operation: Callable[[], object]) -> float:
    seconds = []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        operation()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])
