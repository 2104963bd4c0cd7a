"""Uncertainty of a comparison over seeds and subjects: a hierarchical bootstrap, paired.

Runs are scored on populations of subjects (with several parts of a corpus, each run on the part that it was not
pretrained on). In every draw the subjects of each population are drawn with replacement, the same ones for all runs,
and so are its seeds:

    value = mean over populations of the mean over its seeds of (macro AUROC of that run)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lamae.evaluate.probe.auroc import Interval, interval, macro, rank_sums, resample_seeds, subject_weights

NUM_DRAWS = 1000


@dataclass(frozen=True)
class Scores:
    """What one run's probe gave one population, for R repeats of M records and K codes."""

    score_RMK: np.ndarray
    stratum_RM: np.ndarray
    """Only scores of one fitted probe can be compared: int, the fold of each record in each repeat."""
    y_MK: np.ndarray
    subject_M: np.ndarray
    population: str
    """The same for runs scored on the same records, whose subjects are then drawn together."""
    codes: tuple[str, ...]


@dataclass(frozen=True)
class Scored:
    """AUROC of one run by code, and in every draw of subjects."""

    auroc_K: np.ndarray
    draws_BK: np.ndarray
    population: str
    codes: tuple[str, ...]

    def macro_of(self, codes: Sequence[str] | None = None) -> tuple[float, np.ndarray]:
        """Macro AUROC over some codes (default: all), and in every draw [B]."""
        columns = [self.codes.index(code) for code in (self.codes if codes is None else codes)]
        return float(macro(self.auroc_K[columns])), np.asarray(macro(self.draws_BK[:, columns]))


def summarise(scores: Scores, *, num_draws: int = NUM_DRAWS, seed: int = 0) -> Scored:
    """AUROC within strata, mean over repeats."""
    once_1M = np.ones((1, len(scores.y_MK)))
    weights_BM = subject_weights(scores.subject_M, num_draws=num_draws, seed=seed)
    repeats = list(zip(scores.score_RMK, scores.stratum_RM, strict=True))
    return Scored(
        auroc_K=np.mean([stratified_auroc(s, scores.y_MK, at, once_1M)[0] for s, at in repeats], axis=0),
        draws_BK=np.mean([stratified_auroc(s, scores.y_MK, at, weights_BM) for s, at in repeats], axis=0),
        population=scores.population,
        codes=scores.codes,
    )


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


Values = Mapping[int, tuple[str, float, np.ndarray]]
"""By seed: population, value, and value in every draw of that population's subjects [B]."""


def estimate(values: Values, *, seed: int = 0) -> Interval:
    """Mean over populations of the mean over their seeds, 95 % over seeds and subjects."""
    by_population: dict[str, list[tuple[float, np.ndarray]]] = {}
    for number in sorted(values):
        population, value, draws_B = values[number]
        by_population.setdefault(population, []).append((value, draws_B))
    rng = np.random.default_rng(seed)
    means, draws = [], []
    for runs in by_population.values():
        means.append(np.mean([value for value, _ in runs]))
        draws.append(resample_seeds(np.stack([draws_B for _, draws_B in runs]), rng))
    return interval(float(np.mean(means)), np.mean(draws, axis=0))


def difference(first: Values, second: Values, *, seed: int = 0) -> Interval:
    """``first - second`` on the seeds that both have, paired by seed and by subject.

    Raises ValueError where a seed was not scored on the same population in both, or none is common.
    """
    common = sorted(set(first) & set(second))
    if not common:
        raise ValueError("no seed in common")
    gaps: dict[int, tuple[str, float, np.ndarray]] = {}
    for number in common:
        (population, a, a_B), (other, b, b_B) = first[number], second[number]
        if population != other:
            raise ValueError(f"seed {number} was scored on different records")
        gaps[number] = population, a - b, a_B - b_B
    return estimate(gaps, seed=seed)


def verdict(gap: Interval) -> str:
    """In words: a tie where the interval covers 0."""
    if not gap.excludes_zero:
        return "tie"
    return "better" if gap.value > 0 else "worse"
