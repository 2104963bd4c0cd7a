"""Weighted AUROC and its subject bootstrap against the definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from lamae.evaluate.probe.auroc import auroc, bootstrap_areas, micro_auroc
from lamae.evaluate.statistics import interval, macro, subject_weights


@given(seed=st.integers(0, 10_000), num_levels=st.sampled_from([2, 5, 1000]))
@settings(max_examples=40, deadline=None)
def test_same_as_scikit_learn_with_and_without_ties(seed, num_levels):
    rng = np.random.default_rng(seed)
    scores = rng.integers(num_levels, size=(60, 3)).astype(np.float32)
    y = rng.random((60, 3)) < 0.3
    for k, value in enumerate(auroc(scores, y)):
        if y[:, k].any() and not y[:, k].all():
            assert value == pytest.approx(roc_auc_score(y[:, k], scores[:, k]), abs=1e-12)
        else:
            assert np.isnan(value)


@given(seed=st.integers(0, 10_000), num_levels=st.sampled_from([2, 5, 1000]))
@settings(max_examples=20, deadline=None)
def test_over_all_codes_together_it_is_that_of_all_pairs_in_one_column(seed, num_levels):
    rng = np.random.default_rng(seed)
    scores = rng.integers(num_levels, size=(40, 3)).astype(np.float32)
    y = rng.random((40, 3)) < 0.1
    found = micro_auroc(lambda: ((scores[:, k : k + 2], y[:, k : k + 2]) for k in (0, 2)))
    if y.any() and not y.all():
        assert found == pytest.approx(roc_auc_score(y.ravel(), scores.ravel()), abs=1e-12)
    else:
        assert np.isnan(found)


def test_a_draw_equals_the_auroc_of_the_records_it_repeats():
    rng = np.random.default_rng(1)
    subjects = np.repeat(np.arange(20), 3)
    scores, y = rng.normal(size=(60, 2)).round(1), rng.random((60, 2)) < 0.4
    draws, _ = bootstrap_areas(scores, y, subject_weights(subjects, num_draws=5, seed=7))
    for draw, weights in zip(draws, subject_weights(subjects, num_draws=5, seed=7), strict=True):
        repeated = np.repeat(np.arange(60), weights.astype(int))
        for k in range(2):
            assert draw[k] == pytest.approx(roc_auc_score(y[repeated, k], scores[repeated, k]), abs=1e-12)


def test_subjects_are_drawn_whole_and_as_many_as_there_are():
    subjects = np.array([4, 4, 9, 9, 9, 1])
    weights = subject_weights(subjects, num_draws=50, seed=0)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, [0, 2, 5]].sum(1) == 3).all()


def test_interval_narrows_with_more_subjects_and_covers_one_half_for_noise():
    rng = np.random.default_rng(2)
    widths = []
    for num_subjects in (100, 1600):
        scores, y = rng.normal(size=(num_subjects, 1)), rng.random((num_subjects, 1)) < 0.5
        draws, _ = bootstrap_areas(scores, y, subject_weights(np.arange(num_subjects)))
        estimate = interval(auroc(scores, y)[0], draws[:, 0])
        assert estimate.low < 0.5 < estimate.high
        widths.append(estimate.high - estimate.low)
    assert widths[1] == pytest.approx(widths[0] / 4, rel=0.3)


def test_macro_leaves_out_undefined_codes():
    assert macro(np.array([0.6, np.nan, 0.8])) == pytest.approx(0.7)
    assert np.isnan(macro(np.array([np.nan])))
