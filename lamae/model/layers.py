"""The parts every model is built from: transformer block, positions, pooling, and moving rows between layouts.

B batch, V slots for leads, S patches, K tokens of a lead (its summary, then its patches), D width, H heads.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Attend = Callable[[Tensor], Tensor]
"""Attention over some axis: packed ``[..., 3, H, D]`` (or values alone, ``[..., 1, H, D]``) to ``[..., H, D]``."""


def sums_narrowly(x: Tensor) -> bool:
    """Whether some of torch 2.13's gradients add up in ``x``'s own type: in bfloat16 on a CPU."""
    return x.is_cpu and x.element_size() < 4


class LayerNorm(nn.LayerNorm):
    """torch's, with gradients of weight and bias that are right in bfloat16 on a CPU too.

    torch 2.13 sums these over the rows with one running sum per thread in the input's type: in bfloat16 a sum stops
    growing when the next row is 1/256 of it.
    """

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        if sums_narrowly(x):
            return _NormInFloat32.apply(x, self.weight, self.bias, self.eps)
        return super().forward(x)


class _NormInFloat32(torch.autograd.Function):
    """Sums in float32 and keeps nothing but its input and the rows' means and deviations for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        y, mean, rstd = torch.native_layer_norm(x, weight.shape, weight.float(), bias.float(), eps)
        ctx.save_for_backward(x, mean, rstd, weight, bias)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, rstd, weight, bias = ctx.saved_tensors
        found = torch.ops.aten.native_layer_norm_backward(
            grads[0].float(), x.float(), weight.shape, mean, rstd, weight.float(), bias.float(), [True, True, True]
        )
        return found[0].to(x.dtype), found[1].to(weight.dtype), found[2].to(bias.dtype), None


