"""Measures of decisions and probabilities, per code: NaN where the code's test records have one class only, and F1
also where no val record has the code.

Beside the value over all records, float64 [C], each has its values in bootstrap draws: ``weights_ZN`` says how often a
draw holds each record.
"""

import numpy as np


def best_f1_threshold(scores_NC: np.ndarray, y_NC: np.ndarray) -> np.ndarray:
    """The score from which calling a record positive gives the largest F1; NaN for a code without positives."""
    out = np.full(y_NC.shape[1], np.nan)
    for k, (score, y) in enumerate(zip(scores_NC.T, y_NC.T.astype(bool), strict=True)):
        if y.any():
            true_positives, predicted, threshold = _cumulative(score, y)
            out[k] = threshold[np.argmax(2 * true_positives / (predicted + y.sum()))]
    return out


def f1(
    scores_NC: np.ndarray, y_NC: np.ndarray, threshold_C: np.ndarray, weights_ZN: np.ndarray | None = None
) -> np.ndarray:
    """F1 of calling records positive from ``threshold_C`` on: [C], or [Z, C] under weights; NaN without a threshold."""
    called, y = scores_NC >= threshold_C, y_NC.astype(bool)
    hits, called_sum, positives = (_sum(values, weights_ZN) for values in (called & y, called, y))
    value = 2 * hits / np.maximum(called_sum + positives, 1)
    return _where_both(y, np.where(np.isnan(threshold_C), np.nan, value), weights_ZN)


def brier(probability_NC: np.ndarray, y_NC: np.ndarray, weights_ZN: np.ndarray | None = None) -> np.ndarray:
    """Mean squared difference between probability and outcome: [C], or [Z, C] under weights."""
    squared = (probability_NC.astype(np.float64) - y_NC) ** 2
    total = len(y_NC) if weights_ZN is None else weights_ZN.sum(1, dtype=np.float64)[:, None]
    return _where_both(y_NC.astype(bool), _sum(squared, weights_ZN) / total, weights_ZN)


def _sum(values_NC: np.ndarray, weights_ZN: np.ndarray | None) -> np.ndarray:
    """Sum over records, plain [C] or one per row of weights [Z, C]."""
    if weights_ZN is None:
        return values_NC.sum(0, dtype=np.float64)
    return (weights_ZN @ values_NC.astype(np.float32)).astype(np.float64)


def _where_both(y_NC: np.ndarray, value: np.ndarray, weights_ZN: np.ndarray | None) -> np.ndarray:
    """``value`` where both classes occur, and NaN elsewhere."""
    positives = _sum(y_NC, weights_ZN)
    total = len(y_NC) if weights_ZN is None else weights_ZN.sum(1, dtype=np.float64)[:, None]
    return np.where((positives > 0) & (positives < total), value, np.nan)


def _cumulative(score_N: np.ndarray, y_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Over distinct scores from the highest down: true positives, predicted positives, the score itself."""
    order = np.argsort(-score_N, kind="stable")
    score = score_N[order]
    ends = np.flatnonzero(np.r_[score[1:] != score[:-1], True])
    return np.cumsum(y_N[order])[ends], ends + 1, score[ends]
