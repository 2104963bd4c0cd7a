"""Gradients in bfloat16 are as near to the exact ones as bfloat16 is, for every parameter."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from lamae.model import PretrainModel, build_model
from lamae.model.layers import LayerNorm, look_up
from lamae.model.masking import draw_mask
from lamae.train.runconfig import load

SIZES = ("tiny", "small", "base", "large")
# Relative, L2. The largest measured is .018: the pooling's query, whose gradient is made of differences between leads.
TENSOR_TOLERANCE = 0.025


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def relative_error(values: torch.Tensor, exact: torch.Tensor) -> float:
    return float((values.double() - exact.double()).norm() / exact.double().norm())


def gradients(model: PretrainModel, inputs: tuple[Any, ...]) -> dict[str, torch.Tensor]:
    model(*inputs).loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.fixture(scope="module")
def whole_batch() -> tuple[PretrainModel, tuple[Any, ...], dict[str, torch.Tensor]]:
    """`tiny` with weights that bfloat16 can hold, its global batch, and the float32 gradient."""
    run = load("tiny", ["run.dir=unused", "data.path=unused"])
    B, T = run.train.global_batch_size, 10 * run.signal.rate_hz
    torch.manual_seed(0)
    model = build_model(run.model, run.mask, num_samples=T).bfloat16().float()
    x_BLT = torch.randn(B, 12, T).cumsum(-1)
    x_BLT /= x_BLT.std(-1, keepdim=True)
    leads_BL, row_B = torch.ones(B, 12, dtype=torch.bool), torch.arange(B)
    num_patches = T // run.model.patch_size
    mask = draw_mask(run.mask, seed=0, epoch_B=0 * row_B, row_B=row_B, lead_mask_BL=leads_BL, num_patches=num_patches)
    inputs = x_BLT, torch.ones_like(x_BLT, dtype=torch.bool), leads_BL, mask
    return model, inputs, gradients(copy.deepcopy(model), inputs)


def test_every_gradient_of_a_whole_batch_is_right_in_bfloat16(whole_batch: Any, threads: int) -> None:
    model, inputs, exact = whole_batch
    rounded = gradients(copy.deepcopy(model).bfloat16(), inputs)
    errors = {name: relative_error(rounded[name], gradient) for name, gradient in exact.items()}
    assert {name: error for name, error in errors.items() if error > TENSOR_TOLERANCE} == {}


@pytest.mark.parametrize("size", SIZES)
def test_a_norm_sums_its_gradients_over_all_tokens_of_a_configured_batch(size: str, threads: int) -> None:
    """bfloat16 holds 8 bits: a sum kept in it stands still once it is 256 times as large as what a row adds."""
    run = load(size, ["run.dir=unused", "data.path=unused"])
    num_patches = 10 * run.signal.rate_hz // run.model.patch_size
    rows = run.train.micro_batch_size * 12 * num_patches
    width = 32  # of the model's, to be quick: columns are summed apart
    torch.manual_seed(0)
    norm = LayerNorm(width).bfloat16()
    x, gradient = torch.randn(rows, width).bfloat16().requires_grad_(), (torch.randn(rows, width) + 0.1).bfloat16()
    ours = torch.autograd.grad(norm(x), (x, norm.weight, norm.bias), gradient)
    wide = [t.detach().double().requires_grad_() for t in (x, norm.weight, norm.bias)]
    y = F.layer_norm(wide[0], (width,), wide[1], wide[2], norm.eps)
    for rounded, exact in zip(ours, torch.autograd.grad(y, wide, gradient.double()), strict=True):
        assert relative_error(rounded, exact) < 2**-8


@pytest.mark.parametrize("size", SIZES)
def test_what_is_learned_for_a_lead_gets_the_gradients_of_all_records(size: str, threads: int) -> None:
    B = load(size, ["run.dir=unused", "data.path=unused"]).train.micro_batch_size
    torch.manual_seed(0)
    lead_BL = torch.stack([torch.randperm(12) for _ in range(B)])
    table, gradient = torch.randn(12, 32).bfloat16().requires_grad_(), (torch.randn(B, 12, 32) + 0.3).bfloat16()
    found = look_up(table, lead_BL)
    assert torch.equal(found, table[lead_BL])
    exact = torch.zeros(12, 32).double().index_add_(0, lead_BL.flatten(), gradient.double().flatten(0, 1))
    assert relative_error(torch.autograd.grad(found, table, gradient)[0], exact) < 2**-8


def test_a_norm_computes_what_torchs_own_computes_and_names_its_weights_alike() -> None:
    ours, torchs = LayerNorm(16).bfloat16(), torch.nn.LayerNorm(16, eps=1e-6).bfloat16()
    ours.load_state_dict(torchs.state_dict())
    x = torch.randn(5, 3, 16).bfloat16()
    assert torch.equal(ours(x), torchs(x))
    assert torch.equal(ours.float()(x.float()), torchs.float()(x.float()))
