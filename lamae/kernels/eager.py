"""Attention in plain tensor operations: the reference of every other implementation, and the default on a CPU."""

import torch
from torch import Tensor


def eager_attention(qkv: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention over the sequence axis L of a packed projection.

    Args:
        qkv: ``[G…, L, 3, H, D]``, any strides.
        mask: bool, broadcastable to ``[G…, L]``; False keeps a position from being attended to.

    Returns:
        ``[G…, L, H, D]`` in ``qkv``'s dtype, zero where nothing can be attended to. PyTorch's
        softmax sums in float32 or better whatever the dtype.
    """
    q, k, v = (t.transpose(-3, -2) for t in qkv.unbind(-3))
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if mask is not None:
        # The lowest finite number, not -inf: a softmax over nothing but -inf is NaN, and its gradient stays NaN.
        scores = scores.masked_fill(~mask[..., None, None, :], torch.finfo(scores.dtype).min)
    weights = scores.softmax(-1)
    if mask is not None:
        weights = weights.masked_fill(~mask.any(-1)[..., None, None, None], 0.0)
    return (weights @ v).transpose(-3, -2)
