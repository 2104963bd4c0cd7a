"""Nearest neighbours against a slow reference; settings chosen on val; codes that cannot be fitted."""

import numpy as np
import pytest

from lamae.evaluate.probe import methods
from lamae.evaluate.probe.auroc import auroc
from lamae.evaluate.probe.methods import KNN_TEMPERATURE, fit_knn, fit_logistic
from lamae.evaluate.statistics import macro


@pytest.fixture
def splits():
    rng = np.random.default_rng(0)
    x = {split: rng.normal(size=(n, 8)).astype(np.float32) for split, n in [("train", 300), ("val", 80), ("test", 60)]}
    y = {split: np.stack([v[:, 0] > 0, v[:, 1] + v[:, 2] > 1], 1).astype(np.uint8) for split, v in x.items()}
    return x, y


def test_knn_is_the_weighted_vote_of_the_most_similar(splits):
    x, y = splits
    fit = fit_knn(x, y, k_grid=(5.0,))
    unit = {split: v / np.linalg.norm(v, axis=1, keepdims=True) for split, v in x.items()}
    for n in range(10):
        similarity = unit["train"] @ unit["test"][n]
        nearest = np.argsort(-similarity)[:5]
        weight = np.exp(similarity[nearest] / KNN_TEMPERATURE)
        np.testing.assert_allclose(np.asarray(fit.test)[n], weight @ y["train"][nearest] / weight.sum(), atol=1e-5)
    assert (auroc(np.asarray(fit.test), y["test"]) > 0.8).all()


def test_neighbours_found_a_tile_at_a_time_are_those_of_all_training_records(splits, monkeypatch):
    x, y = splits
    whole = fit_knn(x, y)
    monkeypatch.setattr(methods, "QUERY_ROWS", 7)
    monkeypatch.setattr(methods, "TRAIN_ROWS", 130)  # fewer than 200 neighbours, and a rest
    tiled = fit_knn(x, y)
    assert tiled.val_macro == pytest.approx(whole.val_macro)
    np.testing.assert_allclose(np.asarray(tiled.test), np.asarray(whole.test), atol=1e-6)


@pytest.mark.parametrize("method", [fit_logistic, fit_knn])
def test_the_setting_with_the_best_val_is_taken(splits, method):
    x, y = splits
    fit = method(x, y)
    assert fit.val_macro[fit.setting] == max(fit.val_macro.values())
    assert macro(auroc(np.asarray(fit.val), y["val"])) == pytest.approx(fit.val_macro[fit.setting])
    probability = fit.probability(np.asarray(fit.test))
    assert ((probability >= 0) & (probability <= 1 + 1e-6)).all()


def test_more_neighbours_than_records_are_not_asked_for(splits):
    x, y = splits
    few = {"train": x["train"][:3], "val": x["val"], "test": x["test"]}
    assert fit_knn(few, y | {"train": y["train"][:3]}).setting == 3


def test_a_code_that_training_does_not_show_scores_one_half(splits):
    x, y = splits
    absent = y["train"].copy()
    absent[:, 1] = 0
    fit = fit_logistic(x, y | {"train": absent})
    values = auroc(np.asarray(fit.test), y["test"])
    assert values[0] > 0.8
    assert values[1] == 0.5
