"""The uncertainty of every score and comparison: a bootstrap over subjects and, where there are several, over seeds.

Records of one subject are not independent, so the bootstrap draws subjects: every record carries its subject's count in
the draw as a weight. Runs are scored on populations of subjects (with several parts of a corpus, each run on the part
that it was not pretrained on). In every draw the subjects of each population are drawn with replacement, the same ones
for all runs, which is what pairs two runs, and so are its seeds:

    value = mean over populations of the mean over its seeds of (value of that run)
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

NUM_DRAWS = 1000
MIN_SUBJECTS = 3
"""A code with fewer in either class gets no interval: draws of two repeat one of them half of the time."""
_CHUNK_BYTES = 64 << 20

Drawn = tuple[str, float, np.ndarray]
"""Population, value, and the value in every draw of that population's subjects [Z]."""
Values = Mapping[int, Drawn]
"""By seed."""


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % percentile interval."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0

    @property
    def verdict(self) -> str:
        """Of a difference, in words: a tie where the interval covers 0, unknown where there is none."""
        if np.isnan(self.low):
            return "unknown"
        if not self.excludes_zero:
            return "tie"
        return "better" if self.low > 0 else "worse"

    def __format__(self, form: str) -> str:
        """Every number in ``form``, such as +.3f for a difference; .3f where none is given."""
        form = form or ".3f"
        if np.isnan(self.low):
            return f"{self.value:{form}} (interval unknown)"
        return f"{self.value:{form}} ({self.low:{form}} to {self.high:{form}})"

    def __str__(self) -> str:
        return format(self, "")


@dataclass(frozen=True)
class Scored:
    """AUROC of one run by code, and in every draw of subjects."""

    auroc_C: np.ndarray
    draws_ZC: np.ndarray
    """NaN in draws without a subject of one of the code's classes; in all, where its interval is unknown."""
    population: str
    """The same for runs scored on the same records, whose subjects are then drawn together."""
    codes: Sequence[str]

    def drawn(self, codes: Sequence[str] | None = None) -> Drawn:
        """Macro AUROC over some codes (default: all), as ``macro_drawn``."""
        columns = [self.codes.index(code) for code in (self.codes if codes is None else codes)]
        return self.population, *macro_drawn(self.auroc_C[columns], self.draws_ZC[:, columns])

    def macro_of(self, codes: Sequence[str] | None = None) -> Interval:
        """Macro AUROC over some codes (default: all) with its interval over subjects."""
        return estimate({0: self.drawn(codes)})


