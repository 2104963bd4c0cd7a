"""From ADC units to the model's signal: physical values, validity, crops."""

import numpy as np
import pytest
import torch
from scipy.signal import resample_poly

from lamae.base.errors import UsageError
from lamae.data.config import SignalConfig
from lamae.data.reader import RecordReader
from lamae.data.resample import BLOCK, Decimator
from lamae.data.transforms import SignalTransform
from lamae.sharding.format import NO_SAMPLE, ShardSet
from lamae.sharding.lowpass import low_pass
from lamae.sharding.resample import resample
from tests.sharding.test_resample import recording
from tests.shardsets import random_adc, write_shard_set

GAIN, BASELINE = 200.0, 30


def batch_of(adc, tmp_path, **arguments):
    arguments = {"gain": GAIN, "baseline": BASELINE, **arguments}
    shard_set = ShardSet.open(write_shard_set(tmp_path / "set", adc, **arguments))
    return RecordReader(shard_set).read(np.arange(len(adc)))


def transform_of(num_samples=5000, **config):
    return SignalTransform(SignalConfig(**config), source_rate_hz=500, num_samples=num_samples)


@pytest.mark.parametrize(("rate_hz", "num_samples"), [(500, 5000), (250, 5000), (100, 5000), (100, 4999), (125, 777)])
def test_signal_is_millivolt_over_the_scale_resampled_as_by_scipy(tmp_path, rate_hz, num_samples):
    adc = random_adc(4, num_samples)
    signal = transform_of(num_samples, rate_hz=rate_hz, scale_mv=0.5, clip_mv=0)(
        batch_of(adc, tmp_path), seed=0, train=True
    )
    mv = (adc.astype(np.float64) - BASELINE) / GAIN
    factor = 500 // rate_hz
    expected = resample_poly(mv, 1, factor, axis=-1, padtype="edge", window=low_pass(1, factor)) / 0.5
    assert signal.x_BLT.dtype == torch.float32
    assert signal.x_BLT.shape == expected.shape
    # scipy pads with the record's edge values, then filters: the same at every sample, edges included.
    np.testing.assert_allclose(signal.x_BLT, expected, atol=2e-4)
    assert signal.valid_BLT.all()
    assert signal.lead_mask_BL.all()


def test_a_record_is_the_same_wherever_it_was_resampled():
    adc = random_adc(1, 5000)[0]
    adc[2, 1000:1010] = NO_SAMPLE
    packed = resample(recording(adc), 100.0).samples
    loaded = Decimator(5)(torch.from_numpy(np.where(adc == NO_SAMPLE, 0, adc)))
    touched = Decimator(5).touches(torch.from_numpy(adc == NO_SAMPLE)).numpy()
    np.testing.assert_array_equal(packed == NO_SAMPLE, touched)
    assert np.abs(packed - loaded.numpy())[~touched].max() <= 0.51  # packing rounds to whole ADC units


def test_decimation_keeps_the_ecg_band_and_removes_what_would_alias():
    time_s = np.arange(5000) / 500
    tones = torch.from_numpy(
        np.stack([np.sin(2 * np.pi * hz * time_s) for hz in (1, 10, 35, 65, 90)]).astype(np.float32)
    )
    rms = Decimator(5)(tones)[:, 50:-50].square().mean(-1).sqrt() * 2**0.5
    np.testing.assert_allclose(rms[:3], 1, atol=0.01)
    assert rms[3:].max() < 0.01


