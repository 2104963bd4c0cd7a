"""Which implementation of attention runs, and why."""

import functools
import importlib.util
import logging
import os
from collections.abc import Callable

import torch
from torch import Tensor

from lamae.kernels.eager import eager_attention
from lamae.kernels.sdpa import sdpa_attention
from lamae.kernels.tiles import MAX_HEAD_DIM, MAX_LEADS

log = logging.getLogger(__name__)

Attention = Callable[[Tensor, Tensor | None], Tensor]

IMPLEMENTATIONS = ("eager", "sdpa", "triton")
_CHECKED_GROUPS = 64
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 3e-2}


def cross_lead_attention(qkv: Tensor, lead_mask: Tensor | None = None, *, implementation: str | None = None) -> Tensor:
    """Attention among the leads of each group: very short sequences, very many of them.

    Args:
        qkv: ``[G…, L, 3, H, D]``: packed query, key and value of every lead, any strides.
        lead_mask: bool, broadcastable to ``[G…, L]``; False for a lead that is not there.
        implementation: one of IMPLEMENTATIONS, or None to choose by device: Triton on CUDA, eager elsewhere.

    Returns:
        ``[G…, L, H, D]``, zero in groups without any lead.

    The first time Triton is chosen (not asked for) for a kind of input it is compared with eager, outputs and
    gradients, on a piece of that very input; if they differ, eager takes its place and a warning says so. While
    torch.compile traces there is no input yet: the comparison is then made on noise of the same kind.
    """
    if implementation is None:
        if torch.compiler.is_compiling():
            implementation = _settle_for_compiler(
                str(qkv.device), qkv.dtype, tuple(qkv.shape[-4:]), lead_mask is not None
            )
        else:
            implementation = _settle(qkv, lead_mask)
    return _load(implementation)(qkv, lead_mask)


def sequence_attention(qkv: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention within longer sequences (the tokens of a lead, or of a record); arguments as above.

    SDPA on CUDA; eager on a CPU, where SDPA in bfloat16 is several times slower.
    """
    return (sdpa_attention if qkv.is_cuda else eager_attention)(qkv, mask)


def choose(*, device: str, dtype: torch.dtype, num_leads: int, head_dim: int) -> tuple[str, str]:
    """``(implementation, reason)`` for this kind of input."""
    if device != "cuda":
        return "eager", f"the fastest on {device}"
    if importlib.util.find_spec("triton") is None:
        return "sdpa", "triton is not installed"
    if dtype not in _TOLERANCE:
        return "eager", f"the Triton kernel does not compute in {dtype}"
    if num_leads > MAX_LEADS or head_dim > MAX_HEAD_DIM:
        return (
            "sdpa",
            f"{num_leads} leads of width {head_dim} exceed the Triton kernel's {MAX_LEADS} and {MAX_HEAD_DIM}",
        )
    return "triton", "short sequences on CUDA"


def disagreement(qkv: Tensor, lead_mask: Tensor | None, attention: Attention) -> float:
    """Largest error of ``attention`` and of its gradient against eager, relative to eager's largest value; NaN where
    either has one.
    """
    results = []
    # The first batch may be one of an evaluation, whose tensors cannot be differentiated: copies can.
    with torch.inference_mode(False), torch.enable_grad():
        mask = None if lead_mask is None else lead_mask.clone()
        for candidate in (eager_attention, attention):
            leaf = qkv.detach().clone(memory_format=torch.preserve_format).requires_grad_()
            out = candidate(leaf, mask)
            (gradient,) = torch.autograd.grad(out, leaf, out.detach() + 1)
            results.append((out.detach().float(), gradient.float()))
    expected, actual = results
    errors = [
        (a - e).abs().max() / e.abs().max().clamp(min=1e-6) for e, a in zip(expected, actual, strict=True) if e.numel()
    ]
    return float(torch.stack(errors).max()) if errors else 0.0  # NaN where any is, which Python's max may drop


def _settle(qkv: Tensor, lead_mask: Tensor | None) -> str:
    """The implementation for this input, checked where it needs to be and logged."""
    implementation, reason = choose(
        device=qkv.device.type, dtype=qkv.dtype, num_leads=qkv.shape[-4], head_dim=qkv.shape[-1]
    )
    if implementation == "triton":
        implementation, reason = _checked(qkv, lead_mask)
    _log_once(implementation, reason)
    return implementation


def _settle_for_compiler(device: str, dtype: torch.dtype, shape: tuple[int, ...], has_mask: bool) -> str:
    """As ``_settle``; run once while torch.compile traces, on noise ``[groups, 2, *shape]``."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(_CHECKED_GROUPS, 2, *shape, generator=generator).to(device, dtype)
    mask = (torch.rand(_CHECKED_GROUPS, 2, shape[0], generator=generator) < 0.8).to(device) if has_mask else None
    return _settle(noise, mask)


# All that torch.compiler.assume_constant_result does, but for importing the compiler: half of the time to start.
_settle_for_compiler._dynamo_marked_constant = True  # type: ignore[attr-defined]


_verdicts: dict[tuple[object, ...], tuple[str, str]] = {}


def _checked(qkv: Tensor, lead_mask: Tensor | None) -> tuple[str, str]:
    """The verdict on Triton for this kind of input; found on its first batch, then remembered for the process."""
    kind = (qkv.device, qkv.dtype, qkv.shape[-4:], lead_mask is None)
    if kind not in _verdicts:
        # Of the first group dimension only, so that the strides stay those of the real call.
        piece = qkv[:_CHECKED_GROUPS] if qkv.dim() > 4 else qkv
        mask_piece = lead_mask
        if lead_mask is not None and qkv.dim() > 4:
            mask_piece = lead_mask.expand(*qkv.shape[:-3])[:_CHECKED_GROUPS]
        _verdicts[kind] = compare_with_eager(piece, mask_piece, _load("triton"))
    return _verdicts[kind]


def compare_with_eager(qkv: Tensor, lead_mask: Tensor | None, attention: Attention) -> tuple[str, str]:
    """Triton if it agrees with eager on this input, otherwise eager, loudly."""
    tolerance = _TOLERANCE[qkv.dtype]
    try:
        error = disagreement(qkv, lead_mask, attention)
    except Exception as failure:  # whatever a compiler or driver raises, training goes on with the reference
        log.warning("cross-lead attention: Triton failed (%s: %s); using eager", type(failure).__name__, failure)
        return "eager", "Triton failed on the first batch"
    if error <= tolerance:  # False for NaN
        return "triton", f"short sequences on CUDA; agrees with eager within {error:.1e} on the first batch"
    log.warning("cross-lead attention: Triton differs from eager by %.1e (allowed %.0e); using eager", error, tolerance)
    return "eager", "Triton differed from eager on the first batch"


def _load(implementation: str) -> Attention:
    if implementation == "eager":
        return eager_attention
    if implementation == "sdpa":
        return sdpa_attention
    if implementation == "triton":
        return _load_triton()
    raise ValueError(f"attention implementation {implementation!r} is none of {', '.join(IMPLEMENTATIONS)}")


@functools.cache
def _load_triton() -> Attention:
    """Raises ValueError where the kernels cannot run at all."""
    if importlib.util.find_spec("triton") is None:
        raise ValueError("model.attention=triton needs the package triton; install it or use model.attention=auto")
    if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError("model.attention=triton needs a CUDA device; use model.attention=auto")
    from lamae.kernels.triton_op import triton_attention

    return triton_attention


@functools.cache
def _log_once(implementation: str, reason: str) -> None:
    log.info("cross-lead attention: %s (%s)", implementation, reason)
