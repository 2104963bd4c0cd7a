"""The analytic count against PyTorch's own counter, which watches the operations of a real step."""

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lamae.model import build_model
from lamae.model.config import MaskConfig, ModelConfig
from lamae.model.flops import count_flops
from lamae.model.masking import draw_mask

BASE = ModelConfig(
    patch_size=20, width=48, depth=2, heads=3, latent_depth=2, decoder_width=32, decoder_depth=2, decoder_heads=2
)
GRID = MaskConfig()
CASES = {
    "aligned": (BASE, GRID),
    "summary": (dataclasses.replace(BASE, scope="summary"), GRID),
    "joint scope": (dataclasses.replace(BASE, scope="joint", mlp_ratio=2.0), GRID),
    "random": (BASE, MaskConfig(kind="random", ratio=0.75)),
    "lead": (BASE, MaskConfig(kind="lead", hidden_leads=5)),
    "mixed": (BASE, MaskConfig(kind="mixed", weights={"grid": 1, "time": 1, "random": 0})),
    "independent": (dataclasses.replace(BASE, kind="independent", match_parameters=True), GRID),
    "align": (dataclasses.replace(BASE, kind="aligned"), GRID),
    "mean": (dataclasses.replace(BASE, kind="mean"), GRID),
    "joint": (dataclasses.replace(BASE, kind="joint"), GRID),
}


@pytest.mark.parametrize("case", CASES)
def test_the_analytic_count_is_within_one_percent(case: str):
    config, mask_config = CASES[case]
    num_samples, num_records = 800, 3
    model = build_model(config, mask_config, num_samples=num_samples)
    x = torch.randn(num_records, 12, num_samples)
    leads = torch.ones(num_records, 12, dtype=torch.bool)
    row = torch.arange(num_records)
    mask = draw_mask(
        mask_config,
        seed=0,
        epoch_B=torch.zeros_like(row),
        row_B=row,
        lead_mask_BL=leads,
        num_patches=num_samples // config.patch_size,
    )
    flops = count_flops(config, mask_config, num_samples=num_samples)
    with FlopCounterMode(display=False) as forward:
        loss = model(x, torch.ones_like(x, dtype=torch.bool), leads, mask).loss
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    assert flops.forward * num_records == pytest.approx(forward.get_total_flops(), rel=0.01)
    total = forward.get_total_flops() + backward.get_total_flops()
    assert flops.training * num_records == pytest.approx(total, rel=0.01)
