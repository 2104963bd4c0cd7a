"""Areas under the ROC and the precision-recall curve for many codes, and their uncertainty by resampling subjects.

Every record carries its subject's count in a draw as a weight, and the scores are sorted only once:

    AUROC = sum over positives i of w_i (weight of negatives below i + half of those tied with i) / (W+ W-)
    AUPRC = sum over positives i of w_i (weight of positives from i's score on / weight of all from there on) / W+
"""

from collections.abc import Callable, Iterable

import numpy as np
from scipy.sparse import csr_array

CHUNK_BYTES = 256 << 20


def auroc(scores_NC: np.ndarray, y_NC: np.ndarray) -> np.ndarray:
    """AUROC of each code [C], float64, ties counting one half; NaN where a class is absent."""
    return _weighted_areas(scores_NC, y_NC, np.ones((len(y_NC), 1), dtype=np.float32))[0][0]


def micro_auroc(blocks: Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]) -> float:
    """AUROC over all (record, code) pairs together, ties counting one half; NaN where a class is absent.

    ``blocks`` gives (scores, 0/1) [N, k] of some codes after the other, and is read twice: only the scores of positives
    are held for all codes at once.
    """
    positive = np.concatenate([scores_NC[y_NC.astype(bool)] for scores_NC, y_NC in blocks()])
    positive.sort()  # searching in ascending order keeps to what the cache holds
    wins, num_negatives = 0.0, 0
    for scores_NC, y_NC in blocks():
        negative = scores_NC[~y_NC.astype(bool)]
        negative.sort()
        below = int(np.searchsorted(negative, positive, side="left").sum())
        up_to = int(np.searchsorted(negative, positive, side="right").sum())
        wins += 0.5 * (below + up_to)
        num_negatives += len(negative)
    num_pairs = len(positive) * num_negatives
    return wins / num_pairs if num_pairs else float("nan")


def average_precision(scores_NC: np.ndarray, y_NC: np.ndarray) -> np.ndarray:
    """Area under the precision-recall curve of each code [C] as the step sum of precision over recall, float64.

    Ties enter together; NaN where a class is absent.
    """
    return _weighted_areas(scores_NC, y_NC, np.ones((len(y_NC), 1), dtype=np.float32))[1][0]


def bootstrap_areas(scores_NC: np.ndarray, y_NC: np.ndarray, weights_ZN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUROC and AUPRC of each code in each draw of ``subject_weights``, both float64 [Z, C].

    NaN where a draw lacks a class.
    """
    chunk = max(1, CHUNK_BYTES // max(1, 16 * len(y_NC)))
    parts = [
        _weighted_areas(scores_NC, y_NC, np.ascontiguousarray(weights_ZN[start : start + chunk].T))
        for start in range(0, len(weights_ZN), chunk)
    ]
    return np.concatenate([roc for roc, _ in parts]), np.concatenate([prc for _, prc in parts])


def stratified_auroc(
    score_MC: np.ndarray, y_MC: np.ndarray, stratum_M: np.ndarray, weights_ZM: np.ndarray
) -> np.ndarray:
    """[Z, C]: share of (positive, negative) pairs of one stratum that are in order, ties one half; NaN without pairs.

    A stratum whose scores of a code are NaN has no pairs of it. Every pair counts the product of its records' weights,
    whole numbers: with one stratum, the weighted AUROC.
    """
    weights_MZ = np.asarray(weights_ZM, dtype=np.float32).T
    wins_ZC = np.zeros((weights_MZ.shape[1], y_MC.shape[1]))
    pairs_ZC = np.zeros_like(wins_ZC)
    for stratum in np.unique(stratum_M):
        inside = stratum_M == stratum
        score_NC, y_NC, weights_NZ = score_MC[inside], y_MC[inside].astype(bool), weights_MZ[inside]
        for k in range(y_MC.shape[1]):
            if y_NC[:, k].any() and not y_NC[:, k].all() and not np.isnan(score_NC[:, k]).any():
                wins_Z, _, of_pairs_Z, _ = rank_sums(score_NC[:, k], y_NC[:, k], weights_NZ)
                wins_ZC[:, k] += wins_Z
                pairs_ZC[:, k] += of_pairs_Z
    return np.divide(wins_ZC, pairs_ZC, out=np.full_like(wins_ZC, np.nan), where=pairs_ZC > 0)


def _weighted_areas(scores_NC: np.ndarray, y_NC: np.ndarray, weights_NZ: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUROC and AUPRC [Z, C] for integer-valued float32 weights [N, Z], which keep float32 sums exact up to 2**24."""
    roc_ZC = np.full((weights_NZ.shape[1], scores_NC.shape[1]), np.nan)
    prc_ZC = roc_ZC.copy()
    for k in range(scores_NC.shape[1]):
        score, y = scores_NC[:, k], y_NC[:, k].astype(bool)
        if not y.any() or y.all():
            continue
        wins, precision, pairs, positives = rank_sums(score, y, weights_NZ)
        np.divide(wins, pairs, out=roc_ZC[:, k], where=pairs > 0)
        np.divide(precision, positives, out=prc_ZC[:, k], where=pairs > 0)
    return roc_ZC, prc_ZC


def rank_sums(
    score_N: np.ndarray, y_N: np.ndarray, weights_NZ: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Weighted pairs (positive, negative) that are in order, ties counting one half; the sum over positives of the
    precision from their score on; all pairs; all positives. Each float64 [Z].

    The U distinct scores of the positives cut the negatives into bins; only sums over bins and their running total are
    needed, and a sparse indicator times the weights gives those in one pass over the weights.
    """
    positive, negative = np.flatnonzero(y_N), np.flatnonzero(~y_N)
    levels, level_of = np.unique(score_N[positive], return_inverse=True)
    first_above = np.searchsorted(levels, score_N[negative], side="right")
    first_from = np.searchsorted(levels, score_N[negative], side="left")
    U = len(levels)
    positive_UZ = _sum_by_bin(level_of, positive, U, weights_NZ)
    below_UZ = _sum_by_bin(first_above, negative, U + 1, weights_NZ)
    negatives_Z, positives_Z = below_UZ.sum(0, dtype=np.float64), positive_UZ.sum(0, dtype=np.float64)
    below_UZ = np.cumsum(below_UZ[:U], axis=0)
    from_here_UZ = np.cumsum(positive_UZ[::-1], axis=0)[::-1]
    called_UZ = from_here_UZ + (negatives_Z.astype(np.float32) - below_UZ)
    precision_UZ = np.divide(from_here_UZ, called_UZ, out=np.zeros_like(called_UZ), where=called_UZ > 0)
    precision_Z = np.einsum("ub,ub->b", positive_UZ, precision_UZ, dtype=np.float64)
    tied = first_from < first_above
    if tied.any():
        below_UZ += 0.5 * _sum_by_bin(first_from[tied], negative[tied], U, weights_NZ)
    wins_Z = np.einsum("ub,ub->b", positive_UZ, below_UZ, dtype=np.float64)
    return wins_Z, precision_Z, positives_Z * negatives_Z, positives_Z


def _sum_by_bin(bin_of: np.ndarray, rows: np.ndarray, num_bins: int, weights_NZ: np.ndarray) -> np.ndarray:
    """float32 [num_bins, Z]: sums of the weights of ``rows`` by bin."""
    ones = np.ones(len(rows), dtype=np.float32)
    indicator = csr_array((ones, (bin_of, rows)), shape=(num_bins, len(weights_NZ)))
    return np.asarray(indicator @ weights_NZ)