def macro(auroc_C: np.ndarray) -> np.ndarray:
    """Mean over the last axis of the codes whose AUROC is defined; NaN where none is."""
    defined = np.isfinite(auroc_C)
    count = defined.sum(-1)
    total = np.where(defined, auroc_C, 0.0).sum(-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def macro_drawn(value_C: np.ndarray, draws_ZC: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean over the codes whose interval is known, and the same in every draw [Z].

    A code that a draw does not define deviates in it as the others do on average: left out of that draw alone, it would
    move the draw to the mean of other codes. Where no interval is known: the mean over all codes, its draws NaN.
    """
    kept_C = in_means(draws_ZC)
    value_C, draws_ZC = value_C[kept_C], draws_ZC[:, kept_C]
    value = float(macro(value_C))
    return value, value + macro(draws_ZC - value_C)


def in_means(draws_ZC: np.ndarray) -> np.ndarray:
    """bool [C]: the codes that a mean is over, those with an interval; all where none has one."""
    known_C = np.isfinite(draws_ZC).any(0)
    return known_C | ~known_C.any()


def has_interval(subject_N: np.ndarray, y_NC: np.ndarray) -> np.ndarray:
    """bool [C]: whether the positive records are of ``MIN_SUBJECTS`` or more, and the negative ones, too."""
    order = np.argsort(subject_N, kind="stable")
    _, first = np.unique(subject_N[order], return_index=True)
    y_NC = y_NC[order].astype(bool)
    num_C = [np.logical_or.reduceat(of_class, first).sum(0) for of_class in (y_NC, ~y_NC)]
    return np.minimum(*num_C) >= MIN_SUBJECTS


def subject_weights(subject_N: np.ndarray, *, num_draws: int = NUM_DRAWS, seed: int = 0) -> np.ndarray:
    """float32 [num_draws, N]: how often each record's subject was drawn, with replacement, in each draw.

    The same subjects and seed give the same draws, which is what pairs the intervals of two models.
    """
    return np.concatenate(list(weight_chunks(subject_N, num_draws=num_draws, seed=seed)))


def weight_chunks(subject_N: np.ndarray, *, num_draws: int = NUM_DRAWS, seed: int = 0) -> Iterator[np.ndarray]:
    """``subject_weights``, some draws at a time."""
    _, subject = np.unique(subject_N, return_inverse=True)
    num_subjects = int(subject.max()) + 1 if len(subject) else 0
    chunk, rng = max(1, _CHUNK_BYTES // max(1, 16 * len(subject))), np.random.default_rng(seed)
    for start in range(0, num_draws, chunk):
        Z = min(chunk, num_draws - start)
        cell = rng.integers(num_subjects, size=(Z, num_subjects)) + num_subjects * np.arange(Z)[:, None]
        counts = np.bincount(cell.ravel(), minlength=Z * num_subjects).reshape(Z, num_subjects)
        yield counts.astype(np.float32)[:, subject]


def interval(value: float, draws: np.ndarray) -> Interval:
    """95 % percentile interval of ``draws`` around ``value``, ignoring draws in which it is undefined."""
    finite = draws[np.isfinite(draws)]
    if not len(finite):
        return Interval(float(value), float("nan"), float("nan"))
    low, high = np.quantile(finite, [0.025, 0.975])
    return Interval(float(value), float(low), float(high))


def estimate(values: Values) -> Interval:
    """Mean over populations of the mean over their seeds, 95 % over seeds and subjects."""
    return interval(*_mean(values))


def difference(first: Values, second: Values) -> Interval:
    """``first - second`` on the seeds that both have, paired by seed and by subject.

    Raises ValueError where a seed was not scored on the same population in both, or none is common.
    """
    return estimate(gaps(first, second))


def gaps(first: Values, second: Values) -> Values:
    """By seed what ``difference`` is an estimate of; raises as it does."""
    common = sorted(set(first) & set(second))
    if not common:
        raise ValueError("no seed in common")
    found: dict[int, Drawn] = {}
    for number in common:
        (population, a, a_Z), (other, b, b_Z) = first[number], second[number]
        if population != other:
            raise ValueError(f"seed {number} was scored on different records")
        found[number] = population, a - b, a_Z - b_Z
    return found


def simultaneous(family: Sequence[Values]) -> list[Interval]:
    """Estimates whose intervals cover all their truths at once in 95 % of cases.

    Each is its value ± c standard errors, with c the 95 % quantile over draws of the largest deviation among them,
    each in its own standard errors: the bootstrap's form of the studentized maximum (Westfall and Young, 1993), which
    makes use of how far the members move together. One whose draws do not vary, or are not all defined, gets no
    interval and takes no part.
    """
    means = [_mean(values) for values in family]
    draws_FZ = np.stack([draws_Z for _, draws_Z in means])
    error_F = draws_FZ.std(1)
    varies = np.isfinite(error_F) & (error_F > 0)
    bound_F = np.full(len(means), np.nan)
    if varies.any():
        deviation_FZ = draws_FZ[varies] - draws_FZ[varies].mean(1, keepdims=True)
        largest_Z = (np.abs(deviation_FZ) / error_F[varies, None]).max(0)
        bound_F[varies] = np.quantile(largest_Z, 0.95) * error_F[varies]
    return [
        Interval(value, float(value - bound), float(value + bound))
        for (value, _), bound in zip(means, bound_F, strict=True)
    ]


def _mean(values: Values) -> tuple[float, np.ndarray]:
    """Mean over populations of the mean over their seeds, and in every draw of both."""
    by_population: dict[str, list[tuple[float, np.ndarray]]] = {}
    for number in sorted(values):
        population, value, draws_Z = values[number]
        by_population.setdefault(population, []).append((value, draws_Z))
    rng = np.random.default_rng(0)
    means = [np.mean([value for value, _ in runs]) for runs in by_population.values()]
    runs_PSZ = [np.stack([draws_Z for _, draws_Z in runs]) for runs in by_population.values()]
    deviations_PSZ = [_seed_deviations(draws_SZ) for draws_SZ in runs_PSZ]
    of_all_DZ = np.concatenate(deviations_PSZ)
    draws = []
    for draws_SZ, deviation_SZ in zip(runs_PSZ, deviations_PSZ, strict=True):
        drawn_Z = draws_SZ.mean(0)
        # A single seed shows no spread and takes the others'; where there is none, the draws are over subjects alone.
        deviation_DZ = deviation_SZ if len(deviation_SZ) else of_all_DZ
        if len(deviation_DZ):
            chosen_SZ = rng.integers(len(deviation_DZ), size=draws_SZ.shape)
            drawn_Z = drawn_Z + deviation_DZ[chosen_SZ, np.arange(len(drawn_Z))].mean(0)
        draws.append(drawn_Z)
    return float(np.mean(means)), np.mean(draws, axis=0)


def _seed_deviations(draws_SZ: np.ndarray) -> np.ndarray:
    """[S, Z], or [0, Z] of a single seed: how far each seed lies from the mean over seeds, in every draw of subjects.

    Deviations from the mean of S seeds vary too little, by (S - 1) / S in variance, and are stretched by as much.
    """
    S = len(draws_SZ)
    return (draws_SZ - draws_SZ.mean(0)) * np.sqrt(S / (S - 1)) if S > 1 else draws_SZ[:0]
