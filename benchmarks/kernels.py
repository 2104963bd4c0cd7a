"""Attention among the leads, forward and backward, beside moving its bytes once: the floor of anything so small.

The floor is a copy of as many bytes as must be read and written: the packed projection in and the output out, then in
the backward the projection and the output's gradient in and the projection's gradient out. On a CPU the floor is a
tensor copy in the same process. GPU times need a GPU; without one the result says that they were not measured.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lamae.base.allocator import keep_freed_memory
from lamae.base.leads import NUM_LEADS
from lamae.base.progress import Progress, ignore
from lamae.benchmarks.step import TrainingStep
from lamae.benchmarks.synthetic import DTYPES, load_run, wait
from lamae.benchmarks.timing import Ratio, Timing, ratio_entries, time_side_by_side
from lamae.kernels import cross_lead_attention

HEADS, HEAD_DIM = 6, 64
# Tensors of [groups, 12, width] that have to move: 3 in and 1 out, then 3 + 1 in and 3 out.
FORWARD_TENSORS, BACKWARD_TENSORS = 4, 7


def run(*, quick: bool = False, progress: Progress = ignore) -> dict[str, Any]:
    """Times every implementation this machine has at the shapes of the size ``small``."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    keeps_memory = device == "cpu" and keep_freed_memory()  # as in training
    groups = {"cpu": 400 if quick else 1600, "cuda": 6400}[device]
    implementations = ("eager", "sdpa", "triton") if device == "cuda" else ("eager", "sdpa")
    default = "triton" if device == "cuda" else "eager"
    measurements: dict[str, Any] = {}
    ratios: dict[str, Ratio] = {}
    for precision, dtype in DTYPES.items():
        candidates: dict[str, Callable[[], float]] = {
            name: partial(_attend, *_inputs(groups, dtype, device), implementation=name) for name in implementations
        }
        candidates["copy floor"] = partial(_copy, _floor_source(groups, dtype, device))
        timings = time_side_by_side(candidates, repeats=3 if quick else 9, warmup=2, progress=progress)
        for name, timing in timings.items():
            measurements[f"{name} {precision}"] = timing.to_dict()
        others = [name for name in implementations if name != default]
        for name in others:
            ratios[f"{default}_vs_{name}_{precision}"] = Ratio.of(timings[default], timings[name])
        ratios[f"{default}_vs_copy_floor_{precision}"] = Ratio.of(timings[default], timings["copy floor"])
        share = _share_of_step(timings[default], dtype, device, groups=groups, quick=quick, progress=progress)
        ratios[f"share_of_small_step_{precision}"] = share
    return {
        "settings": {
            "device": device,
            "threads": torch.get_num_threads(),
            "keeps_freed_memory": keeps_memory,
            "shape": f"{groups} groups of {NUM_LEADS} leads, {HEADS} heads of {HEAD_DIM}",
            "bytes_moved_at_least": {
                name: (FORWARD_TENSORS + BACKWARD_TENSORS) * groups * NUM_LEADS * HEADS * HEAD_DIM * dtype.itemsize
                for name, dtype in DTYPES.items()
            },
        },
        "notes": [] if device == "cuda" else ["GPU times were not measured: no CUDA device"],
        "measurements": measurements,
        **ratio_entries(ratios),
    }


def _inputs(groups: int, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor, Tensor]:
    qkv = torch.randn(groups, NUM_LEADS, 3, HEADS, HEAD_DIM, device=device).to(dtype).requires_grad_()
    gradient = torch.randn(groups, NUM_LEADS, HEADS, HEAD_DIM, device=device).to(dtype)
    return qkv, gradient, torch.ones(groups, NUM_LEADS, dtype=torch.bool, device=device)


def _attend(qkv: Tensor, gradient: Tensor, mask: Tensor, *, implementation: str) -> float:
    out = cross_lead_attention(qkv, mask, implementation=implementation)
    torch.autograd.grad(out, qkv, gradient)
    wait(qkv)
    return float(qkv.shape[0])


def _floor_source(groups: int, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    """A copy reads and writes every byte, so half the bytes are copied."""
    tensors = FORWARD_TENSORS + BACKWARD_TENSORS
    source = torch.zeros(groups, tensors, NUM_LEADS * HEADS * HEAD_DIM // 2, dtype=dtype, device=device)
    return source, torch.empty_like(source)


def _copy(pair: tuple[Tensor, Tensor]) -> float:
    source, target = pair
    target.copy_(source)
    wait(target)
    return float(source.shape[0])


def _share_of_step(
    attention: Timing, dtype: torch.dtype, device: str, *, groups: int, quick: bool, progress: Progress
) -> Ratio:
    """Time of a step's cross-lead attention, scaled from ``attention``'s groups, over the time of the step."""
    config = load_run("small")
    batch_size = 64 if device == "cuda" else (2 if quick else 8)
    step = TrainingStep(config, dtype=dtype, batch_size=batch_size, device=device)
    repeats = len(attention.seconds)
    timed = time_side_by_side({"step": step}, repeats=repeats, progress=progress)["step"]
    shown = step.batch.num_patches * (1 - config.mask.ratio)
    in_step = batch_size * (1 + shown) * config.model.latent_depth / groups
    return Ratio(tuple(a * in_step / b for a, b in zip(attention.seconds, timed.seconds, strict=True)))
