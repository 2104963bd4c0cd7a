"""Areas under the ROC and the precision-recall curve for many codes, and their uncertainty by resampling subjects.

Records of one subject are not independent, so the bootstrap draws subjects: every record carries its subject's count in
the draw as a weight, and the scores are sorted only once:

    AUROC = sum over positives i of w_i (weight of negatives below i + half of those tied with i) / (W+ W-)
    AUPRC = sum over positives i of w_i (weight of positives from i's score on / weight of all from there on) / W+

Comparing two models on the same draws gives a paired interval for their difference.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

CHUNK_BYTES = 256 << 20


def auroc(scores_NK: np.ndarray, y_NK: np.ndarray) -> np.ndarray:
    """AUROC of each code [K], float64, ties counting one half; NaN where a class is absent."""
    return _weighted_areas(scores_NK, y_NK, np.ones((len(y_NK), 1), dtype=np.float32))[0][0]


def average_precision(scores_NK: np.ndarray, y_NK: np.ndarray) -> np.ndarray:
    """Area under the precision-recall curve of each code [K] as the step sum of precision over recall, float64.

    Ties enter together; NaN where a class is absent.
    """
    return _weighted_areas(scores_NK, y_NK, np.ones((len(y_NK), 1), dtype=np.float32))[1][0]


def subject_weights(subject_N: np.ndarray, *, num_draws: int, seed: int) -> np.ndarray:
    """float32 [num_draws, N]: how often each record's subject was drawn, with replacement, in each draw.

    The same subjects and seed give the same draws, which is what pairs the intervals of two models.
    """
    _, subject = np.unique(subject_N, return_inverse=True)
    num_subjects = int(subject.max()) + 1 if len(subject) else 0
    draw = np.random.default_rng(seed).integers(num_subjects, size=(num_draws, num_subjects))
    cell = draw + num_subjects * np.arange(num_draws)[:, None]
    counts = np.bincount(cell.ravel(), minlength=num_draws * num_subjects).reshape(num_draws, num_subjects)
    return counts.astype(np.float32)[:, subject]


def bootstrap_areas(
    scores_NK: np.ndarray, y_NK: np.ndarray, subject_N: np.ndarray, *, num_draws: int = 1000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """AUROC and AUPRC of each code in each draw of subjects, both float64 [num_draws, K].

    NaN where a draw lacks a class.
    """
    weights_BN = subject_weights(subject_N, num_draws=num_draws, seed=seed)
    chunk = max(1, CHUNK_BYTES // max(1, 16 * len(y_NK)))
    parts = [
        _weighted_areas(scores_NK, y_NK, np.ascontiguousarray(weights_BN[start : start + chunk].T))
        for start in range(0, num_draws, chunk)
    ]
    return np.concatenate([roc for roc, _ in parts]), np.concatenate([prc for _, prc in parts])


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % percentile interval."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0

    def to_dict(self) -> dict[str, float | None]:
        """For JSON, which has no NaN: bounds that are unknown are null."""
        bounds = {"low": self.low, "high": self.high}
        return {"value": self.value, **{name: None if np.isnan(bound) else bound for name, bound in bounds.items()}}

    def __str__(self) -> str:
        if np.isnan(self.low):
            return f"{self.value:.3f} (interval unknown)"
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def interval(value: float, draws: np.ndarray, *, level: float = 0.95) -> Interval:
    """Percentile interval of ``draws`` around ``value``, ignoring draws in which it is undefined."""
    finite = draws[np.isfinite(draws)]
    if not len(finite):
        return Interval(float(value), float("nan"), float("nan"))
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(low), float(high))


def resample_seeds(draws_SB: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[B]: in every draw of subjects, the mean over as many of the S seeds drawn with replacement.

    Such means vary too little: by (S - 1) / S in variance. The seeds' deviations are therefore stretched by
    sqrt(S / (S - 1)); a single seed says nothing of its variance, and the draws are then over subjects alone.
    """
    S, B = draws_SB.shape
    mean_B = draws_SB.mean(0)
    if S == 1:
        return mean_B
    chosen_SB = rng.integers(S, size=(S, B))
    drawn_B = draws_SB[chosen_SB, np.arange(B)].mean(0)
    return mean_B + np.sqrt(S / (S - 1)) * (drawn_B - mean_B)


def macro(auroc_K: np.ndarray) -> np.ndarray:
    """Mean over the last axis of the codes whose AUROC is defined; NaN where none is."""
    defined = np.isfinite(auroc_K)
    count = defined.sum(-1)
    total = np.where(defined, auroc_K, 0.0).sum(-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


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
