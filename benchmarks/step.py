"""Training steps beside the machine's matrix-product peak: how much of the peak a whole step reaches, and where the
rest goes.

A step is masks, forward, backward, clipping and a fused AdamW on float32 master weights, on synthetic signal that is
already in memory. Utilisation (mfu) is the model's analytic arithmetic per second over the rate of the fastest of
several matrix products (PEAK_SHAPES), timed in the same process, round by round. The ratios ``vs_square`` set the same
steps against a large square product, which is usually called the peak and on CPUs with tile registers is not.
"""

import gc
import os
import resource
import statistics
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from lamae.base.allocator import keep_freed_memory
from lamae.base.progress import Progress, ignore
from lamae.benchmarks.synthetic import (
    DTYPES,
    RECORD_SECONDS,
    SyntheticBatch,
    build_model_of,
    load_run,
    num_record_samples,
    wait,
)
from lamae.benchmarks.timing import Ratio, Timing, median_s, ratio_entries, time_side_by_side
from lamae.model.flops import count_flops
from lamae.train.blocks import compile_blocks
from lamae.train.optimizer import build_optimizer
from lamae.train.runconfig import RunConfig

SQUARE = (2048, 2048, 2048)
# (M, K, N) of [M, K] times [N, K] transposed: squares, and the widest products of ``small`` and ``base``.
PEAK_SHAPES = ((1024, 1024, 1024), SQUARE, (4096, 4096, 4096), (7344, 384, 1152), (7344, 384, 1536), (7344, 768, 3072))

# What the profiler's operations belong to; the first match counts.
GROUPS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::linear"),
    "attention": ("aten::bmm", "aten::baddbmm", "softmax", "scaled_dot_product", "lamae::"),
    "norm": ("layer_norm",),
    "gelu": ("gelu",),
    "optimiser": ("_fused_adamw_", "_foreach", "linalg_vector_norm", "aten::mul_"),
    "copies": ("aten::copy_", "aten::cat", "aten::index", "aten::gather", "aten::stack"),
    "sums": ("aten::add", "aten::sum"),
}


