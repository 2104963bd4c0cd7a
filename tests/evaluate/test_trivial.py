"""Trivial predictors use only what is visible, and are exact where they must be."""

import numpy as np
import pytest

from lamae.base.leads import CHEST_LEADS, LIMB_FROM_I_II
from lamae.evaluate.reconstruct.trivial import (
    interpolate,
    predict_visible_mean,
    predictors,
    regress_on_leads,
    solve_limb_leads,
)


@pytest.fixture
def record():
    """[1, 12, 40]: limb leads that obey their algebra, chest leads a mixture of two sources."""
    rng = np.random.default_rng(0)
    limb = LIMB_FROM_I_II @ rng.normal(size=(2, 40))
    chest = rng.normal(size=(6, 2)) @ limb[:2]
    return np.concatenate([limb, chest])[None]


def test_no_predictor_looks_at_what_is_hidden(record):
    visible = np.ones(record.shape, dtype=bool)
    visible[:, 3:8] = False
    visible[:, :, 10:20] = False
    changed = np.where(visible, record, 99.0)
    for name, predict in predictors(np.zeros(12), np.eye(12)).items():
        for before, after in zip(predict(record, visible), predict(changed, visible), strict=True):
            np.testing.assert_array_equal(before, after, err_msg=name)


def test_two_limb_leads_give_the_other_four(record):
    for first, second in [(0, 1), (2, 3), (4, 5), (1, 3)]:
        visible = np.zeros(record.shape, dtype=bool)
        visible[:, [first, second], :30] = True
        y, defined = solve_limb_leads(record, visible)
        assert defined[:, :6, :30].all()
        assert not defined[:, :6, 30:].any()
        assert not defined[:, CHEST_LEADS].any()
        np.testing.assert_allclose(y[:, :6, :30], record[:, :6, :30], atol=1e-12)


def test_one_limb_lead_gives_none(record):
    visible = np.zeros(record.shape, dtype=bool)
    visible[:, 0] = True
    assert not solve_limb_leads(record, visible)[1].any()


def test_interpolation_is_a_straight_line_and_flat_beyond_the_ends():
    x = np.zeros((1, 12, 6))
    x[0, 0] = [99, 1, 99, 99, 4, 99]
    visible = np.zeros(x.shape, dtype=bool)
    visible[0, 0, [1, 4]] = True
    y, defined = interpolate(x, visible)
    np.testing.assert_allclose(y[0, 0], [1, 1, 2, 3, 4, 4])
    assert defined[0, 0].all()
    assert not defined[0, 1:].any()


def test_visible_mean_is_per_lead(record):
    visible = np.ones(record.shape, dtype=bool)
    visible[..., 20:] = False
    y, _ = predict_visible_mean(record, visible)
    np.testing.assert_allclose(y[..., 0], record[..., :20].mean(-1))


def test_regression_recovers_leads_that_are_mixtures_of_the_visible_ones(record):
    flat = record[0].T
    visible = np.zeros(record.shape, dtype=bool)
    visible[:, [0, 1]] = True
    y, defined = regress_on_leads(
        record, visible, mean_L=flat.mean(0), covariance_LL=np.cov(flat, rowvar=False, bias=True)
    )
    assert defined.all()
    np.testing.assert_allclose(y, record, atol=0.02 * np.abs(record).max())
