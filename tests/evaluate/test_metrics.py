"""The measures agree with scikit-learn, with and without ties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, brier_score_loss, f1_score

from lamae.evaluate.probe.auroc import average_precision, bootstrap_areas
from lamae.evaluate.probe.metrics import best_f1_threshold, brier, f1
from lamae.evaluate.statistics import subject_weights


@given(seed=st.integers(0, 10_000), num_levels=st.sampled_from([3, 1000]))
@settings(max_examples=10, deadline=None)
def test_same_as_scikit_learn(seed, num_levels):
    rng = np.random.default_rng(seed)
    scores, y = rng.integers(num_levels, size=(30, 2)) / num_levels, rng.random((30, 2)) < 0.3
    threshold = best_f1_threshold(scores, y)
    for k in range(2):
        if not y[:, k].any() or y[:, k].all():
            continue
        assert average_precision(scores, y)[k] == pytest.approx(average_precision_score(y[:, k], scores[:, k]))
        assert brier(scores, y)[k] == pytest.approx(brier_score_loss(y[:, k], scores[:, k]))
        best = max(f1_score(y[:, k], scores[:, k] >= level) for level in np.unique(scores[:, k]))
        assert f1(scores, y, threshold)[k] == pytest.approx(best)


def test_one_class_is_undefined_and_so_is_f1_of_a_code_without_positives_on_val():
    y = np.zeros((4, 1))
    assert np.isnan(average_precision(np.zeros((4, 1)), y)).all()
    assert np.isnan(brier(np.zeros((4, 1)), y)).all()
    threshold = best_f1_threshold(np.ones((4, 1)), y)
    y, weights = np.array([[1], [0], [0]]), np.ones((2, 3), dtype=np.float32)
    assert np.isnan(f1(np.ones((3, 1)), y, threshold)).all()
    assert np.isnan(f1(np.ones((3, 1)), y, threshold, weights)).all()


def test_a_draw_equals_the_measures_of_the_records_it_repeats():
    rng = np.random.default_rng(1)
    subjects = np.repeat(np.arange(20), 3)
    scores, y = rng.uniform(size=(60, 3)).round(1), rng.random((60, 3)) < [0.4, 0.2, 0.8]
    threshold = np.array([0.5, 0.3, 0.6])
    weights = subject_weights(subjects, num_draws=6, seed=7)
    _, precision = bootstrap_areas(scores, y, weights)
    for b in range(6):
        repeated = np.repeat(np.arange(60), weights[b].astype(int))
        s, t = scores[repeated], y[repeated]
        np.testing.assert_allclose(f1(scores, y, threshold, weights)[b], f1(s, t, threshold), rtol=1e-6)
        np.testing.assert_allclose(brier(scores, y, weights)[b], brier(s, t), rtol=1e-6)
        for k in range(3):
            assert precision[b, k] == pytest.approx(average_precision_score(t[:, k], s[:, k]), abs=1e-6)


def test_a_draw_without_both_classes_is_undefined():
    y, weights = np.array([[1], [0], [0]]), np.array([[0, 1, 2], [1, 1, 1]], dtype=np.float32)
    scores = np.array([[0.9], [0.5], [0.1]])
    for found in (f1(scores, y, np.array([0.5]), weights), brier(scores, y, weights)):
        assert np.isnan(found[0, 0])
        assert np.isfinite(found[1, 0])
