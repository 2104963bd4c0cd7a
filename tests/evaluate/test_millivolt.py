"""What people hand to an exported model: millivolt in any container is taken, another unit or shape is not."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
import wfdb

from lamae.base.errors import UsageError
from lamae.base.leads import LEADS
from lamae.evaluate.embeddings.millivolt import to_adc
from lamae.evaluate.export.export import ExportedModel
from tests.evaluate.conftest import make_loaded

# Ordinary records, and some with large amplitudes, offsets, spikes, wander and saturation.
REAL = [
    "ptbxl_500hz_first500/records500/00000/*_hr",
    "ptbxl_100hz_first1000/records100/00000/00[57]*_lr",
    "ptbxl_zscored_100hz/records100/*/*131_lr",
    "challenge2025_code15_samitrop/1000*",
    "challenge2025_code15_samitrop/9194*",
    "challenge2025_code15_samitrop/1027*",
    "challenge2011_seta_subset/*4*2",
    "ludb/1*",
]


@pytest.fixture(scope="module")
def model(shard_set):
    loaded = make_loaded(shard_set)
    return ExportedModel(loaded.model, loaded.config.signal, loaded.num_samples, "cpu")


@pytest.fixture
def mv(shard_set):
    return shard_set.read(5) / 200


def embed(model, *arguments):
    """The record embedding, with every warning an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return model.embed(*arguments).record


@pytest.mark.parametrize("unit", ["µV", "200 per mV", "1000 per mV", "volt"])
def test_another_unit_is_refused(model, mv, unit):
    factor = {"µV": 1000, "200 per mV": 200, "1000 per mV": 1000, "volt": 1e-3}[unit]
    with pytest.raises(UsageError, match=r"give millivolt: microvolt / 1000, ADC units / gain, volt \* 1000"):
        model.embed(mv * factor, 100)
    with pytest.raises(UsageError, match="give millivolt"):
        model.embed(np.rint(np.stack([mv * factor] * 3) + 5000 * (factor > 1)), 100)


def test_a_tenth_of_a_millivolt_is_warned_of(model, mv):
    with pytest.warns(UserWarning, match=r"reaches \d+.*divide by 10") as caught:
        model.embed(mv * 10, 100)
    assert caught[0].filename == __file__


def test_one_record_beyond_any_ecg_is_named_and_the_others_are_embedded(model, mv):
    batch = np.stack([mv, mv * 1000, mv])
    with pytest.warns(UserWarning, match=r"record 1 of 3 \(1 in all\) is beyond any ECG"):
        found = model.embed(batch, 100).record
    np.testing.assert_allclose(found[[0, 2]], embed(model, batch[[0, 2]], 100), atol=1e-5)


def test_a_lead_far_from_zero_is_named_and_not_taken_for_signal(model, mv):
    shifted, gap = mv.copy(), mv.copy()
    shifted[8] += 80
    gap[8] = np.nan
    with pytest.warns(UserWarning, match=r"record 0, lead V3 \(1 in all\) lies beyond ±32 mV; subtract"):
        found = model.embed(shifted, 100).record
    np.testing.assert_allclose(found, embed(model, gap, 100), atol=1e-5)


@pytest.mark.parametrize("padding", [0, np.nan])
def test_a_record_of_which_all_leads_lie_far_from_zero_is_refused_with_the_remedy(model, mv, padding):
    padded = np.pad(mv + 40, ((0, 0), (0, 800)), constant_values=padding)
    for batch in (mv + 40, padded, np.stack([0 * mv, mv, mv + 40])):
        with pytest.raises(UsageError, match=r"record [02] of .* lies beyond ±32 mV; subtract each lead's median, or"):
            model.embed(batch, 100)


def test_a_record_of_flat_leads_is_called_flat_though_one_lies_far_from_zero(model, mv):
    flat = 0 * mv
    flat[8] = 80
    with pytest.raises(UsageError, match=r"has no sample in any lead, or only flat ones"):
        model.embed(flat, 100)
    flat[8] += mv[8]
    with pytest.raises(UsageError, match=r"lies beyond ±32 mV; subtract each lead's median, or"):
        model.embed(flat, 100)


@pytest.mark.parametrize("pattern", REAL)
def test_real_recordings_in_millivolt_raise_no_doubt_and_in_other_units_do(real_data, pattern):
    paths = sorted(real_data.glob(pattern + ".hea"))[:12]
    assert paths
    for path in paths:
        record = wfdb.rdrecord(str(path.with_suffix("")))
        signal, leads = record.p_signal.T, record.sig_name
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert to_adc(signal, leads, rate_hz=500)[1].any(), path
            for factor in (1000, 1 / 1000):
                with pytest.raises((UsageError, UserWarning), match="microvolt / 1000"):
                    to_adc(signal * factor, leads, rate_hz=500)


@pytest.mark.parametrize(
    "change",
    [
        lambda mv: mv.astype(np.float16),
        lambda mv: mv.astype(">f8"),
        lambda mv: mv.astype(np.longdouble),
        lambda mv: mv.tolist(),
        lambda mv: mv.astype(object),
        lambda mv: torch.tensor(mv, requires_grad=True),
        lambda mv: torch.tensor(mv).bfloat16(),
        lambda mv: pd.DataFrame(mv, index=LEADS),
        lambda mv: np.asfortranarray(mv)[:, ::1],
        lambda mv: np.rint(mv * 3).astype(np.int8),
        lambda mv: np.rint(mv * 3).astype(np.int16),
        lambda mv: torch.tensor(np.rint(mv * 3).astype(np.int32)),
    ],
)  # fmt: skip
def test_numbers_of_any_kind_are_what_they_are_as_float64(model, mv, change):
    given = change(mv)
    plain = given.detach().double().numpy() if isinstance(given, torch.Tensor) else np.array(given, dtype=np.float64)
    np.testing.assert_array_equal(embed(model, given, 100), embed(model, plain, 100))


