"""That the parts, put together, learn what the design says they can."""

import torch

from lamae.base.leads import NUM_LEADS
from lamae.model import build_model
from lamae.model.config import MaskConfig, ModelConfig
from lamae.model.masking import Mask, draw_mask

CONFIG = ModelConfig(
    patch_size=8,
    width=32,
    depth=1,
    heads=2,
    mlp_ratio=2.0,
    latent_depth=1,
    decoder_width=32,
    decoder_depth=1,
    decoder_heads=2,
)
MASK = MaskConfig(kind="grid", limb_tied=False, hidden_leads=4, record_only_share=0.0)
NUM_SAMPLES = 64


def draw_hearts(num: int, generator: torch.Generator) -> torch.Tensor:
    """Leads that are fixed projections of two random walks: every lead follows from two others, none from the past."""
    walk = torch.randn(num, 2, NUM_SAMPLES, generator=generator).cumsum(-1) / 4
    angle = torch.arange(NUM_LEADS) * torch.pi / NUM_LEADS
    return torch.stack([angle.cos(), angle.sin()], dim=1) @ walk


def draw(x: torch.Tensor, epoch: int) -> tuple[torch.Tensor, torch.Tensor, Mask]:
    leads = torch.ones(x.shape[:2], dtype=torch.bool)
    row = torch.arange(len(x))
    mask = draw_mask(
        MASK,
        seed=0,
        epoch_B=torch.full_like(row, epoch),
        row_B=row,
        lead_mask_BL=leads,
        num_patches=NUM_SAMPLES // CONFIG.patch_size,
    )
    return torch.ones_like(x, dtype=torch.bool), leads, mask


def test_hidden_leads_are_inferred_from_the_others_at_the_same_instant():
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    model = build_model(CONFIG, MASK, num_samples=NUM_SAMPLES)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for step in range(120):
        x = draw_hearts(64, generator)
        optimizer.zero_grad()
        model(x, *draw(x, step)).loss.backward()
        optimizer.step()
    x = draw_hearts(64, generator)
    valid, leads, mask = draw(x, 1000)
    y, _ = model.reconstruct(x, valid, leads, mask)
    hidden_lead_BL1 = ~mask.visible_lead_BL[:, :, None]
    shown_BN = torch.zeros_like(mask.hidden_BLN[:, 0]).scatter(1, mask.patch_BVS[:, 0], True)
    at = hidden_lead_BL1 & shown_BN.repeat_interleave(CONFIG.patch_size, dim=1)[:, None]
    # The zero predictor scores 1; without the other leads nothing better can be had.
    assert ((y - x)[at].square().mean() / x[at].square().mean()).item() < 0.6
