"""Resampling: the documented passband and stopband, gaps that grow by the filter's support and no more."""

import numpy as np
import pytest
from scipy.signal import firwin, kaiserord

from lamae.base.errors import UsageError
from lamae.sharding import lowpass
from lamae.sharding.format import NO_SAMPLE, ShardSet
from lamae.sharding.pack import PackOptions, pack
from lamae.sharding.recording import Recording, RejectError
from lamae.sharding.resample import resample, resampled_length
from lamae.sharding.verify import verify
from tests.sharding.packing import rejects_of
from tests.sharding.wfdbtree import MIMIC_LEADS, plausible_signal, write_record


def recording(samples: np.ndarray, rate_hz: float = 500.0) -> Recording:
    return Recording(
        samples.astype(np.int16), np.full(12, 200.0), np.zeros(12, np.int16), np.ones(12, bool), rate_hz, None, True
    )


def sine(frequency_hz: float, *, rate_hz: float = 500.0, seconds: float = 10, offset: float = 3000) -> np.ndarray:
    time = np.arange(round(rate_hz * seconds)) / rate_hz
    return np.tile(offset + 20000 * np.sin(2 * np.pi * frequency_hz * time), (12, 1))


@pytest.mark.parametrize(("source_hz", "target_hz"), [(500, 250), (500, 100), (1000, 250), (360, 250), (100, 250)])
def test_passband_is_kept_and_what_would_alias_is_gone(source_hz, target_hz):
    nyquist = min(source_hz, target_hz) / 2
    for share in (0.1, 0.5, 0.79):
        kept = resample(recording(sine(share * nyquist, rate_hz=source_hz), source_hz), target_hz)
        expected = sine(share * nyquist, rate_hz=target_hz)
        assert kept.samples.shape == expected.shape
        middle = slice(target_hz, -target_hz)
        assert np.abs(kept.samples[:, middle] - expected[:, middle]).max() < 0.0015 * 20000
    if source_hz > target_hz:
        for share in (1.01, 1.5):
            gone = resample(recording(sine(share * nyquist, rate_hz=source_hz), source_hz), target_hz)
            assert np.abs(gone.samples[:, target_hz:-target_hz] - 3000.0).max() < 0.0015 * 20000


def test_an_offset_does_not_ring_at_the_ends():
    flat = resample(recording(np.full((12, 5000), -16000)), 250.0)
    assert (flat.samples == -16000).all()


def test_gaps_grow_by_the_support_of_the_filter_only():
    rng = np.random.default_rng(0)
    samples = rng.integers(-500, 500, (12, 5000))
    whole = resample(recording(samples), 250.0).samples
    samples[4, 2000:2010] = NO_SAMPLE
    samples[5] = NO_SAMPLE
    gappy = resample(recording(samples), 250.0).samples
    missing = gappy == NO_SAMPLE
    assert missing[5].all()
    assert not missing[[0, 1, 2, 3, 6, 7, 8, 9, 10, 11]].any()
    (where,) = np.nonzero(missing[4])
    assert where[0] < 1000 <= 1004 < where[-1]
    assert where[-1] - where[0] < 60
    np.testing.assert_array_equal(gappy[4][~missing[4]], whole[4][~missing[4]])


def test_rates_that_make_no_simple_fraction_are_rejected():
    with pytest.raises(RejectError, match="wrong_rate"):
        resample(recording(sine(1), 499.987), 250.0)


def test_a_shard_set_at_another_rate(tmp_path):
    for number, rate_hz in enumerate((500, 500, 1000, 250)):
        signal = plausible_signal(MIMIC_LEADS, num_samples=2 * rate_hz, seed=number)
        write_record(tmp_path / f"tree/r{number}", signal, rate_hz=rate_hz)
    write_record(tmp_path / "tree/short", plausible_signal(MIMIC_LEADS, num_samples=900))
    manifest = pack(tmp_path / "tree", tmp_path / "out", options=PackOptions(rate_hz=250.0))
    assert (manifest["rate_hz"], manifest["num_samples"], manifest["num_records"]) == (250.0, 500, 4)
    assert rejects_of(tmp_path / "out") == {"short": "wrong_length"}
    assert verify(tmp_path / "out").problems == []
    shard_set = ShardSet.open(tmp_path / "out")
    np.testing.assert_array_equal(shard_set.column("max_adc")[0], shard_set.read(0).max(axis=1))
    assert shard_set.read(3).shape == (12, 500)


def test_a_record_of_which_resampling_leaves_no_sample_is_rejected(tmp_path):
    signal = plausible_signal(MIMIC_LEADS, num_samples=5000, seed=1)
    write_record(tmp_path / "tree/whole", signal)
    signal[::40] = NO_SAMPLE
    write_record(tmp_path / "tree/gappy", signal)
    pack(tmp_path / "tree", tmp_path / "out", options=PackOptions(rate_hz=100.0))
    assert rejects_of(tmp_path / "out") == {"gappy": "no_usable_lead"}
    assert verify(tmp_path / "out").problems == []


def test_lengths_of_rates_that_are_no_whole_numbers_are_those_that_resampling_makes():
    for from_hz, to_hz, num_samples in ((1000 / 3, 100.0, 10_000), (333.333333, 100.0, 10_000), (257.0, 500.0, 2570)):
        made = resample(recording(np.zeros((12, num_samples)), from_hz), to_hz).samples.shape[1]
        assert resampled_length(num_samples, from_hz, to_hz) == made


def test_records_too_long_for_the_index_are_refused(tmp_path):
    write_record(tmp_path / "tree/holter", plausible_signal(MIMIC_LEADS, num_samples=70000))
    with pytest.raises(UsageError, match="70000 samples per lead"):
        pack(tmp_path / "tree", tmp_path / "out", options=PackOptions())


@pytest.mark.parametrize(("up", "down"), [(1, 2), (1, 5), (5, 4), (250, 257)])
def test_the_filter_is_the_one_that_scipy_designs_from_the_same_numbers(up, down):
    lower_nyquist = 1 / max(up, down)
    num_taps, beta = kaiserord(lowpass.STOPBAND_DB, (1 - lowpass.PASSBAND) * lower_nyquist)
    cutoff = (1 + lowpass.PASSBAND) / 2 * lower_nyquist
    np.testing.assert_array_equal(lowpass.low_pass(up, down), firwin(num_taps | 1, cutoff, window=("kaiser", beta)))
