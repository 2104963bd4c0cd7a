"""Cases of cross-lead attention and their check against float64, shared with the interpreted kernels' tests."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}


@dataclass(frozen=True)
class Case:
    """One kind of input."""

    num_leads: int
    head_dim: int
    mask: str = "none"
    """none, some (random), all (one group has no lead at all), shared (one per record, for all instants)."""
    layout: str = "packed"
    """packed; transposed (groups of instants read from lead-major memory); sliced (gaps between rows)."""
    heads: int = 2

    def __str__(self) -> str:
        return f"L{self.num_leads}-D{self.head_dim}-H{self.heads}-{self.mask}-{self.layout}"

    def make(self) -> tuple[Tensor, Tensor | None]:
        """float64 qkv ``[2, 3, L, 3, H, D]`` and its mask."""
        torch.manual_seed(self.num_leads * 1000 + self.head_dim)
        records, instants, L, H, D = 2, 3, self.num_leads, self.heads, self.head_dim
        if self.layout == "transposed":
            qkv = torch.randn(records, L, instants, 3, H, D, dtype=torch.float64).transpose(1, 2)
        elif self.layout == "sliced":
            qkv = torch.randn(records, instants, L, 3, H, 2 * D, dtype=torch.float64)[..., :D]
        else:
            qkv = torch.randn(records, instants, L, 3, H, D, dtype=torch.float64)
        mask = None
        if self.mask != "none":
            mask = torch.rand(records, 1 if self.mask == "shared" else instants, L) < 0.7
            mask[:, :, 0] = True
            if self.mask == "all":
                mask[0, 0] = False
        return qkv, mask


CASES = [
    *(Case(L, 32) for L in range(1, 17)),
    *(Case(L, D, mask) for L, D, mask in itertools.product((3, 12), (32, 48, 64), ("some", "all", "shared"))),
    *(Case(12, D, "some", layout) for D, layout in itertools.product((48, 64), ("transposed", "sliced"))),
    Case(12, 64, "all", "transposed", heads=3),
]


def reference(qkv: Tensor, mask: Tensor | None) -> Tensor:
    """Attention written out group by group, head by head."""
    out = torch.zeros_like(qkv.select(-3, 0))
    for g0, g1, head in itertools.product(*(range(qkv.shape[dim]) for dim in (0, 1, 4))):
        keep = torch.ones(qkv.shape[2], dtype=torch.bool) if mask is None else mask.expand(qkv.shape[:3])[g0, g1]
        q, k, v = qkv[g0, g1, :, :, head].unbind(1)
        if keep.any():
            scores = q @ k[keep].T / qkv.shape[-1] ** 0.5
            out[g0, g1, :, head] = scores.softmax(-1) @ v[keep]
    return out


def check_parity(attention: Callable[[Tensor, Tensor | None], Tensor], case: Case, dtype: torch.dtype) -> None:
    """Outputs and gradients within TOLERANCE of float64, relative to their largest value."""
    qkv, mask = case.make()
    # Rounded first, so that only the arithmetic is compared; copying must keep the layout under test.
    low = torch.empty_strided(qkv.shape, qkv.stride(), dtype=dtype).copy_(qkv).requires_grad_()
    high = low.detach().double().requires_grad_()
    weight = torch.randn(qkv.select(-3, 0).shape, dtype=dtype)
    actual, expected = attention(low, mask), reference(high, mask)
    assert actual.dtype == dtype
    assert actual.shape == expected.shape
    (actual_gradient,) = torch.autograd.grad(actual, low, weight)
    (expected_gradient,) = torch.autograd.grad(expected, high, weight.double())
    for got, wanted in ((actual, expected), (actual_gradient, expected_gradient)):
        error = (got.double() - wanted).abs().max() / wanted.abs().max().clamp(min=1e-9)
        assert error <= TOLERANCE[dtype], f"{case}: {error:.1e}"
