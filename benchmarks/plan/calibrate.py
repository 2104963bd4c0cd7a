"""This machine as the planner sees one: rates of single operations, measured on one pinned thread per process.

Only parts are measured here, never a step of a model that is predicted: what is predicted from them can be wrong, and
``validate`` says by how much. What DeepSpeed costs per parameter tensor comes from steps of a model of many tensors and
next to no arithmetic.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from lamae.base.leads import NUM_LEADS
from lamae.benchmarks.plan.hardware import FETCHED, PERSISTENT, HostCost
from lamae.benchmarks.plan.machine import Machine
from lamae.benchmarks.plan.network import RING_PASSES, collective_s
from lamae.benchmarks.plan.trace import Watch
from lamae.benchmarks.plan.traffic import step_traffic
from lamae.benchmarks.ranks import RankPool, Session
from lamae.benchmarks.rankstep import join
from lamae.kernels import cross_lead_attention
from lamae.train.config import EngineConfig, OptimConfig
from lamae.train.engine import Engine
from lamae.train.optimizer import build_optimizer
from lamae.train.schedule import BatchPlan

TOKENS = 2048
LARGE_BYTES = 64_000_000
STREAM_ELEMENTS = 16_000_000
REPEATS = 5
HOLLOW_LAYERS, HOLLOW_WIDTH = 64, 8


def measure_machine(pool: RankPool, *, width: int, heads: int, mlp_ratio: float) -> Machine:
    """What the processes of a job reach when all of them work at once, in float32 operations of a model's width.

    They share memory bandwidth and power, so one process alone is another machine than one of two. What DeepSpeed costs
    is left open: see ``measure_engine_host``.
    """
    rates = pool.call(measure_device, width=width, heads=heads, hidden=round(width * mlp_ratio))
    latency_s, bytes_per_s, passes = 0.0, float("inf"), RING_PASSES
    if pool.world_size > 1:
        latency_s, bytes_per_s, passes = pool.call(measure_network)[0]
    memory_bytes_per_s = min(rate["memory"] for rate in rates)
    return Machine(
        name=f"this machine, {pool.world_size} processes of one thread",
        flops_per_s=min(rate["flops"] for rate in rates),
        memory_bytes=float("inf"),
        memory_bytes_per_s=memory_bytes_per_s,
        stream_bytes_per_s=min(rate["stream"] for rate in rates),
        host_bytes_per_s=memory_bytes_per_s,
        launch_s=max(rate["operation"] for rate in rates),
        host_is_device=True,
        engine_host={},
        devices_per_node=pool.world_size,
        node_bytes_per_s=bytes_per_s,
        node_latency_s=latency_s,
        network_bytes_per_s=bytes_per_s,
        network_latency_s=latency_s,
        storage_bytes_per_s=float("inf"),  # the steps that are compared read nothing
        passes=passes,
    )


def measure_engine_host(
    pool: RankPool, machine: Machine, *, zero: Sequence[int], precision: str = "fp32"
) -> dict[tuple[str, int, str], HostCost]:
    """What a step takes longer under DeepSpeed at these stages, per parameter tensor, sending left out."""
    costs = {}
    for stage in zero:
        for kind in (PERSISTENT, FETCHED) if stage == 3 else (PERSISTENT,):
            first, both = (
                _engine_s(pool, machine, stage=stage, precision=precision, kind=kind, accumulation=accumulation)
                for accumulation in (1, 2)
            )
            num_tensors = 2 * HOLLOW_LAYERS
            costs[precision, stage, kind] = HostCost(first / num_tensors, max(both - first, 0.0) / num_tensors)
    return costs


def _engine_s(pool: RankPool, machine: Machine, *, stage: int, precision: str, kind: str, accumulation: int) -> float:
    took_s = max(pool.call(measure_engine, zero_stage=stage, precision=precision, kind=kind, accumulation=accumulation))
    if pool.world_size > 1:
        traffic = step_traffic(
            zero_stage=stage,
            precision=precision,
            num_parameters=HOLLOW_LAYERS * HOLLOW_WIDTH * (HOLLOW_WIDTH + 1),
            num_tensors=2 * HOLLOW_LAYERS,
            accumulation=accumulation,
            world_size=pool.world_size,
        )
        took_s -= sum(collective_s(one, machine.topology(pool.world_size)) for one in traffic)
    return max(took_s, 0.0)


class _Hollow(nn.Module):
    """Many parameters and next to no arithmetic."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Linear(HOLLOW_WIDTH, HOLLOW_WIDTH) for _ in range(HOLLOW_LAYERS)))

    def forward(self, x: Tensor) -> SimpleNamespace:
        y = self.layers(x)
        return SimpleNamespace(loss=y.mean(), loss_B=y, lead_weights_BL=y, parts={})


