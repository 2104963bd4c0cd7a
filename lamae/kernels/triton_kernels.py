"""Triton kernels for attention among at most 16 leads, forward and backward.

One program serves ITEMS (group, head) pairs. Each pair is a tile of LP = 16 rows (the leads, padded) by DP columns
(the head, padded to a power of two), and all products are batched ``tl.dot`` over the items, so nothing is computed
across groups. A whole row of scores lies in one tile: softmax and its backward need no second pass and nothing is
saved but the inputs. docs/kernels.md has the arithmetic and the resources this takes.

UPCAST is true only under ``TRITON_INTERPRET=1``, whose ``tl.dot`` multiplies the bit patterns of bfloat16 and whose
casts to bfloat16 truncate.
"""

import triton
import triton.language as tl


@triton.jit
def _dot(a, b, UPCAST: tl.constexpr):
    """Batched product in ``b``'s precision, summed in float32."""
    if UPCAST:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    else:
        a = a.to(b.dtype)
    # float32 operands would otherwise be rounded to tf32.
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def _tile(
    num_items, L: tl.constexpr, LP: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, ITEMS: tl.constexpr
):  # fmt: skip
    """This program's items, leads and columns; which items exist, and which elements [ITEMS, LP, DP] are no padding."""
    item = tl.program_id(0).to(tl.int64) * ITEMS + tl.arange(0, ITEMS)
    leads = tl.arange(0, LP)
    columns = tl.arange(0, DP)
    is_item = item < num_items
    inside = is_item[:, None, None] & (leads < L)[None, :, None] & (columns < D)[None, None, :]
    return item, leads, columns, is_item, inside


@triton.jit
def _offsets(item, group_1, leads, columns, stride_g0, stride_g1, stride_l, stride_h, H: tl.constexpr):
    """Element offsets [ITEMS, LP, DP] of the items' tiles in a tensor [G0, G1, L, H, D] whose last stride is 1."""
    group, head = item // H, item % H
    start = (group // group_1) * stride_g0 + (group % group_1) * stride_g1 + head * stride_h
    return start[:, None, None] + leads[None, :, None] * stride_l + columns[None, None, :]


@triton.jit
def _present(
    MASK, item, is_item, group_1, leads, stride_g0, stride_g1, stride_l,
    H: tl.constexpr, L: tl.constexpr, HAS_MASK: tl.constexpr,
):  # fmt: skip
    """bool [ITEMS, LP]: leads that can be attended to."""
    present = is_item[:, None] & (leads < L)[None, :]
    if HAS_MASK:
        group = item // H
        start = (group // group_1) * stride_g0 + (group % group_1) * stride_g1
        mask = tl.load(MASK + start[:, None] + leads[None, :] * stride_l, mask=present, other=0)
        present = present & (mask != 0)
    return present


@triton.jit
def _weights(q, k, present, scale_log2e, UPCAST: tl.constexpr):
    """Softmax weights [ITEMS, LP, LP] in float32; rows are zero where no lead is present."""
    scores = _dot(q, tl.trans(k, 0, 2, 1), UPCAST) * scale_log2e
    scores = tl.where(present[:, None, :], scores, float("-inf"))
    highest = tl.max(scores, 2)
    highest = tl.where(highest == float("-inf"), 0.0, highest)
    powers = tl.exp2(scores - highest[:, :, None])
    total = tl.sum(powers, 2)
    return powers / tl.where(total == 0.0, 1.0, total)[:, :, None]


@triton.jit
def attention_forward(
    Q, K, V, OUT, MASK, scale_log2e, num_items, group_1,
    in_g0, in_g1, in_l, in_h, out_g0, out_g1, out_l, out_h, mask_g0, mask_g1, mask_l,
    H: tl.constexpr, L: tl.constexpr, LP: tl.constexpr, D: tl.constexpr, DP: tl.constexpr,
    ITEMS: tl.constexpr, HAS_MASK: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """OUT = softmax(Q K' scale) V for every item; Q, K and V share their strides."""
    item, leads, columns, is_item, inside = _tile(num_items, L, LP, D, DP, ITEMS)
    at = _offsets(item, group_1, leads, columns, in_g0, in_g1, in_l, in_h, H)
    q = tl.load(Q + at, mask=inside, other=0.0)
    k = tl.load(K + at, mask=inside, other=0.0)
    v = tl.load(V + at, mask=inside, other=0.0)
    present = _present(MASK, item, is_item, group_1, leads, mask_g0, mask_g1, mask_l, H, L, HAS_MASK)
    weights = _weights(q, k, present, scale_log2e, UPCAST)
    out = _dot(weights, v, UPCAST)
    out_at = _offsets(item, group_1, leads, columns, out_g0, out_g1, out_l, out_h, H)
    tl.store(OUT + out_at, out.to(OUT.dtype.element_ty), mask=inside)


@triton.jit
def attention_backward(
    Q, K, V, GRAD, DQ, DK, DV, MASK, scale, scale_log2e, num_items, group_1,
    in_g0, in_g1, in_l, in_h, grad_g0, grad_g1, grad_l, grad_h, d_g0, d_g1, d_l, d_h, mask_g0, mask_g1, mask_l,
    H: tl.constexpr, L: tl.constexpr, LP: tl.constexpr, D: tl.constexpr, DP: tl.constexpr,
    ITEMS: tl.constexpr, HAS_MASK: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Gradients of Q, K and V; the weights are computed again. Stores early to keep few tiles alive."""
    item, leads, columns, is_item, inside = _tile(num_items, L, LP, D, DP, ITEMS)
    at = _offsets(item, group_1, leads, columns, in_g0, in_g1, in_l, in_h, H)
    q = tl.load(Q + at, mask=inside, other=0.0)
    k = tl.load(K + at, mask=inside, other=0.0)
    present = _present(MASK, item, is_item, group_1, leads, mask_g0, mask_g1, mask_l, H, L, HAS_MASK)
    weights = _weights(q, k, present, scale_log2e, UPCAST)
    grad_at = _offsets(item, group_1, leads, columns, grad_g0, grad_g1, grad_l, grad_h, H)
    grad = tl.load(GRAD + grad_at, mask=inside, other=0.0)
    d_at = _offsets(item, group_1, leads, columns, d_g0, d_g1, d_l, d_h, H)
    dv = _dot(tl.trans(weights, 0, 2, 1), grad, UPCAST)
    tl.store(DV + d_at, dv.to(DV.dtype.element_ty), mask=inside)
    v = tl.load(V + at, mask=inside, other=0.0)
    d_weights = _dot(grad, tl.trans(v, 0, 2, 1), UPCAST)
    d_scores = weights * (d_weights - tl.sum(weights * d_weights, 2)[:, :, None]) * scale
    dq = _dot(d_scores, k, UPCAST)
    tl.store(DQ + d_at, dq.to(DQ.dtype.element_ty), mask=inside)
    dk = _dot(tl.trans(d_scores, 0, 2, 1), q, UPCAST)
    tl.store(DK + d_at, dk.to(DK.dtype.element_ty), mask=inside)
