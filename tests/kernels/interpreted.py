"""The Triton kernels in Triton's interpreter; test_attention.py runs this file with TRITON_INTERPRET=1.

The interpreter truncates results to bfloat16 where hardware rounds them, which TOLERANCE still covers.
"""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lamae.kernels.eager import eager_attention
from lamae.kernels.triton_op import triton_attention
from tests.kernels.parity import CASES, Case, check_parity


@pytest.mark.parametrize("case", CASES, ids=str)
def test_forward_and_backward_match_float64(case: Case):
    check_parity(triton_attention, case, torch.float32)


@pytest.mark.parametrize("case", [c for c in CASES if c.mask != "none" or c.num_leads in (1, 12, 16)], ids=str)
def test_forward_and_backward_match_float64_in_bfloat16(case: Case):
    check_parity(triton_attention, case, torch.bfloat16)


@pytest.mark.parametrize("groups", [(), (5,), (2, 1, 3)])
def test_any_number_of_group_dimensions(groups: tuple[int, ...]):
    qkv = torch.randn(*groups, 4, 3, 2, 16)
    mask = torch.rand(*groups, 4) < 0.7
    torch.testing.assert_close(triton_attention(qkv, mask), eager_attention(qkv, mask))


def test_no_groups_at_all():
    qkv = torch.randn(0, 3, 12, 3, 2, 16, requires_grad=True)
    triton_attention(qkv).sum().backward()
    assert qkv.grad is not None
    assert qkv.grad.shape == qkv.shape


def test_output_and_gradient_keep_the_layout_of_the_projection():
    """Lead-major memory read as groups of instants: neither result may need a copy on its way back."""
    projected = torch.randn(2, 12, 5, 3, 2, 16, requires_grad=True)
    out = triton_attention(projected.transpose(1, 2))
    assert out.transpose(1, 2).is_contiguous()
    out.sum().backward()
    assert projected.grad is not None
    assert projected.grad.is_contiguous()


@pytest.mark.parametrize("mask", [None, torch.tensor([[[True, False, True]] * 2])])
def test_the_operator_is_registered_soundly(mask):
    """Schema, autograd registration, fake tensors and compiled tracing, as PyTorch's own checker sees them."""
    qkv = torch.randn(1, 2, 3, 3, 1, 16, requires_grad=True)
    torch.library.opcheck(torch.ops.lamae.cross_lead_attention, (qkv, mask))
    transposed = torch.randn(1, 3, 2, 3, 1, 16).transpose(1, 2).requires_grad_()
    torch.library.opcheck(torch.ops.lamae.cross_lead_attention, (transposed, mask))


def test_gradients_match_finite_differences():
    qkv = torch.randn(1, 2, 3, 3, 1, 16, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[[True, False, True], [False, False, False]]])
    # The kernel sums in float32, so the steps are wide and the comparison is loose.
    assert torch.autograd.gradcheck(
        lambda x: triton_attention(x.float(), mask).double(), qkv, eps=1e-2, atol=1e-3, rtol=1e-2, fast_mode=True
    )


def test_its_arithmetic_counts_as_eagers():
    counts = []
    for attention in (eager_attention, triton_attention):
        qkv = torch.randn(3, 2, 12, 3, 2, 16, requires_grad=True)
        with FlopCounterMode(display=False) as counter:
            attention(qkv, None).sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


def test_autocast_reaches_it_through_the_projection():
    projection = torch.nn.Linear(32, 96)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        qkv = projection(torch.randn(2, 1, 4, 32)).unflatten(-1, (3, 2, 16))
        out = triton_attention(qkv)
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert projection.weight.grad is not None
    assert projection.weight.grad.dtype == torch.float32


def test_it_survives_torch_compile():
    def layer(x: torch.Tensor) -> torch.Tensor:
        return triton_attention(x * 2).sum(-1)

    qkv = torch.randn(2, 2, 4, 3, 2, 16)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(qkv), layer(qkv))


def test_more_than_sixteen_leads_are_refused():
    with pytest.raises(ValueError, match="at most 16 leads"):
        triton_attention(torch.randn(1, 1, 17, 3, 1, 16))


def test_float64_is_refused_and_not_computed_in_float32():
    with pytest.raises(ValueError, match=r"sums in float32, not in float64; use model\.attention=eager"):
        triton_attention(torch.randn(1, 1, 12, 3, 1, 16, dtype=torch.float64))