def measure_engine(session: Session, *, zero_stage: int, precision: str, kind: str, accumulation: int) -> float:
    """Seconds that a step of a hollow model takes longer under DeepSpeed than with torch alone."""
    join(session)
    optim, dtype = OptimConfig(), torch.float32 if precision == "fp32" else torch.bfloat16
    x = torch.ones(1, HOLLOW_WIDTH, dtype=dtype)
    plain = _Hollow().to(dtype)
    adamw = build_optimizer(plain, optim)

    def step_plain() -> None:
        for _ in range(accumulation):
            plain(x).loss.backward()
        nn.utils.clip_grad_norm_(plain.parameters(), optim.clip_norm)
        adamw.step()
        adamw.zero_grad()

    keeps = {} if kind == PERSISTENT else {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
    engine = Engine(
        _Hollow(),
        ranks=session["ranks"],
        engine=EngineConfig(zero_stage=zero_stage, precision=precision, deepspeed=keeps),
        optim=optim,
        plan=BatchPlan(world_size=session["ranks"].world_size, accumulation=accumulation, micro=1),
    )

    def step_engine() -> None:
        for index in range(accumulation):
            engine.backward(engine.forward(x).loss)
            engine.step(learning_rate=1e-5, weight_decay=0.05, last=index + 1 == accumulation)

    session["ranks"].barrier()
    more_s = _median_s(step_engine) - _median_s(step_plain)
    engine.close()
    return more_s


def measure_device(session: Session, *, width: int, heads: int, hidden: int) -> dict[str, float]:
    """Arithmetic per second in an MLP's products, bytes per second of what a block does beside them and of passes over
    arrays beyond the caches, and the seconds that an operation takes however small it is."""
    torch.set_num_threads(1)
    x = torch.randn(TOKENS, width, requires_grad=True)
    weight = torch.randn(hidden, width, requires_grad=True)
    wide = torch.randn(TOKENS, hidden, requires_grad=True)

    def products() -> None:
        y = F.linear(x, weight)
        torch.autograd.grad(y, [x, weight], wide.detach())

    qkv = torch.randn(TOKENS // NUM_LEADS, NUM_LEADS, 3, heads, width // heads, requires_grad=True)
    mask, out = torch.ones(qkv.shape[:2], dtype=torch.bool), qkv.detach()[:, :, 0]

    def between_products() -> None:
        normed = F.layer_norm(x, (width,)) + x
        torch.autograd.grad(normed, x, x.detach())
        torch.autograd.grad(F.gelu(wide), wide, wide.detach())
        attended = cross_lead_attention(qkv, mask, implementation="eager")
        torch.autograd.grad(attended, qkv, out)

    large, copy, small = torch.ones(STREAM_ELEMENTS), torch.ones(STREAM_ELEMENTS), torch.ones(8, requires_grad=True)

    def stream() -> None:
        copy.copy_(large)

    def many_small() -> None:
        y = small
        for _ in range(200):
            y = y * 1.0
        torch.autograd.grad(y, small, small.detach())

    with Watch() as of_pass:
        between_products()
    with Watch() as of_small:
        many_small()
    flops = 3 * 2 * TOKENS * width * hidden
    return {
        "flops": flops / _median_s(products),
        "memory": of_pass.moved_bytes / _median_s(between_products),
        "stream": 2 * 4 * STREAM_ELEMENTS / _median_s(stream),
        "operation": _median_s(many_small) / of_small.operations,
    }


def measure_network(session: Session) -> tuple[float, float, dict[str, float]]:
    """Latency (s) and rate (bytes/s) of the planner's alpha-beta model, and what collectives are worth in passes.

    From all-reduces of two sizes; the other collectives are set beside the large one.
    """
    join(session)
    world_size = dist.get_world_size()
    small = torch.zeros(1)
    large, part = torch.zeros(LARGE_BYTES // 4 // world_size * world_size), torch.zeros(LARGE_BYTES // 4 // world_size)
    small_s = _median_s(lambda: dist.all_reduce(small))
    seconds = {
        "all_reduce": _median_s(lambda: dist.all_reduce(large)),
        "all_gather": _median_s(lambda: dist.all_gather_into_tensor(large, part)),
        "reduce_scatter": _median_s(lambda: dist.reduce_scatter_tensor(part, large)),
        "reduce": _median_s(lambda: dist.reduce(large, 0)),
    }
    sending_s = {name: max(each - small_s, 1e-9) for name, each in seconds.items()}
    one_pass_s = sending_s["all_reduce"] / 2
    bytes_per_s = (world_size - 1) / world_size * large.nbytes / one_pass_s
    return small_s / (2 * (world_size - 1)), bytes_per_s, {name: each / one_pass_s for name, each in sending_s.items()}


def _median_s(operation: Callable[[], object]) -> float:
    seconds = []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        operation()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])
