"""Augmentations and per-lead scalings: what they do, what they leave alone, what they depend on."""

import numpy as np
import pytest
import torch

from lamae.base.leads import LIMB_FROM_I_II
from lamae.data.augment import LEADS_FROM_ELECTRODES
from lamae.data.batch import Batch
from lamae.data.config import SignalConfig
from lamae.data.transforms import SignalTransform
from lamae.sharding.format import NO_SAMPLE
from tests.shardsets import random_adc

GAIN = 200.0
NUM_RECORDS = 6
EVERYTHING = {"lead_dropout": 0.4, "gain_jitter": 0.2, "noise_mv": 0.05, "seconds": 4.0}


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


def difference(**config) -> torch.Tensor:
    """Millivolt that an augmentation adds."""
    batch = batch_of(recordings())
    return signal_of(batch, **config).x_BLT - signal_of(batch).x_BLT


def limb_violation(x_BLT: torch.Tensor) -> float:
    limb = torch.from_numpy(LIMB_FROM_I_II).float() @ x_BLT[:, :2]
    return float((limb - x_BLT[:, :6]).abs().max())


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


@pytest.mark.parametrize("config", [{"gain_jitter": 0.3}, {"noise_mv": 0.1}])
def test_limb_leads_still_determine_each_other(config):
    rounding = limb_violation(signal_of(batch_of(recordings())).x_BLT)
    assert difference(**config).abs().max() > 0.1
    assert limb_violation(signal_of(batch_of(recordings()), **config).x_BLT) < 3 * rounding


def test_chest_leads_are_measured_against_the_central_terminal():
    potentials = torch.tensor([0.3, -0.2, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    leads = LEADS_FROM_ELECTRODES @ potentials
    ra, la, ll = potentials[:3]
    torch.testing.assert_close(leads[:3], torch.stack([la - ra, ll - ra, ll - la]))
    torch.testing.assert_close(leads[3], ra - (la + ll) / 2)
    torch.testing.assert_close(leads[6:], potentials[3:] - (ra + la + ll) / 3)


def test_noise_is_white_and_of_the_given_size_at_each_electrode():
    noise = difference(noise_mv=0.1)
    # V1..V6 see their own electrode and a third of each limb electrode; I, II, III see two.
    assert noise[:, 6:].std() == pytest.approx(0.1 * (1 + 3 / 9) ** 0.5, rel=0.03)
    assert noise[:, :3].std() == pytest.approx(0.1 * 2**0.5, rel=0.03)
    spectrum = torch.fft.rfft(noise[:, 6:]).abs().square().mean((0, 1))
    assert spectrum[1:250].mean() / spectrum[250:500].mean() == pytest.approx(1, abs=0.15)


def test_gain_is_one_factor_for_all_leads_of_a_record():
    batch = batch_of(np.repeat(recordings(1), 200, axis=0))
    plain, scaled = signal_of(batch).x_BLT, signal_of(batch, gain_jitter=0.1).x_BLT
    factor = (scaled * plain).sum(-1) / plain.square().sum(-1)
    torch.testing.assert_close(factor, factor[:, :1].expand(-1, 12), rtol=1e-4, atol=0)
    assert factor[:, 0].log().std() == pytest.approx(0.1, rel=0.2)


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


@pytest.mark.parametrize("scaling", ["lead_rms", "lead_zscore"])
def test_per_lead_scalings_lose_amplitude(scaling):
    adc = recordings()
    adc[:, 8] += 400
    adc[2, 4, 1000:1500] = NO_SAMPLE
    adc[3, 5] = 7  # flat: stays finite
    signal = signal_of(batch_of(adc), scaling=scaling)
    values = signal.x_BLT.masked_fill(~signal.valid_BLT, torch.nan)
    rms = values.square().nanmean(-1).sqrt()
    unit = torch.ones(NUM_RECORDS, 12, dtype=torch.bool)
    unit[3, 5] = False
    torch.testing.assert_close(rms[unit], torch.ones(int(unit.sum())), rtol=1e-4, atol=0)
    assert rms[3, 5] < 4
    if scaling == "lead_zscore":
        assert values.nanmean(-1).abs().max() < 1e-4
    else:
        assert values[:, 8].nanmean(-1).abs().min() > 0.05
    assert (signal.x_BLT[~signal.valid_BLT] == 0).all()