def test_whole_numbers_of_16_bits_do_not_wrap_round():
    beats = np.zeros((12, 500), dtype=np.int16)
    beats[:, ::100] = 40
    np.testing.assert_array_equal(
        to_adc(beats, LEADS, rate_hz=100)[0], to_adc(beats.astype(float), LEADS, rate_hz=100)[0]
    )


def test_masked_samples_are_missing_and_zeros_and_flat_lines_are_leads_not_recorded(model, mv):
    gap, mask = mv.copy(), np.zeros(mv.shape, dtype=bool)
    gap[3] = np.nan
    gap[7, 40:60] = np.nan
    expected = embed(model, gap, 100)
    mask[np.isnan(gap)] = True
    filled = np.where(mask, 7.0, mv)
    np.testing.assert_array_equal(embed(model, np.ma.masked_array(filled, mask), 100), expected)
    np.testing.assert_array_equal(embed(model, list(np.ma.masked_array(filled, mask)), 100), expected)
    for value in (0.0, 1.5):
        flat = gap.copy()
        flat[3] = value
        np.testing.assert_array_equal(embed(model, flat, 100), expected)
    mostly = gap.copy()
    mostly[3, :200] = mv[3, :200]  # of 500
    np.testing.assert_array_equal(embed(model, mostly, 100), expected)


def test_what_an_archive_filled_up_with_zeros_is_no_sample(model, mv):
    """CODE-15 % has 7.3 s in the middle of 10.2."""
    filled, missing = mv.copy(), mv.copy()
    filled[:, :60] = filled[:, 420:] = 0
    missing[:, :60] = missing[:, 420:] = np.nan
    np.testing.assert_array_equal(embed(model, filled, 100), embed(model, missing, 100))
    short = mv.copy()
    short[:, :5] = 0
    assert (to_adc(short, LEADS, rate_hz=100)[0][:, :, :5] == 0).all(), "less than .1 s may be a flat line"
    most = np.zeros_like(mv)
    most[:, 200:320] = mv[:, 200:320]
    few = np.where(most == 0, np.nan, mv)
    np.testing.assert_array_equal(
        embed(model, few, 100), embed(model, most, 100), "the rules look at what was recorded"
    )


def test_the_signal_given_is_left_as_it_was(model, mv):
    given = mv.copy()
    given.setflags(write=False)
    embed(model, given, 100)
    np.testing.assert_array_equal(given, mv)


WAVE = np.sin(np.arange(12 * 500)).reshape(12, 500)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((WAVE.T, 100), r"shape \[500, 12\] does not fit 12 leads; it seems to be \[samples, leads\]: transpose it"),
        ((WAVE.T[None], 100), "transpose it"),
        ((WAVE[0], 100), r"shape \[500\] does not fit 12 leads; give \[leads, samples\]"),
        ((WAVE[0], 100, ["II"]), r"shape \[500\] does not fit 1 leads"),
        ((WAVE[None, None], 100), r"shape \[1, 1, 12, 500\]"),
        ((WAVE[None][:0], 100), r"shape \[0, 12, 500\] is empty"),
        ((WAVE[:, :0], 100), r"shape \[12, 0\] is empty"),
        ((WAVE > 0, 100), "bool is no real number"),
        ((WAVE + 1j, 100), "complex128 is no real number"),
        ((WAVE.astype(str), 100), "no array of numbers"),
        ((np.full((12, 500), None).tolist()[:1] + [["x"] * 500] * 11, 100), "no array of numbers"),
        (([[1.0, 2.0], [3.0]], 100), "no array of numbers"),
        ((None, 100), "no array of numbers|does not fit"),
        ((np.where(WAVE > 0.99, np.inf, WAVE), 100), "record 0, lead I: infinite; put NaN where there is no sample"),
        ((WAVE, "100"), "rate_hz=100 is no whole multiple"),
        ((WAVE, None), "rate_hz=None"),
        ((WAVE, -100), "rate_hz=-100"),
        ((WAVE, float("nan")), "rate_hz=nan"),
        ((WAVE, float("inf")), "rate_hz=inf"),
        ((WAVE, True), "rate_hz=True"),
        ((WAVE, 1e9), r"500 samples at rate_hz=1000000000.0 are 1 at the model's 100 Hz, less than one patch"),
        ((WAVE, 50), "rate_hz=50"),
        ((WAVE[:1], 100, "I"), "leads='I': name the rows in their order"),
        ((WAVE[:2], 100, {"I", "II"}), "name the rows in their order"),
        ((WAVE[:1], 100, [1]), "name the rows in their order"),
        ((WAVE[:0], 100, []), "name the rows in their order"),
        ((WAVE, 100, None), "name the rows in their order"),
        ((np.full((2, 12, 500), np.nan), 100), r"record 0 of 2 \(2 in all\) has no sample"),
        ((np.stack([WAVE, 0 * WAVE]), 100), r"record 1 of 2 \(1 in all\) has no sample in any lead, or only flat ones"),
    ],
)  # fmt: skip
def test_what_cannot_be_embedded_is_said_in_one_line(model, arguments, message):
    with pytest.raises(UsageError, match=message) as caught:
        model.embed(*arguments)
    assert "\n" not in str(caught.value)


def test_a_record_without_samples_in_the_middle_that_is_used_is_refused(model):
    longer = np.full((12, 2000), np.nan)
    longer[:, :700] = longer[:, 1300:] = np.sin(np.arange(700) / 7)
    with pytest.raises(UsageError, match="record 0 of 1"):
        model.embed(longer, 100)