class TrainingStep:
    """Everything of one optimiser step but reading data."""

    def __init__(
        self, config: RunConfig, *, dtype: torch.dtype, batch_size: int, device: str, compiled: bool = False
    ) -> None:
        torch.manual_seed(0)
        self.master = build_model_of(config).to(device)
        self.model = self.master
        if dtype != torch.float32:
            self.model = build_model_of(config).to(device, dtype)
            self.model.load_state_dict(self.master.state_dict())
        if compiled:
            compile_blocks(self.model)
        self.optimizer, self.clip_norm = build_optimizer(self.master, config.optim), config.optim.clip_norm
        self.batch = SyntheticBatch(config, batch_size, device=device)
        flops = count_flops(config.model, config.mask, num_samples=num_record_samples(config))
        self.flops = flops.training * batch_size

    def __call__(self) -> float:
        """One step; returns its arithmetic."""
        self.model(*self.batch.inputs, self.batch.draw_mask()).loss.backward()
        self._hand_gradients_to_master()
        torch.nn.utils.clip_grad_norm_(self.master.parameters(), self.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._hand_weights_to_model()
        wait(self.batch.signal_BLT)
        return float(self.flops)

    @torch.no_grad()
    def _hand_gradients_to_master(self) -> None:
        if self.model is self.master:
            return
        for wide, narrow in zip(self.master.parameters(), self.model.parameters(), strict=True):
            wide.grad = None if narrow.grad is None else narrow.grad.float()
            narrow.grad = None

    @torch.no_grad()
    def _hand_weights_to_model(self) -> None:
        if self.model is not self.master:
            torch._foreach_copy_(list(self.model.parameters()), list(self.master.parameters()))


def run(
    *,
    quick: bool = False,
    progress: Progress = ignore,
    sizes: Iterable[str] | None = None,
    precisions: Iterable[str] = tuple(DTYPES),
    repeats: int | None = None,
    compiled: bool = False,
) -> dict[str, Any]:
    """Times steps of the named sizes; ``quick`` measures tiny and small with few records and repeats, ``compiled`` each
    step with ``train.compile=blocks`` beside itself."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    keeps_memory = device == "cpu" and keep_freed_memory()  # as in training
    sizes = tuple(sizes or (("tiny", "small") if quick else ("tiny", "small", "base")))
    ratios: dict[str, Ratio] = {}
    measurements: dict[str, Any] = {}
    products: dict[str, dict[str, float]] = {}
    for precision in precisions:
        products[precision] = product_rates(DTYPES[precision], device=device)
        fastest = max(PEAK_SHAPES, key=lambda shape: products[precision][_name(shape)])
        yardsticks = {
            "peak": product(fastest, DTYPES[precision], device=device),
            "square": product(SQUARE, DTYPES[precision], device=device),
        }
        for size in sizes:
            rounds = repeats or (2 if quick else (3 if size == "base" else 5))
            config = load_run(size)
            batch_size = _batch_size(size, device=device, quick=quick)
            progress(f"{size} {precision}", 0, None)
            steps = {
                f"{size}_{precision}{'_compiled' * is_compiled}": TrainingStep(
                    config, dtype=DTYPES[precision], batch_size=batch_size, device=device, compiled=is_compiled
                )
                for is_compiled in ((False, True) if compiled else (False,))
            }
            timings = time_side_by_side({**steps, **yardsticks}, repeats=rounds, progress=progress)
            for name, step in steps.items():
                ratios[f"mfu_{name}"] = Ratio.of(timings[name], timings["peak"])
                ratios[f"vs_square_{name}"] = Ratio.of(timings[name], timings["square"])
                described = _describe(step, timings[name], yardsticks=timings, batch_size=batch_size)
                measurements[name] = {**described, "time_shares": time_shares(step)}
            if compiled:
                ratios[f"compiled_vs_eager_{size}_{precision}"] = Ratio.of(*(timings[name] for name in reversed(steps)))
            del steps, step
            gc.collect()
    return {
        "settings": {
            "device": device,
            "threads": torch.get_num_threads(),
            "record_seconds": RECORD_SECONDS,
            "products_gflop_per_s": products,
            "mfu_is_over": "the fastest of products_gflop_per_s, timed again beside every step",
            "matrix_instructions": matrix_instructions(),
            "keeps_freed_memory": keeps_memory,
            "optimizer": "fused AdamW on float32 master weights",
        },
        "notes": [] if device == "cuda" else ["GPU times were not measured: no CUDA device"],
        "measurements": measurements,
        **ratio_entries(ratios),
    }


def product(shape: tuple[int, int, int], dtype: torch.dtype, *, device: str) -> Callable[[], float]:
    """``[M, K]`` times ``[N, K]`` transposed, the yardstick of utilisation; returns its arithmetic."""
    M, K, N = shape
    a, b = torch.randn(M, K, device=device).to(dtype), torch.randn(N, K, device=device).to(dtype)
    out = torch.empty(M, N, dtype=dtype, device=device)
    flops = 2 * M * K * N
    calls = min(max(1, round(5e10 / flops)), 32)

    def multiply() -> float:
        for _ in range(calls):
            torch.mm(a, b.t(), out=out)
        wait(out)
        return float(calls * flops)

    return multiply


def product_rates(dtype: torch.dtype, *, device: str) -> dict[str, float]:
    """GFLOP/s of every shape of PEAK_SHAPES: the median of three after two to warm up."""
    rates = {}
    for shape in PEAK_SHAPES:
        multiply = product(shape, dtype, device=device)
        rates[_name(shape)] = multiply() / median_s(multiply, 3) / 1e9
    return rates


def matrix_instructions() -> str:
    """What the CPU's bf16 products run on; ONEDNN_MAX_CPU_ISA may hold it back."""
    capabilities = torch.cpu.get_capabilities()
    best = next((name for name in ("amx_bf16", "avx512_bf16", "avx512_f", "avx2") if capabilities.get(name)), "none")
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA")
    return f"{best}, held to {limit}" if limit else best


def _name(shape: tuple[int, int, int]) -> str:
    return "x".join(map(str, shape))


def time_shares(step: Callable[[], float]) -> dict[str, float]:
    """Share of one step's time by kind of operation, from the profiler."""
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiled:
        step()
    spent = dict.fromkeys([*GROUPS, "everything else"], 0.0)
    for event in profiled.key_averages():
        spent[_group_of(event.key)] += event.self_device_time_total or event.self_cpu_time_total
    total = sum(spent.values())
    return {group: round(time / total, 4) for group, time in spent.items()}


def _group_of(operation: str) -> str:
    for group, names in GROUPS.items():
        if any(name in operation for name in names):
            return group
    return "everything else"


def _describe(
    step: TrainingStep, timing: Timing, *, yardsticks: Mapping[str, Timing], batch_size: int
) -> dict[str, Any]:
    seconds = statistics.median(timing.seconds)
    return {
        "records_per_s": batch_size / seconds,
        "step_s": {"median": seconds, "min": min(timing.seconds), "max": max(timing.seconds)},
        "batch_size": batch_size,
        "gflop_per_record": step.flops / batch_size / 1e9,
        "gflop_per_s": timing.rate / 1e9,
        "peak_gflop_per_s": yardsticks["peak"].rate / 1e9,
        "square_gflop_per_s": yardsticks["square"].rate / 1e9,
        "masks_share": median_s(step.batch.draw_mask, 3) / seconds,
        "parameters": sum(p.numel() for p in step.master.parameters()),
        "peak_memory_gib": _peak_memory_gib(),
    }


def _peak_memory_gib() -> float:
    """Of the process so far on a CPU, so the largest model yet; of the device on CUDA."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _batch_size(size: str, *, device: str, quick: bool) -> int:
    if device == "cuda":
        return {"tiny": 512, "small": 256, "base": 128}.get(size, 32)
    return {"tiny": 32, "small": 2 if quick else 32, "base": 8}.get(size, 2)
