"""Measures of decisions and probabilities, per code: NaN where the code's test records have one class only.

Beside the value over all records, float64 [K], each has its values in bootstrap draws: ``weights_BN`` says how often a
draw holds each record.
"""

import numpy as np


def best_f1_threshold(scores_NK: np.ndarray, y_NK: np.ndarray) -> np.ndarray:
    """The score from which calling a record positive gives the largest F1; +inf for a code without positives."""
    out = np.full(y_NK.shape[1], np.inf)
    for k, (score, y) in enumerate(zip(scores_NK.T, y_NK.T.astype(bool), strict=True)):
        if y.any():
            true_positives, predicted, threshold = _cumulative(score, y)
            out[k] = threshold[np.argmax(2 * true_positives / (predicted + y.sum()))]
    return out


def f1(
    scores_NK: np.ndarray, y_NK: np.ndarray, threshold_K: np.ndarray, weights_BN: np.ndarray | None = None
) -> np.ndarray:
    """F1 of calling records positive from ``threshold_K`` on: [K], or [B, K] under weights."""
    called, y = scores_NK >= threshold_K, y_NK.astype(bool)
    hits, called_sum, positives = (_sum(values, weights_BN) for values in (called & y, called, y))
    return _where_both(y, 2 * hits / np.maximum(called_sum + positives, 1), weights_BN)


def brier(probability_NK: np.ndarray, y_NK: np.ndarray, weights_BN: np.ndarray | None = None) -> np.ndarray:
    """Mean squared difference between probability and outcome: [K], or [B, K] under weights."""
    squared = (probability_NK.astype(np.float64) - y_NK) ** 2
    total = len(y_NK) if weights_BN is None else weights_BN.sum(1, dtype=np.float64)[:, None]
    return _where_both(y_NK.astype(bool), _sum(squared, weights_BN) / total, weights_BN)


def _sum(values_NK: np.ndarray, weights_BN: np.ndarray | None) -> np.ndarray:
    """Sum over records, plain [K] or one per row of weights [B, K]."""
    if weights_BN is None:
        return values_NK.sum(0, dtype=np.float64)
    return (weights_BN @ values_NK.astype(np.float32)).astype(np.float64)


def _where_both(y_NK: np.ndarray, value: np.ndarray, weights_BN: np.ndarray | None) -> np.ndarray:
    """``value`` where both classes occur, and NaN elsewhere."""
    positives = _sum(y_NK, weights_BN)
    total = len(y_NK) if weights_BN is None else weights_BN.sum(1, dtype=np.float64)[:, None]
    return np.where((positives > 0) & (positives < total), value, np.nan)


def _cumulative(score_N: np.ndarray, y_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Over distinct scores from the highest down: true positives, predicted positives, the score itself."""
    order = np.argsort(-score_N, kind="stable")
    score = score_N[order]
    ends = np.flatnonzero(np.r_[score[1:] != score[:-1], True])
    return np.cumsum(y_N[order])[ends], ends + 1, score[ends]
