"""The step that the benchmark times is a real one, and its arithmetic is the model's."""

import dataclasses

import pytest
import torch

from lamae.benchmarks.step import DTYPES, TrainingStep, time_shares
from lamae.model.config import ModelConfig
from lamae.model.flops import count_flops
from lamae.train.runconfig import RunConfig, load


def small_config() -> RunConfig:
    config = load("configs/pretrain/tiny.yaml", ["run.dir=unused", "data.path=unused"])
    model = ModelConfig(patch_size=100, width=16, depth=1, heads=2, latent_depth=1, decoder_width=16, decoder_heads=2)
    return dataclasses.replace(config, model=model)


@pytest.mark.parametrize("precision", DTYPES)
def test_a_step_trains_and_reports_its_arithmetic(precision: str):
    config = small_config()
    step = TrainingStep(config, dtype=DTYPES[precision], batch_size=2, device="cpu")
    before = [p.clone() for p in step.master.parameters()]
    assert step() == 2 * count_flops(config.model, config.mask, num_samples=1000).training
    assert all(not torch.equal(old, new) for old, new in zip(before, step.master.parameters(), strict=True))
    for wide, narrow in zip(step.master.parameters(), step.model.parameters(), strict=True):
        assert torch.equal(narrow, wide.to(DTYPES[precision]))


def test_time_shares_add_up_and_find_the_matrix_products():
    a = torch.randn(256, 256)
    shares = time_shares(lambda: float(torch.mm(a, a).sum()))
    assert sum(shares.values()) == pytest.approx(1, abs=0.001)
    assert shares["matrix products"] > 0
