"""Small models of every kind and mask, and records with all that may be missing in them."""

import dataclasses

import pytest
import torch

from lamae.model import PretrainModel, build_model
from lamae.model.config import MaskConfig, ModelConfig
from lamae.model.masking import Mask, draw_mask

SMALL = ModelConfig(patch_size=10, width=32, depth=2, heads=2, latent_depth=1, decoder_width=16, decoder_heads=2)
GRID = MaskConfig(kind="grid")
NUM_SAMPLES = 120
VARIANTS = {
    "lamae-aligned": (SMALL, GRID),
    "lamae-summary": (dataclasses.replace(SMALL, scope="summary"), GRID),
    "lamae-joint": (dataclasses.replace(SMALL, scope="joint"), GRID),
    "lamae-aligned-random": (SMALL, MaskConfig(kind="random")),
    "lamae-joint-random": (dataclasses.replace(SMALL, scope="joint"), MaskConfig(kind="random")),
    "independent": (dataclasses.replace(SMALL, kind="independent"), GRID),
    "lamae-aligned-mixed": (SMALL, MaskConfig(kind="mixed")),
    "lamae-aligned-lead": (SMALL, MaskConfig(kind="lead")),
    "mean-aligned": (dataclasses.replace(SMALL, kind="mean"), GRID),
    "mean-summary": (dataclasses.replace(SMALL, kind="mean", scope="summary"), GRID),
    "mean-joint": (dataclasses.replace(SMALL, kind="mean", scope="joint"), GRID),
    "joint": (dataclasses.replace(SMALL, kind="joint"), GRID),
    "aligned": (dataclasses.replace(SMALL, kind="aligned", match_parameters=True), GRID),
    "independent-random": (dataclasses.replace(SMALL, kind="independent"), MaskConfig(kind="random")),
}
all_variants = pytest.mark.parametrize("variant", VARIANTS)


@dataclasses.dataclass
class Records:
    x: torch.Tensor
    valid: torch.Tensor
    leads: torch.Tensor

    def __getitem__(self, rows: slice) -> "Records":
        return Records(self.x[rows], self.valid[rows], self.leads[rows])

    @property
    def tensors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.x, self.valid, self.leads


def make_records(num: int = 6, *, num_samples: int = NUM_SAMPLES) -> Records:
    """Records with all leads, with some, with one, with none; and samples, patches and leads that were not recorded."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(num, 12, num_samples, generator=generator)
    leads = torch.rand(num, 12, generator=generator) < 0.8
    leads[0], leads[1] = True, False
    leads[2] = torch.arange(12) == 7
    valid = (torch.rand(num, 12, num_samples, generator=generator) < 0.95) & leads[:, :, None]
    if num > 4:
        valid[4, :, :30] = False
        valid[4, 6:10, 50:60] = False
        valid[4, 1] = False
    return Records(torch.where(valid, x, 0.0), valid, leads)


def make_model(variant: str, *, dtype: torch.dtype = torch.float64) -> tuple[PretrainModel, MaskConfig]:
    config, mask = VARIANTS[variant]
    torch.manual_seed(0)
    model = build_model(config, mask, num_samples=NUM_SAMPLES)
    with torch.no_grad():  # a fresh pooling is a plain mean, which would hide mistakes in its weights
        for name, parameter in model.named_parameters():
            if name.endswith("query"):
                parameter.normal_()
    return model.to(dtype), mask


def make_mask(config: MaskConfig, records: Records, *, num_patches: int = NUM_SAMPLES // 10) -> Mask:
    row = torch.arange(len(records.x))
    return draw_mask(
        config, seed=0, epoch_B=torch.zeros_like(row), row_B=row, lead_mask_BL=records.leads, num_patches=num_patches
    )