@pytest.mark.parametrize("num_samples", [1, 2, 5 * BLOCK - 1, 5 * BLOCK, 5 * BLOCK + 1, 5 * BLOCK + 6])
def test_decimation_of_a_constant_is_the_constant_at_any_length(num_samples):
    y = Decimator(5)(torch.full((3, num_samples), 7, dtype=torch.int16))
    assert y.shape == (3, -(-num_samples // 5))
    torch.testing.assert_close(y, torch.full_like(y, 7.0), atol=1e-4, rtol=0)


@pytest.mark.parametrize("place", [0, 50, 2000, 2003, 4949, 4999])
def test_a_missing_sample_invalidates_exactly_what_the_filter_mixes_it_into(tmp_path, place):
    adc = random_adc(3, 5000)
    clean = adc.copy()
    adc[1, 4, place] = NO_SAMPLE
    transform = transform_of(rate_hz=100, clip_mv=0)
    signal = transform(batch_of(adc, tmp_path), seed=0, train=False)
    invalid = ~signal.valid_BLT
    # Output j at sample 5j of the source sees as many samples to either side as the filter has taps there.
    reach = len(low_pass(1, 5)) // 2
    expected = torch.zeros(3, 12, 1000, dtype=torch.bool)
    expected[1, 4] = (torch.arange(1000) * 5 - place).abs() <= reach
    assert torch.equal(invalid, expected)
    assert (signal.x_BLT[invalid] == 0).all()
    # What is valid is what it would have been with the sample there.
    whole = transform(batch_of(clean, tmp_path / "clean"), seed=0, train=False)
    torch.testing.assert_close(signal.x_BLT[~invalid], whole.x_BLT[~invalid], atol=1e-5, rtol=0)


def test_missing_leads_are_zero_and_invalid(tmp_path):
    adc = random_adc(2, 500)
    adc[0, 3] = NO_SAMPLE
    lead_mask = np.ones((2, 12), dtype=bool)
    lead_mask[0, 3] = lead_mask[1, 8] = False  # one was not recorded, one is there but unusable
    signal = transform_of(500)(batch_of(adc, tmp_path, lead_mask=lead_mask), seed=0, train=False)
    assert torch.equal(signal.lead_mask_BL, torch.from_numpy(lead_mask))
    assert torch.equal(signal.valid_BLT.any(-1), signal.lead_mask_BL)
    assert torch.equal(signal.valid_BLT.all(-1), signal.lead_mask_BL)
    assert (signal.x_BLT[~signal.lead_mask_BL] == 0).all()


def test_clipping_is_in_millivolt(tmp_path):
    adc = np.full((1, 12, 100), 2000, dtype=np.int16)
    adc[0, 1] = -2000
    signal = transform_of(100, rate_hz=500, clip_mv=5.0, scale_mv=2.0)(
        batch_of(adc, tmp_path, baseline=0), seed=0, train=False
    )
    assert signal.x_BLT[0, 0, 0] == 2.5
    assert signal.x_BLT[0, 1, 0] == -2.5


def test_an_offset_beyond_the_clip_is_no_signal_under_scaling_by_lead(tmp_path):
    adc = random_adc(2, 1000) // 8
    adc[1, 4, 100:200] = NO_SAMPLE
    transform = transform_of(1000, rate_hz=500, scaling="lead_zscore", clip_mv=5.0)
    plain = transform(batch_of(adc, tmp_path, baseline=0), seed=0, train=False)
    lifted = np.where(adc == NO_SAMPLE, NO_SAMPLE, adc + np.int16(8 * GAIN))
    moved = transform(batch_of(lifted, tmp_path / "lifted", baseline=0), seed=0, train=False)
    assert np.abs(adc[adc != NO_SAMPLE]).max() / GAIN < 5
    torch.testing.assert_close(moved.x_BLT, plain.x_BLT, atol=1e-4, rtol=0)
    adc[0, 0, 500] = np.int16(30 * GAIN)  # a spike goes to 5 mV from the mean, and loses its weight
    spiked = transform(batch_of(adc, tmp_path / "spike", baseline=0), seed=0, train=False).x_BLT[0, 0]
    assert spiked[500] == spiked.max()
    mv = adc[0, 0] / GAIN
    clipped = mv.clip(mv.mean() - 5, mv.mean() + 5)
    np.testing.assert_allclose(spiked, (clipped - clipped.mean()) / clipped.std(), atol=1e-4)


def test_the_recording_is_left_as_it_was(tmp_path):
    adc = random_adc(2, 500)
    adc[0, 0, :9] = NO_SAMPLE
    batch = batch_of(adc, tmp_path)
    transform_of(500, rate_hz=500)(batch, seed=0, train=True)
    np.testing.assert_array_equal(batch.adc, adc)


def test_crops_depend_on_seed_epoch_and_record_alone(tmp_path):
    adc = random_adc(8, 5000)
    adc[5, :, 700:720] = NO_SAMPLE
    batch = batch_of(adc, tmp_path)
    crop, whole = transform_of(rate_hz=100, seconds=2.5), transform_of(rate_hz=100)
    assert crop.num_samples == 250
    full = whole(batch, seed=1, train=True)
    signal = crop(batch, seed=1, train=True)
    starts = []
    for record in range(8):
        stretches = full.x_BLT[record].unfold(-1, 250, 1)
        (start,) = (stretches == signal.x_BLT[record, :, None]).all(-1).all(0).nonzero().flatten().tolist()
        assert torch.equal(signal.valid_BLT[record], full.valid_BLT[record, :, start : start + 250])
        starts.append(start)
    assert len(set(starts)) > 5
    assert torch.equal(crop(batch, seed=1, train=True).x_BLT, signal.x_BLT)
    alone = crop(list(batch.micro_batches(8))[6], seed=1, train=True)
    torch.testing.assert_close(alone.x_BLT[0], signal.x_BLT[6], atol=1e-6, rtol=0)
    assert not torch.equal(crop(batch, seed=2, train=True).x_BLT, signal.x_BLT)
    batch.epoch += 1
    assert not torch.equal(crop(batch, seed=1, train=True).x_BLT, signal.x_BLT)
    middle = crop(batch, seed=1, train=False)
    assert torch.equal(middle.x_BLT, full.x_BLT[..., 375:625])


def test_crops_lie_within_what_was_recorded(tmp_path):
    adc = random_adc(5, 5000)
    adc[1, :, 2000:] = NO_SAMPLE  # 4 s of the 10
    adc[2, :, 900:] = NO_SAMPLE  # less than a crop
    adc[3, :, :3000] = NO_SAMPLE
    adc[4, :8, 2500:], adc[4, 8:, :2500] = NO_SAMPLE, NO_SAMPLE  # leads one after the other, as on paper
    batch = batch_of(adc, tmp_path)
    crop = transform_of(rate_hz=100, seconds=2.5)
    recorded = transform_of(rate_hz=100)(batch, seed=1, train=False).valid_BLT.any(1).sum(-1)
    middle = crop(batch, seed=1, train=False)
    for epoch in range(20):
        batch.epoch[:] = epoch
        for signal in (crop(batch, seed=1, train=True), middle):
            shown = signal.valid_BLT.any(1).sum(-1)
            assert shown[:2].tolist() == [250, 250]
            assert shown[2] == recorded[2] < 250, "all that there is"
            assert shown[3] == 250
    assert middle.valid_BLT[4].any()
    whole = transform_of(rate_hz=100)(batch, seed=1, train=False)
    stretches = whole.x_BLT[1].unfold(-1, 250, 1)
    (start,) = (stretches == middle.x_BLT[1, :, None]).all(-1).all(0).nonzero().flatten().tolist()
    assert abs(start - (recorded[1].item() - 250) // 2) <= 1, "the middle of what was recorded"


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"rate_hz": 240}, "signal.rate_hz=240"),
        ({"rate_hz": 1000}, "signal.rate_hz=1000"),
        ({"seconds": 1e-6}, "signal.seconds=1e-06"),
    ],
)
def test_what_cannot_work_is_refused_by_key(config, named):
    with pytest.raises(UsageError, match=named):
        transform_of(**config)
