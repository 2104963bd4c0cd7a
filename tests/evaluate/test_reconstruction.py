"""Errors are counted once, in the right situation, on the same samples for every predictor."""

import dataclasses

import numpy as np
import pytest
import torch

from lamae.evaluate.embeddings.inference import transform_for
from lamae.evaluate.reconstruct.reconstruction import (
    GROUPS,
    SITUATIONS,
    lead_moments,
    reconstruct_records,
    reconstruction_errors,
    situations,
)
from lamae.evaluate.reconstruct.trivial import LINEAR
from lamae.model.config import MaskConfig
from lamae.sharding.format import ShardSet
from tests.evaluate.conftest import RATE_HZ, make_loaded, waves
from tests.shardsets import random_adc, write_shard_set

HIDDEN_LEAD, HIDDEN_SPAN, HIDDEN_BOTH = SITUATIONS


class Oracle(torch.nn.Module):
    """Knows every hidden sample but is off by 0.5 in model units."""

    def reconstruct(self, x_BLT, valid_BLT, lead_mask_BL, mask):
        predicted = mask.hidden_BLN.repeat_interleave(x_BLT.shape[2] // mask.num_patches, dim=2)
        return x_BLT + 0.5 * predicted, predicted


def errors_of(model, loaded, shard_set, **options):
    loaded = dataclasses.replace(loaded, model=model)
    return reconstruction_errors(loaded, shard_set, shard_set.rows_of_split("test"), **options)


def test_situations_by_hand():
    visible = np.array([[[1, 1, 0, 0], [0, 0, 0, 0]]], dtype=bool)
    hidden = ~visible
    assert situations(hidden, visible).tolist() == [[[-1, -1, 1, 1], [0, 0, 2, 2]]]


def test_every_hidden_sample_is_counted_once_and_errors_are_in_millivolt(loaded, shard_set):
    errors = errors_of(Oracle(), loaded, shard_set)
    per_record = errors.count_MSL.sum((1, 2))
    assert (per_record > 0).all()
    for situation in SITUATIONS:
        for group in GROUPS:
            mse = errors.mse(situation, group)["model"]
            if np.isfinite(mse):
                assert mse == pytest.approx((0.5 * loaded.config.signal.scale_mv) ** 2)
    assert errors.unit == "mV"


def test_leads_that_mix_two_sources_are_solved_by_regression_not_by_trivial_means(loaded, shard_set):
    errors = errors_of(Oracle(), loaded, shard_set)
    mse = errors.mse(HIDDEN_LEAD, "V1-V6")
    assert mse[LINEAR] < 1e-3 * mse["zero"]
    assert mse["interpolation"] != mse["interpolation"], "a hidden lead has nothing to interpolate between"
    assert errors.best_trivial(HIDDEN_LEAD, "V1-V6")[0] in ("zero", "lead mean")
    spans = errors.mse(HIDDEN_SPAN, "V1-V6")
    assert spans[LINEAR] != spans[LINEAR], "no lead shows a hidden instant"
    assert spans["interpolation"] > 0


def test_limb_algebra_is_exact_where_two_limb_leads_show(loaded, shard_set):
    errors = errors_of(Oracle(), loaded, shard_set, mask=MaskConfig(kind="random", limb_tied=False, ratio=0.5))
    mse = errors.mse(HIDDEN_SPAN, "derived")
    assert mse["limb algebra"] < 0.5 * mse["lead mean"]


def test_same_masks_whatever_the_batch_and_only_what_a_model_predicts(loaded, shard_set):
    small, large = (errors_of(Oracle(), loaded, shard_set, batch_size=size) for size in (3, 32))
    np.testing.assert_array_equal(small.count_MSL, large.count_MSL)
    np.testing.assert_allclose(small.squared_MSLG, large.squared_MSLG, atol=1e-9)
    independent = make_loaded(shard_set, kind="independent")
    counts = errors_of(independent.model, independent, shard_set).count_MSL.sum((0, 2))
    assert counts[SITUATIONS.index(HIDDEN_LEAD)] == 0, "it is asked for no hidden lead"
    assert counts[SITUATIONS.index(HIDDEN_SPAN)] == small.count_MSL.sum((0, 2))[SITUATIONS.index(HIDDEN_SPAN)]


def test_ratio_of_an_oracle_is_small_with_its_interval(loaded, shard_set):
    ratio = errors_of(Oracle(), loaded, shard_set).ratio(HIDDEN_LEAD, "V1-V6")
    assert 0 < ratio.low <= ratio.value <= ratio.high < 0.2


def test_table_holds_plain_numbers_for_what_occurs(loaded, shard_set):
    table = errors_of(loaded.model, loaded, shard_set).table()
    assert {row["situation"] for row in table} == set(SITUATIONS)
    assert all(row["num_samples"] > 0 and row["unit"] == "mV²" for row in table)


def test_moments_of_a_pair_are_of_the_records_that_have_both_leads(loaded, tmp_path):
    adc, mask = random_adc(3, 500), np.ones((3, 12), dtype=bool)
    mask[1, 8] = mask[:, 11] = False
    shard_set = ShardSet.open(write_shard_set(tmp_path / "set", adc, rate_hz=RATE_HZ, lead_mask=mask))
    mean, covariance = lead_moments(shard_set, np.arange(3), transform=transform_for(loaded, shard_set))
    x_NLT = adc / 200 / loaded.config.signal.scale_mv
    every, with_8 = (np.concatenate(list(of_NLT), axis=1) for of_NLT in (x_NLT, x_NLT[[0, 2]]))
    np.testing.assert_allclose(mean[[0, 8]], [every[0].mean(), with_8[8].mean()], atol=1e-4)
    np.testing.assert_allclose(covariance[:8, :8], np.cov(every[:8], bias=True), atol=1e-2)
    assert covariance[8, 8] == pytest.approx(with_8[8].var(), rel=1e-3)
    shared = (with_8[0] - every[0].mean()) * (with_8[8] - with_8[8].mean())
    assert covariance[0, 8] == pytest.approx(shared.mean(), rel=1e-2)
    assert np.isnan(mean[11])
    np.testing.assert_allclose(covariance[11], 0, atol=1e-9)
    assert np.linalg.eigvalsh(covariance).min() > -1e-9


@pytest.mark.parametrize("missing_in", ["train", "all"])
def test_a_lead_that_no_training_record_has_is_regressed_neither_on_nor_for(loaded, tmp_path, missing_in):
    mask = np.ones((30, 12), dtype=bool)
    mask[: 20 if missing_in == "train" else 30, 11] = False
    path = write_shard_set(
        tmp_path / "set", waves(30, 500), rate_hz=RATE_HZ, lead_mask=mask, splits=["train"] * 20 + ["test"] * 10
    )
    errors = errors_of(Oracle(), loaded, ShardSet.open(path))
    others = errors.mse(HIDDEN_LEAD, "V5")
    assert others[LINEAR] < 1e-3 * others["zero"]
    v6 = errors.mse(HIDDEN_LEAD, "V6")
    assert np.isnan([v6[LINEAR], v6["lead mean"]]).all()
    assert np.isfinite(v6["zero"]) == (missing_in == "train")


def test_what_is_scored_depends_on_patches_and_unit(loaded, shard_set):
    def scored_on(**changes):
        config = loaded.config
        for section, change in changes.items():
            part = dataclasses.replace(getattr(config, section), **change)
            config = dataclasses.replace(config, **{section: part})
        return errors_of(Oracle(), dataclasses.replace(loaded, config=config), shard_set, mask=MaskConfig()).scored_on

    assert scored_on() == scored_on(model={"kind": "independent"}) == "10 patches of 0.5 s, 100 Hz, mV, clipped at 5 mV"
    assert scored_on(model={"patch_size": 25}) == "20 patches of 0.25 s, 100 Hz, mV, clipped at 5 mV"
    assert "model units" in scored_on(signal={"scaling": "lead_zscore"})


def test_shown_records_carry_the_errors_that_are_counted(loaded, shard_set):
    rows = shard_set.rows_of_split("test")[:5]
    shown = reconstruct_records(loaded, shard_set, rows)
    errors = reconstruction_errors(loaded, shard_set, rows)
    assert [record.key for record in shown] == [shard_set.keys[row] for row in rows]
    squared = sum(((r.y_LT - r.x_LT) ** 2)[r.predicted_LT & r.valid_LT].sum() for r in shown)
    assert squared == pytest.approx(errors.squared_MSLG[..., 0].sum(), rel=1e-4)
    np.testing.assert_allclose(shown[0].x_LT, shard_set.read(int(rows[0])) / 200, atol=1e-4)
