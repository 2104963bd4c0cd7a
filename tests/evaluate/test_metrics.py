"""The measures agree with scikit-learn, with and without ties."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, brier_score_loss, f1_score

from lamae.evaluate.metrics import average_precision, best_f1_threshold, brier, f1


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


def test_one_class_is_undefined_and_a_code_without_positives_on_val_calls_nobody():
    y = np.zeros((4, 1))
    assert np.isnan(average_precision(np.zeros((4, 1)), y)).all()
    assert np.isnan(brier(np.zeros((4, 1)), y)).all()
    threshold = best_f1_threshold(np.ones((4, 1)), y)
    assert f1(np.ones((3, 1)), np.array([[1], [0], [0]]), threshold)[0] == 0
