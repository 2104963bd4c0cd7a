"""The Triton kernels as the PyTorch operator ``lamae::cross_lead_attention``.

Being registered, it is known to autograd, ``torch.compile`` (through its fake implementation) and FLOP counting.
"""

import math
import os

import torch
import triton
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from lamae.kernels.tiles import MAX_HEAD_DIM, MAX_LEADS, NUM_WARPS, choose_tile
from lamae.kernels.triton_kernels import attention_backward, attention_forward

_LOG2_E = math.log2(math.e)


def interpreting() -> bool:
    """Whether the kernels run in Triton's interpreter, on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def triton_attention(qkv: Tensor, lead_mask: Tensor | None = None) -> Tensor:
    """As ``cross_lead_attention``. L at most 16, D at most 128; float32 and narrower, since the sums are float32.

    Two group dimensions are read in place at any strides; more are flattened, which may copy.
    """
    groups = qkv.shape[:-4]
    if not 1 <= qkv.shape[-4] <= MAX_LEADS or qkv.shape[-1] > MAX_HEAD_DIM:
        raise ValueError(f"at most {MAX_LEADS} leads and head width {MAX_HEAD_DIM}, not {tuple(qkv.shape)}")
    if qkv.dtype == torch.float64:
        raise ValueError("the Triton kernel sums in float32, not in float64; use model.attention=eager or auto")
    if lead_mask is not None:
        lead_mask = lead_mask.expand(*groups, qkv.shape[-4])
    if len(groups) == 2:
        return torch.ops.lamae.cross_lead_attention(qkv, lead_mask)
    flat_mask = None if lead_mask is None else lead_mask.reshape(1, -1, lead_mask.shape[-1])
    out = torch.ops.lamae.cross_lead_attention(qkv.reshape(1, -1, *qkv.shape[-4:]), flat_mask)
    return out.view(*groups, *out.shape[2:])


@torch.library.custom_op("lamae::cross_lead_attention", mutates_args=())
def _forward(qkv: Tensor, lead_mask: Tensor | None) -> Tensor:
    """``qkv [G0, G1, L, 3, H, D]``, bool ``lead_mask [G0, G1, L]`` -> ``[G0, G1, L, H, D]``, laid out like ``qkv``."""
    qkv = _inner_contiguous(qkv)
    q, k, v = qkv.unbind(3)
    out = _dense_like(q)
    launch = _Launch(qkv, lead_mask)
    if launch.num_items:
        attention_forward[launch.grid](
            q, k, v, out, launch.mask, launch.scale * _LOG2_E, launch.num_items, qkv.shape[1],
            *_strides(q), *_strides(out), *launch.mask_strides, **launch.constants, num_warps=NUM_WARPS,
        )  # fmt: skip
    return out


@torch.library.custom_op("lamae::cross_lead_attention_backward", mutates_args=())
def _backward(grad: Tensor, qkv: Tensor, lead_mask: Tensor | None) -> Tensor:
    """Gradient of ``qkv``, dense and in its order of dimensions."""
    qkv, grad = _inner_contiguous(qkv), _inner_contiguous(grad)
    d_qkv = _dense_like(qkv)
    q, k, v = qkv.unbind(3)
    dq, dk, dv = d_qkv.unbind(3)
    launch = _Launch(qkv, lead_mask)
    if launch.num_items:
        attention_backward[launch.grid](
            q, k, v, grad, dq, dk, dv, launch.mask, launch.scale, launch.scale * _LOG2_E,
            launch.num_items, qkv.shape[1],
            *_strides(q), *_strides(grad), *_strides(dq), *launch.mask_strides,
            **launch.constants, num_warps=NUM_WARPS,
        )  # fmt: skip
    return d_qkv


class _Launch:
    """What forward and backward pass to the kernels alike."""

    def __init__(self, qkv: Tensor, lead_mask: Tensor | None) -> None:
        g0, g1, num_leads, _, heads, head_dim = qkv.shape
        tile = choose_tile(head_dim=head_dim, element_bytes=qkv.element_size())
        self.num_items = g0 * g1 * heads
        self.grid = (triton.cdiv(self.num_items, tile.items),)
        self.scale = head_dim**-0.5
        # Without a mask the pointer is never read; any tensor will do.
        self.mask = qkv if lead_mask is None else lead_mask.view(torch.uint8)
        self.mask_strides = (0, 0, 0) if lead_mask is None else lead_mask.stride()
        self.constants = tile.constants(
            num_leads=num_leads,
            heads=heads,
            head_dim=head_dim,
            has_mask=lead_mask is not None,
            upcast=interpreting(),
        )


def _strides(x_GGLHD: Tensor) -> tuple[int, ...]:
    return x_GGLHD.stride()[:-1]


def _inner_contiguous(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _dense_like(x: Tensor) -> Tensor:
    """Empty tensor of ``x``'s shape without gaps, its dimensions in memory ordered as in ``x``, the last innermost."""
    strides = x.stride()
    order = [*sorted(range(x.dim() - 1), key=lambda dim: (-strides[dim], dim)), x.dim() - 1]
    packed = x.new_empty([x.shape[dim] for dim in order])
    return packed.permute([order.index(dim) for dim in range(x.dim())])


@_forward.register_fake
def _(qkv: Tensor, lead_mask: Tensor | None) -> Tensor:
    return _dense_like(_inner_contiguous(qkv).select(3, 0))


@_backward.register_fake
def _(grad: Tensor, qkv: Tensor, lead_mask: Tensor | None) -> Tensor:
    return _dense_like(_inner_contiguous(qkv))


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx, grad):
    qkv, lead_mask = ctx.saved_tensors
    return torch.ops.lamae.cross_lead_attention_backward(grad, qkv, lead_mask), None


_forward.register_autograd(_differentiate, setup_context=_save)


# Two products forward and four backward, as in the eager implementation: that the kernel computes the scores a
# second time is not counted, so it cannot inflate a model's arithmetic.
@register_flop_formula(torch.ops.lamae.cross_lead_attention)
def _forward_flops(qkv_shape, mask_shape, *, out_shape=None, **_) -> int:
    g0, g1, num_leads, _three, heads, head_dim = qkv_shape
    return 4 * g0 * g1 * heads * num_leads**2 * head_dim


@register_flop_formula(torch.ops.lamae.cross_lead_attention_backward)
def _backward_flops(grad_shape, qkv_shape, mask_shape, *, out_shape=None, **_) -> int:
    return 2 * _forward_flops(qkv_shape, mask_shape)
