"""Areas under the ROC and the precision-recall curve for many codes, and their uncertainty by resampling subjects.

Every record carries its subject's count in a draw as a weight, and the scores are sorted only once:

    AUROC = sum over positives i of w_i (weight of negatives below i + half of those tied with i) / (W+ W-)
    AUPRC = sum over positives i of w_i (weight of positives from i's score on / weight of all from there on) / W+
"""

from collections.abc import Callable, Iterable

import numpy as np
from scipy.sparse import csr_array

CHUNK_BYTES = 256 << 20


def auroc(scores_NK: np.ndarray, y_NK: np.ndarray) -> np.ndarray:
    """AUROC of each code [K], float64, ties counting one half; NaN where a class is absent."""
    return _weighted_areas(scores_NK, y_NK, np.ones((len(y_NK), 1), dtype=np.float32))[0][0]


def micro_auroc(blocks: Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]) -> float:
    """AUROC over all (record, code) pairs together, ties counting one half; NaN where a class is absent.

    ``blocks`` gives (scores, 0/1) [N, k] of some codes after the other, and is read twice: only the scores of positives
    are held for all codes at once.
    """
    positive = np.concatenate([scores_NK[y_NK.astype(bool)] for scores_NK, y_NK in blocks()])
    positive.sort()  # searching in ascending order keeps to what the cache holds
    wins, num_negatives = 0.0, 0
    for scores_NK, y_NK in blocks():
        negative = scores_NK[~y_NK.astype(bool)]
        negative.sort()
        below = int(np.searchsorted(negative, positive, side="left").sum())
        up_to = int(np.searchsorted(negative, positive, side="right").sum())
        wins += 0.5 * (below + up_to)
        num_negatives += len(negative)
    num_pairs = len(positive) * num_negatives
    return wins / num_pairs if num_pairs else float("nan")


def average_precision(scores_NK: np.ndarray, y_NK: np.ndarray) -> np.ndarray:
    """Area under the precision-recall curve of each code [K] as the step sum of precision over recall, float64.

    Ties enter together; NaN where a class is absent.
    """
    return _weighted_areas(scores_NK, y_NK, np.ones((len(y_NK), 1), dtype=np.float32))[1][0]


def bootstrap_areas(scores_NK: np.ndarray, y_NK: np.ndarray, weights_BN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUROC and AUPRC of each code in each draw of ``subject_weights``, both float64 [B, K].

    NaN where a draw lacks a class.
    """
    chunk = max(1, CHUNK_BYTES // max(1, 16 * len(y_NK)))
    parts = [
        _weighted_areas(scores_NK, y_NK, np.ascontiguousarray(weights_BN[start : start + chunk].T))
        for start in range(0, len(weights_BN), chunk)
    ]
    return np.concatenate([roc for roc, _ in parts]), np.concatenate([prc for _, prc in parts])


def stratified_auroc(
    score_MK: np.ndarray, y_MK: np.ndarray, stratum_M: np.ndarray, weights_BM: np.ndarray
) -> np.ndarray:
    """[B, K]: share of (positive, negative) pairs of one stratum that are in order, ties one half; NaN without pairs.

    Every pair counts the product of its records' weights, whole numbers: with one stratum, the weighted AUROC.
    """
    weights_MB = np.asarray(weights_BM, dtype=np.float32).T
    wins_BK = np.zeros((weights_MB.shape[1], y_MK.shape[1]))
    pairs_BK = np.zeros_like(wins_BK)
    for stratum in np.unique(stratum_M):
        inside = stratum_M == stratum
        score_NK, y_NK, weights_NB = score_MK[inside], y_MK[inside].astype(bool), weights_MB[inside]
        for k in range(y_MK.shape[1]):
            if y_NK[:, k].any() and not y_NK[:, k].all():
                wins_B, _, of_pairs_B, _ = rank_sums(score_NK[:, k], y_NK[:, k], weights_NB)
                wins_BK[:, k] += wins_B
                pairs_BK[:, k] += of_pairs_B
    return np.divide(wins_BK, pairs_BK, out=np.full_like(wins_BK, np.nan), where=pairs_BK > 0)


def _weighted_areas(scores_NK: np.ndarray, y_NK: np.ndarray, weights_NB: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUROC and AUPRC [B, K] for integer-valued float32 weights [N, B], which keep float32 sums exact up to 2**24."""
    roc_BK = np.full((weights_NB.shape[1], scores_NK.shape[1]), np.nan)
    prc_BK = roc_BK.copy()
    for k in range(scores_NK.shape[1]):
        score, y = scores_NK[:, k], y_NK[:, k].astype(bool)
        if not y.any() or y.all():
            continue
        wins, precision, pairs, positives = rank_sums(score, y, weights_NB)
        np.divide(wins, pairs, out=roc_BK[:, k], where=pairs > 0)
        np.divide(precision, positives, out=prc_BK[:, k], where=pairs > 0)
    return roc_BK, prc_BK


def rank_sums(
    score_N: np.ndarray, y_N: np.ndarray, weights_NB: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Weighted pairs (positive, negative) that are in order, ties counting one half; the sum over positives of the
    precision from their score on; all pairs; all positives. Each float64 [B].

    The U distinct scores of the positives cut the negatives into bins; only sums over bins and their running total are
    needed, and a sparse indicator times the weights gives those in one pass over the weights.
    """
    positive, negative = np.flatnonzero(y_N), np.flatnonzero(~y_N)
    levels, level_of = np.unique(score_N[positive], return_inverse=True)
    first_above = np.searchsorted(levels, score_N[negative], side="right")
    first_from = np.searchsorted(levels, score_N[negative], side="left")
    U = len(levels)
    positive_UB = _sum_by_bin(level_of, positive, U, weights_NB)
    below_UB = _sum_by_bin(first_above, negative, U + 1, weights_NB)
    negatives_B, positives_B = below_UB.sum(0, dtype=np.float64), positive_UB.sum(0, dtype=np.float64)
    below_UB = np.cumsum(below_UB[:U], axis=0)
    from_here_UB = np.cumsum(positive_UB[::-1], axis=0)[::-1]
    called_UB = from_here_UB + (negatives_B.astype(np.float32) - below_UB)
    precision_UB = np.divide(from_here_UB, called_UB, out=np.zeros_like(called_UB), where=called_UB > 0)
    precision_B = np.einsum("ub,ub->b", positive_UB, precision_UB, dtype=np.float64)
    tied = first_from < first_above
    if tied.any():
        below_UB += 0.5 * _sum_by_bin(first_from[tied], negative[tied], U, weights_NB)
    wins_B = np.einsum("ub,ub->b", positive_UB, below_UB, dtype=np.float64)
    return wins_B, precision_B, positives_B * negatives_B, positives_B


def _sum_by_bin(bin_of: np.ndarray, rows: np.ndarray, num_bins: int, weights_NB: np.ndarray) -> np.ndarray:
    """float32 [num_bins, B]: sums of the weights of ``rows`` by bin."""
    ones = np.ones(len(rows), dtype=np.float32)
    indicator = csr_array((ones, (bin_of, rows)), shape=(num_bins, len(weights_NB)))
    return np.asarray(indicator @ weights_NB)
