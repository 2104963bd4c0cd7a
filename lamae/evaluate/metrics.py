"""Measures beside the AUROC, one value per code: float64 [K], NaN where the code's test records have one class only."""

import numpy as np


def average_precision(scores_NK: np.ndarray, y_NK: np.ndarray) -> np.ndarray:
    """Area under the precision-recall curve as the step sum of precision over recall; ties enter together."""
    out = np.full(y_NK.shape[1], np.nan)
    for k, (score, y) in enumerate(zip(scores_NK.T, y_NK.T.astype(bool), strict=True)):
        if not y.any() or y.all():
            continue
        true_positives, predicted, _ = _cumulative(score, y)
        recall_step = np.diff(true_positives, prepend=0) / y.sum()
        out[k] = (recall_step * true_positives / predicted).sum()
    return out


def best_f1_threshold(scores_NK: np.ndarray, y_NK: np.ndarray) -> np.ndarray:
    """The score from which calling a record positive gives the largest F1; +inf for a code without positives."""
    out = np.full(y_NK.shape[1], np.inf)
    for k, (score, y) in enumerate(zip(scores_NK.T, y_NK.T.astype(bool), strict=True)):
        if y.any():
            true_positives, predicted, threshold = _cumulative(score, y)
            out[k] = threshold[np.argmax(2 * true_positives / (predicted + y.sum()))]
    return out


def f1(scores_NK: np.ndarray, y_NK: np.ndarray, threshold_K: np.ndarray) -> np.ndarray:
    """F1 of calling records positive from ``threshold_K`` on."""
    called, y = scores_NK >= threshold_K, y_NK.astype(bool)
    hits = (called & y).sum(0)
    value = 2 * hits / np.maximum(called.sum(0) + y.sum(0), 1)
    return np.where(y.any(0) & ~y.all(0), value, np.nan)


def brier(probability_NK: np.ndarray, y_NK: np.ndarray) -> np.ndarray:
    """Mean squared difference between probability and outcome."""
    value = ((probability_NK.astype(np.float64) - y_NK) ** 2).mean(0)
    return np.where(y_NK.any(0) & ~y_NK.all(0), value, np.nan)


def _cumulative(score_N: np.ndarray, y_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Over distinct scores from the highest down: true positives, predicted positives, the score itself."""
    order = np.argsort(-score_N, kind="stable")
    score = score_N[order]
    ends = np.flatnonzero(np.r_[score[1:] != score[:-1], True])
    return np.cumsum(y_N[order])[ends], ends + 1, score[ends]
