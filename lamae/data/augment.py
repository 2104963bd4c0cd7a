"""Augmentations that leave an ECG a possible ECG: each is a pure function of (seed, epoch, record)."""

import torch

from lamae import keyed
from lamae.base.leads import NUM_LEADS


def drop_leads(
    lead_mask_BL: torch.Tensor, *, probability: float, seed: int, epoch: torch.Tensor, row: torch.Tensor
) -> torch.Tensor:
    """bool ``[B, 12]``: the leads that stay. Of those a record has, at least one does."""
    (key_B,) = keyed.record_keys(seed, epoch, row, purposes=[keyed.LEAD_DROPOUT])
    chance_BL = keyed.uniform(key_B, NUM_LEADS)
    luckiest_B = chance_BL.masked_fill(~lead_mask_BL, -1).argmax(1)
    stays_BL = (chance_BL >= probability).scatter(1, luckiest_B[:, None], True)
    return lead_mask_BL & stays_BL
