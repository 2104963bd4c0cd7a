"""The batched solver agrees with scikit-learn, which solves the same problem one code at a time."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from lamae.evaluate.probe import logistic
from lamae.evaluate.probe.features import Standardizer
from lamae.evaluate.probe.logistic import LogisticSolver


@pytest.fixture(scope="module")
def problem():
    """Correlated features of very different scale, codes from rare to balanced."""
    rng = np.random.default_rng(0)
    latent = rng.normal(size=(1200, 10))
    x = latent @ rng.normal(size=(10, 40)) * np.exp(1.5 * rng.normal(size=40)) + 0.3 * rng.normal(size=(1200, 40))
    odds = latent @ rng.normal(size=(10, 6)) * 0.5 + np.linspace(-4, 0, 6)
    y = rng.random((1200, 6)) < 1 / (1 + np.exp(-odds))
    return Standardizer.fit(x).apply(x).astype(np.float32), y


@pytest.mark.parametrize("C", [1e-4, 1e-2, 1.0])
def test_same_minimum_as_scikit_learn(problem, C):
    x, y = problem
    model = LogisticSolver(x, y).fit(C)
    for k in range(y.shape[1]):
        reference = LogisticRegression(C=C, tol=1e-8, max_iter=5000).fit(x.astype(float), y[:, k])
        best = _objective(x, y[:, k], reference.coef_[0], reference.intercept_[0], C)
        assert _objective(x, y[:, k], model.weight_DC[:, k], model.bias_C[k], C) == pytest.approx(best, rel=1e-5)


def test_each_penalty_is_solved_whatever_was_solved_before(problem):
    x, y = problem
    solver = LogisticSolver(x, y)
    solver.fit(10.0)
    np.testing.assert_allclose(solver.fit(1e-3).decide(x), LogisticSolver(x, y).fit(1e-3).decide(x), atol=0.02)


def test_codes_in_groups_on_threads_and_in_tiles_are_solved_as_alone(problem, monkeypatch):
    x, y = problem
    alone = LogisticSolver(x, y).fit(0.1)
    monkeypatch.setattr(logistic, "TILE_ROWS", 500)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        many = LogisticSolver(x, np.tile(y, 15)).fit(0.1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    np.testing.assert_allclose(many.decide(x), np.tile(alone.decide(x), 15), atol=0.02)


def test_a_code_without_both_classes_is_refused(problem):
    x, y = problem
    with pytest.raises(ValueError, match="positive and one negative"):
        LogisticSolver(x, np.zeros_like(y))


def test_a_feature_that_never_varies_is_harmless():
    x = np.column_stack([np.full(50, 1e6), np.arange(50.0)]).astype(np.float32)
    scaled = Standardizer.fit(x).apply(x)
    assert np.isfinite(scaled).all()
    np.testing.assert_allclose(scaled[:, 1].std(), 1, rtol=1e-5)


def _objective(x, y, weight, bias, C):
    margin = x.astype(float) @ weight.astype(float) + bias
    return 0.5 * (weight.astype(float) ** 2).sum() + C * np.logaddexp(0, np.where(y, -margin, margin)).sum()
