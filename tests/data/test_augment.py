"""Augmentations and per-lead scalings: what they do, what they leave alone, what they depend on."""

import numpy as np
import pytest
import torch

from lamae.base.leads import LIMB_FROM_I_II
from lamae.data.batch import Batch
from lamae.data.config import SignalConfig
from lamae.data.transforms import SignalTransform
from lamae.sharding.format import NO_SAMPLE
from tests.shardsets import random_adc

GAIN = 200.0
NUM_RECORDS = 6
EVERYTHING = {"lead_dropout": 0.4, "seconds": 4.0}


def recordings(num_records: int = NUM_RECORDS) -> np.ndarray:
    """int16 ``[B, 12, 5000]`` whose limb leads follow from I and II to within rounding."""
    adc = random_adc(num_records).astype(np.float64)
    adc[:, :6] = np.einsum("ls,bst->blt", LIMB_FROM_I_II, adc[:, :2])
    return adc.round().clip(-5000, 5000).astype(np.int16)


def batch_of(adc: np.ndarray, *, epoch: int = 0) -> Batch:
    num_records = len(adc)
    missing = adc == NO_SAMPLE
    return Batch(
        adc=torch.from_numpy(adc),
        gain=torch.full((num_records, 12), GAIN),
        baseline=torch.zeros(num_records, 12),
        lead_mask=torch.from_numpy(~missing.all(-1)),
        row=torch.arange(num_records),
        epoch=torch.full((num_records,), epoch),
        samples_consumed=0,
        may_miss_samples=torch.from_numpy(missing.any(-1).any(-1)),
    )


def signal_of(batch: Batch, *, seed: int = 0, train: bool = True, **config):
    config = {"rate_hz": 100, "scale_mv": 1.0, "clip_mv": 0.0, **config}
    return SignalTransform(SignalConfig(**config), source_rate_hz=500, num_samples=5000)(batch, seed=seed, train=train)


def test_augmentations_depend_on_seed_epoch_and_record_alone():
    adc = recordings()
    signal = signal_of(batch_of(adc), **EVERYTHING)
    again = signal_of(batch_of(adc), **EVERYTHING)
    assert torch.equal(signal.x_BLT, again.x_BLT)
    for record, part in enumerate(batch_of(adc).micro_batches(NUM_RECORDS)):
        alone = signal_of(part, **EVERYTHING)
        torch.testing.assert_close(alone.x_BLT[0], signal.x_BLT[record], atol=1e-5, rtol=0)
        assert torch.equal(alone.lead_mask_BL[0], signal.lead_mask_BL[record])
    for other in (signal_of(batch_of(adc), seed=1, **EVERYTHING), signal_of(batch_of(adc, epoch=1), **EVERYTHING)):
        assert (other.x_BLT - signal.x_BLT).abs().mean() > 0.05


def test_evaluation_knows_no_augmentation():
    adc = recordings()
    config = {**EVERYTHING, "seconds": 0.0}
    signal = signal_of(batch_of(adc), train=False, **config)
    assert torch.equal(signal.x_BLT, signal_of(batch_of(adc), train=False).x_BLT)
    assert signal.lead_mask_BL.all()


def test_dropped_leads_look_missing_and_one_always_stays():
    adc = recordings(40)
    adc[:10, 1:] = NO_SAMPLE  # ten records have lead I alone
    signal = signal_of(batch_of(adc), lead_dropout=0.9)
    assert torch.equal(signal.valid_BLT.any(-1), signal.lead_mask_BL)
    assert (signal.x_BLT[~signal.lead_mask_BL] == 0).all()
    assert signal.lead_mask_BL[:10, 0].all()
    assert not signal.lead_mask_BL[:10, 1:].any()
    assert (signal.lead_mask_BL.sum(1) >= 1).all()
    half = signal_of(batch_of(recordings(100)), lead_dropout=0.5)
    assert half.lead_mask_BL.float().mean() == pytest.approx(0.5, abs=0.05)


def test_per_lead_scaling_loses_amplitude():
    adc = recordings()
    adc[:, 8] += 400
    adc[2, 4, 1000:1500] = NO_SAMPLE
    adc[3, 5] = 7  # flat: stays finite
    signal = signal_of(batch_of(adc), scaling="lead_zscore")
    values = signal.x_BLT.masked_fill(~signal.valid_BLT, torch.nan)
    rms = values.square().nanmean(-1).sqrt()
    unit = torch.ones(NUM_RECORDS, 12, dtype=torch.bool)
    unit[3, 5] = False
    torch.testing.assert_close(rms[unit], torch.ones(int(unit.sum())), rtol=1e-4, atol=0)
    assert rms[3, 5] < 4
    assert values.nanmean(-1).abs().max() < 1e-4
    assert (signal.x_BLT[~signal.valid_BLT] == 0).all()