class Block(nn.Module):
    """Pre-norm transformer block. It works token by token; ``attend`` alone decides which tokens see each other.

    With ``values_only`` there are no queries and keys: ``attend`` has to average. The products carry no bias: those of
    the norms before them serve, and on a CPU copying and summing biases took 8 % of a step.
    """

    def __init__(self, width: int, heads: int, mlp_ratio: float, *, values_only: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.packed = 1 if values_only else 3
        self.norm_attention = LayerNorm(width)
        self.qkv = linear(width, self.packed * width, bias=False)
        self.out = linear(width, width, bias=False)
        self.norm_mlp = LayerNorm(width)
        self.mlp_in = linear(width, round(width * mlp_ratio), bias=False)
        self.mlp_out = linear(round(width * mlp_ratio), width, bias=False)

    def forward(self, x: Tensor, attend: Attend) -> Tensor:
        qkv = self.qkv(self.norm_attention(x)).unflatten(-1, (self.packed, self.heads, -1))
        x = x + self.out(attend(qkv).flatten(-2))
        return x + self.mlp_out(F.gelu(self.mlp_in(self.norm_mlp(x))))


class AttentionPool(nn.Module):
    """Weighted mean over the leads; a learned query scores every lead's token. Starts as the plain mean."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(width))
        self.out = linear(width, width)

    def forward(self, z: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """``z [..., V, D]``, bool ``present [..., V]`` -> pooled ``[..., D]``, weights ``[..., V]`` (float32).

        Where no lead is present all weights are zero.
        """
        weights = masked_softmax((z @ self.query).float(), present)
        pooled = (weights.to(z.dtype).unsqueeze(-2) @ z).squeeze(-2)
        return self.out(pooled), weights


class MeanPool(nn.Module):
    """As AttentionPool, with the same weight for every present lead."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.out = linear(width, width)

    def forward(self, z: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        weights = equal_weights(present)
        return self.out((weights.to(z.dtype).unsqueeze(-2) @ z).squeeze(-2)), weights


def equal_weights(present: Tensor) -> Tensor:
    """float32: 1 over the number of present entries along the last axis, 0 for absent ones."""
    return present / present.sum(-1, keepdim=True).clamp(min=1)


def average_values(v: Tensor, mask: Tensor) -> Tensor:
    """What attention with equal weights would give: ``v [G…, L, 1, H, D]``, bool ``mask [G…, L]``."""
    weights = equal_weights(mask).to(v.dtype)
    mean = (weights[..., None, None] * v.squeeze(-3)).sum(-3, keepdim=True)
    return mean.expand_as(v.squeeze(-3))


def masked_softmax(scores: Tensor, keep: Tensor) -> Tensor:
    """Softmax over the last axis among entries to keep; zeros where there are none."""
    weights = scores.masked_fill(~keep, torch.finfo(scores.dtype).min).softmax(-1)
    return weights.masked_fill(~keep.any(-1, keepdim=True), 0.0)


def linear(width_in: int, width_out: int, *, bias: bool = True) -> nn.Linear:
    layer = nn.Linear(width_in, width_out, bias=bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def sincos_positions(count: int, width: int) -> Tensor:
    """float32 [count, width]: sines and cosines of geometrically spaced frequencies (Vaswani et al. 2017)."""
    frequency = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angle = torch.arange(count)[:, None] * frequency[None, :]
    return torch.cat([angle.sin(), angle.cos()], dim=1)


class Positions:
    """``sincos_positions`` on the device and in the type of a tensor: made once, since copying them waits for it."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._made: dict[tuple[object, ...], Tensor] = {}

    def __call__(self, count: int, like: Tensor) -> Tensor:
        """[count, width]."""
        key = count, like.device, like.dtype
        if key not in self._made:
            with torch.inference_mode(False):  # training may take what an embedding has made
                self._made[key] = sincos_positions(count, self._width).to(like)
        return self._made[key]


def look_up(table_RD: Tensor, index: Tensor) -> Tensor:
    """``table[index]``; by a product with zeros and ones where indexing would add up the rows' gradients narrowly."""
    if not (table_RD.requires_grad and sums_narrowly(table_RD)):
        return table_RD[index]
    return (index[..., None] == torch.arange(len(table_RD))).to(table_RD.dtype) @ table_RD


class _MoveRows(torch.autograd.Function):
    """Gather where each source row is used at most once, so that the backward is a gather too."""

    @staticmethod
    def forward(ctx: Any, source_BRD: Tensor, index_BQ: Tensor, inverse_BR: Tensor) -> Tensor:
        ctx.save_for_backward(index_BQ, inverse_BR)
        return _take_rows(source_BRD, index_BQ)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        _, inverse_BR = ctx.saved_tensors
        return _take_rows(grads[0], inverse_BR), None, None


def move_rows(source_BRD: Tensor, index_BQ: Tensor, inverse_BR: Tensor) -> Tensor:
    """Row ``index[b, q]`` of ``source[b]`` for every q, zeros where it is -1: [B, Q, D].

    ``inverse[b, r]`` is the q that row r went to, or -1; no row goes to two places.
    """
    return _MoveRows.apply(source_BRD, index_BQ, inverse_BR)


def _take_rows(source_BRD: Tensor, index_BQ: Tensor) -> Tensor:
    B, R, D = source_BRD.shape
    absent_BQ = index_BQ < 0
    offset_B1 = torch.arange(B, device=index_BQ.device)[:, None] * R
    flat = (index_BQ.clamp(min=0) + offset_B1).flatten()
    rows = source_BRD.reshape(B * R, D).index_select(0, flat).view(B, -1, D)
    return rows.masked_fill_(absent_BQ[:, :, None], 0)


def invert_rows(index_BQ: Tensor, num_rows: int) -> Tensor:
    """For every source row the q with ``index[b, q] == row``, or -1: int64 [B, num_rows]."""
    B, Q = index_BQ.shape
    inverse = index_BQ.new_full((B, num_rows + 1), -1)
    target = torch.where(index_BQ < 0, num_rows, index_BQ)
    return inverse.scatter_(1, target, torch.arange(Q, device=index_BQ.device).expand(B, Q))[:, :num_rows]
