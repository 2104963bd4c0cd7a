"""Training steps beside the machine's matrix-product peak: how much of the peak a whole step reaches, and where the
rest goes.

A step is masks, forward, backward, clipping and a fused AdamW on float32 master weights, on synthetic signal that is
already in memory. Utilisation (mfu) is the model's analytic arithmetic per second over the rate of a large square
matrix product, timed in the same process, round by round.
"""

import gc
import resource
import statistics
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.timing import Ratio, Timing, ratio_entries, time_side_by_side
from lamae.config import RunConfig, load
from lamae.model import build_model
from lamae.model.flops import count_flops
from lamae.model.masking import draw_mask
from sharding.leads import NUM_LEADS
from sharding.progress import Progress, ignore

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
RECORD_SECONDS = 10
PEAK_SIZE = 2048

# What the profiler's operations belong to; the first match counts.
GROUPS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::linear"),
    "attention": ("aten::bmm", "aten::baddbmm", "softmax", "scaled_dot_product", "lamae::"),
    "norm": ("layer_norm",),
    "gelu": ("gelu",),
    "optimiser": ("_fused_adamw_", "_foreach", "linalg_vector_norm"),
}


class TrainingStep:
    """Everything of one optimiser step but reading data."""

    def __init__(self, config: RunConfig, *, dtype: torch.dtype, batch_size: int, device: str) -> None:
        torch.manual_seed(0)
        self.config = config
        self.num_samples = config.signal.rate_hz * RECORD_SECONDS
        self.master = build_model(config.model, config.mask, num_samples=self.num_samples).to(device)
        self.model = self.master
        if dtype != torch.float32:
            self.model = build_model(config.model, config.mask, num_samples=self.num_samples).to(device, dtype)
            self.model.load_state_dict(self.master.state_dict())
        self.optimizer = torch.optim.AdamW(self.master.parameters(), lr=1e-4, weight_decay=0.05, fused=True)
        self.x_BLT = torch.randn(batch_size, NUM_LEADS, self.num_samples, device=device)
        self.valid_BLT = torch.ones_like(self.x_BLT, dtype=torch.bool)
        self.lead_mask_BL = torch.ones(batch_size, NUM_LEADS, dtype=torch.bool, device=device)
        self.row_B = torch.arange(batch_size, device=device)
        self.flops = count_flops(config.model, config.mask, num_samples=self.num_samples).training * batch_size

    def __call__(self) -> float:
        """One step; returns its arithmetic."""
        mask = draw_mask(
            self.config.mask,
            seed=0,
            epoch_B=torch.zeros_like(self.row_B),
            row_B=self.row_B,
            lead_mask_BL=self.lead_mask_BL,
            num_patches=self.num_samples // self.config.model.patch_size,
        )
        self.model(self.x_BLT, self.valid_BLT, self.lead_mask_BL, mask).loss.backward()
        self._hand_gradients_to_master()
        torch.nn.utils.clip_grad_norm_(self.master.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._hand_weights_to_model()
        _wait(self.x_BLT)
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
) -> dict[str, Any]:
    """Times steps of the named sizes; ``quick`` measures tiny and small with few records and repeats."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes = tuple(sizes or (("tiny", "small") if quick else ("tiny", "small", "base")))
    repeats = 2 if quick else 5
    ratios: dict[str, Ratio] = {}
    measurements: dict[str, Any] = {}
    for precision in precisions:
        peak = square_product(DTYPES[precision], device=device)
        for size in sizes:
            config = load(f"configs/pretrain/{size}.yaml", ["run.dir=unused", "data.path=unused"])
            batch_size = _batch_size(size, device=device, quick=quick)
            progress(f"{size} {precision}", 0, None)
            step = TrainingStep(config, dtype=DTYPES[precision], batch_size=batch_size, device=device)
            name = f"{size}_{precision}"
            timings = time_side_by_side({"step": step, "peak": peak}, repeats=repeats, progress=progress)
            ratios[f"mfu_{name}"] = Ratio.of(timings["step"], timings["peak"])
            measurements[name] = {
                **_describe(step, timings, batch_size=batch_size),
                "time_shares": time_shares(step),
            }
            del step
            gc.collect()
    return {
        "settings": {
            "device": device,
            "threads": torch.get_num_threads(),
            "record_seconds": RECORD_SECONDS,
            "peak": f"product of two {PEAK_SIZE} x {PEAK_SIZE} matrices",
            "optimizer": "fused AdamW on float32 master weights",
        },
        "measurements": measurements,
        **ratio_entries(ratios),
    }


def square_product(dtype: torch.dtype, *, device: str) -> Callable[[], float]:
    """A large matrix product, the yardstick of utilisation; returns its arithmetic."""
    a, b = (torch.randn(PEAK_SIZE, PEAK_SIZE, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    calls = 4

    def multiply() -> float:
        for _ in range(calls):
            torch.mm(a, b, out=out)
        _wait(out)
        return float(calls * 2 * PEAK_SIZE**3)

    return multiply


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


def _describe(step: TrainingStep, timings: dict[str, Timing], *, batch_size: int) -> dict[str, Any]:
    seconds = statistics.median(timings["step"].seconds)
    return {
        "records_per_s": batch_size / seconds,
        "step_s": {"median": seconds, "min": min(timings["step"].seconds), "max": max(timings["step"].seconds)},
        "batch_size": batch_size,
        "gflop_per_record": step.flops / batch_size / 1e9,
        "gflop_per_s": timings["step"].rate / 1e9,
        "peak_gflop_per_s": timings["peak"].rate / 1e9,
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
    return {"tiny": 32, "small": 2 if quick else 16, "base": 8}.get(size, 2)


def _wait(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize()
