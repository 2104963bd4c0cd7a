"""Augmentations that leave an ECG a possible ECG: each is a pure function of (seed, epoch, record).

Noise is drawn as electrode potentials and led through the definition of the twelve leads, so that III = II - I and
its kin hold afterwards as they did before; the gain is one factor for all leads of a record.

B records, L leads (12), E electrodes (9), T samples.
"""

import torch

from lamae import keyed
from lamae.base.leads import LIMB_FROM_I_II, NUM_LEADS
from lamae.data.config import SignalConfig

# What a record's random numbers are for; crops use 1.
_LEAD_DROPOUT, _GAIN, _NOISE = range(2, 5)


def _leads_from_electrodes() -> torch.Tensor:
    """float32 ``[12, 9]``: the leads as sums of the potentials at RA, LA, LL, V1..V6."""
    matrix = torch.zeros(NUM_LEADS, 9)
    lead_i_ii = torch.tensor([[-1.0, 1.0, 0.0], [-1.0, 0.0, 1.0]])
    matrix[:6, :3] = torch.from_numpy(LIMB_FROM_I_II).float() @ lead_i_ii
    matrix[6:, :3] = -1 / 3  # Wilson's central terminal
    matrix[6:, 3:] = torch.eye(6)
    return matrix


LEADS_FROM_ELECTRODES = _leads_from_electrodes()


def drop_leads(
    lead_mask_BL: torch.Tensor, *, probability: float, seed: int, epoch: torch.Tensor, row: torch.Tensor
) -> torch.Tensor:
    """bool ``[B, 12]``: the leads that stay. Of those a record has, at least one does."""
    (key_B,) = keyed.record_keys(seed, epoch, row, purposes=[_LEAD_DROPOUT])
    chance_BL = keyed.uniform(key_B, NUM_LEADS)
    luckiest_B = chance_BL.masked_fill(~lead_mask_BL, -1).argmax(1)
    stays_BL = (chance_BL >= probability).scatter(1, luckiest_B[:, None], True)
    return lead_mask_BL & stays_BL


def disturb(
    x_BLT: torch.Tensor, config: SignalConfig, *, seed: int, epoch: torch.Tensor, row: torch.Tensor
) -> torch.Tensor:
    """Millivolt ``[B, 12, T]`` with the gain and noise of ``config``."""
    batch, _, num_samples = x_BLT.shape
    gain_key_B, noise_key_B = keyed.record_keys(seed, epoch, row, purposes=[_GAIN, _NOISE])
    if config.gain_jitter > 0:
        x_BLT = x_BLT * torch.exp(config.gain_jitter * keyed.normal(gain_key_B, 1, 1))
    if config.noise_mv == 0:
        return x_BLT
    potential_BET = config.noise_mv * keyed.normal(noise_key_B, 9, num_samples)
    mixing = LEADS_FROM_ELECTRODES.to(x_BLT.device)
    with torch.autocast(x_BLT.device.type, enabled=False):
        return torch.baddbmm(x_BLT, mixing.expand(batch, -1, -1), potential_BET)
