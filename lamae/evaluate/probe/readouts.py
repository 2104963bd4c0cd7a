"""From frozen features to scores: the ways in which a probe reads labels off embeddings.

Each takes standardised features and labels of the three splits, chooses its one setting by the macro AUROC on val, and
scores val and test.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lamae.evaluate.probe.auroc import auroc
from lamae.evaluate.probe.features import Features, Labels01, Standardizer
from lamae.evaluate.probe.logistic import LogisticSolver
from lamae.evaluate.statistics import macro
from lamae.evaluate.store import dense

C_GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
K_GRID = (5.0, 10.0, 20.0, 50.0, 100.0, 200.0)
KNN_TEMPERATURE = 0.07

Rows = Mapping[str, np.ndarray]
Splits = Mapping[str, np.ndarray | Features]
LabelsOfSplits = Mapping[str, Labels01]


@dataclass(frozen=True)
class Fit:
    """Scores [N, K] of the val and test records under the chosen setting; larger means likelier."""

    setting: float
    """C of the logistic regression, number of neighbours of the kNN."""
    val_macro: dict[float, float]
    """Macro AUROC on val of every setting tried."""
    val_NK: np.ndarray
    test_NK: np.ndarray
    probability: Callable[[np.ndarray], np.ndarray]
    """Turns scores into probabilities."""


def fit_logistic(x: Splits, y: LabelsOfSplits, *, device: str = "cpu") -> Fit:
    """One ridge-penalised logistic regression per code, one C for all."""
    path = logistic_path(x["train"], y["train"], device=device)
    return _choose(
        lambda C, split: path[C](x[split]),
        list(path),
        dense(y["val"]),
        probability=lambda odds: 0.5 + 0.5 * np.tanh(0.5 * odds),
    )


def logistic_path(
    x_ND: np.ndarray | Features, y_NK: Labels01, *, device: str = "cpu"
) -> dict[float, Callable[[np.ndarray | Features], np.ndarray]]:
    """What gives the log-odds of features under every C, ascending.

    A code with one class cannot be fitted; its records all get 0, an AUROC of one half.
    """
    positives = y_NK.sum(0)
    fitted = (positives > 0) & (positives < len(x_ND))
    solver = LogisticSolver(x_ND, y_NK[:, fitted], device=device) if fitted.any() else None
    # From strong to weak penalty: each fit starts from the one before.
    models = {C: solver.fit(C) if solver is not None else None for C in sorted(C_GRID)}

    def decide(x_MD: np.ndarray | Features, *, C: float) -> np.ndarray:
        odds_MK = np.zeros((len(x_MD), len(fitted)), dtype=np.float32)
        if (model := models[C]) is not None:
            odds_MK[:, fitted] = model.decide(x_MD)
        return odds_MK

    return {C: functools.partial(decide, C=C) for C in models}


def fit_knn(x: Splits, y: LabelsOfSplits, *, device: str = "cpu", k_grid: tuple[float, ...] = K_GRID) -> Fit:
    """Votes of the nearest training records by cosine similarity, weighted by exp(similarity / 0.07)."""
    num_train = len(x["train"])
    largest = int(min(max(k_grid), num_train))
    train = _unit_rows(x["train"], device)
    labels = torch.as_tensor(dense(y["train"]), dtype=torch.float32, device=device)
    nearest = {split: _nearest(_unit_rows(x[split], device), train, largest) for split in ("val", "test")}

    def score(k: float, split: str) -> np.ndarray:
        similarity, index = (found[:, : int(k)] for found in nearest[split])
        weight = torch.softmax(similarity / KNN_TEMPERATURE, dim=1)
        parts = zip(weight.split(256), index.split(256), strict=True)
        return torch.cat([torch.einsum("nk,nkc->nc", w, labels[i]) for w, i in parts]).cpu().numpy()

    settings = [k for k in sorted(k_grid, reverse=True) if k <= num_train] or [float(num_train)]
    return _choose(score, settings, dense(y["val"]), probability=lambda votes: votes)


METHODS: dict[str, Callable[..., Fit]] = {"logistic": fit_logistic, "knn": fit_knn}


def fit_rows(x_ND: Any, y_NK: Labels01, rows: Rows, *, method: str = "logistic", device: str = "cpu") -> Fit:
    """Fit ascending rows of features, in memory or on disk, standardised by those of train."""
    scale = Standardizer.fit(Features(x_ND, rows["train"]))
    x = {split: Features(x_ND, of, scale) for split, of in rows.items()}
    return METHODS[method](x, {split: y_NK[of] for split, of in rows.items()}, device=device)


def _choose(
    score: Callable[[float, str], np.ndarray],
    settings: list[float],
    y_val: np.ndarray,
    *,
    probability: Callable[[np.ndarray], np.ndarray],
) -> Fit:
    """The setting with the best macro AUROC on val; of equals the first, which smooths most."""
    val_macro: dict[float, float] = {}
    best, best_scores = settings[0], None
    for setting in settings:
        scores = score(setting, "val")
        val_macro[setting] = float(macro(auroc(scores, y_val)))
        if best_scores is None or val_macro[setting] > val_macro[best]:
            best, best_scores = setting, scores
    assert best_scores is not None
    return Fit(best, val_macro, best_scores, score(best, "test"), probability)


def _unit_rows(x_ND: np.ndarray | Features, device: str) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.as_tensor(np.asarray(x_ND), dtype=torch.float32, device=device), dim=1)


def _nearest(x_ND: torch.Tensor, train_MD: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Similarity and index [N, k] of the k most similar training rows, the most similar first."""
    found = [(part @ train_MD.T).topk(k, dim=1) for part in x_ND.split(1024)]
    return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])
