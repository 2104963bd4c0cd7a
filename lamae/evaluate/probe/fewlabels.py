"""How many labels an embedding needs: the probe on nested fractions of the training subjects.

For each seed the training subjects are put in a random order and the first 1, 5, 10, … percent of them are used, so the
smaller sets lie within the larger and every model sees the same ones. Val and test stay whole. Codes that a small set
happens not to contain score one half, for every model alike, so that all fractions average over the same codes.
"""

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lamae.base.errors import UsageError
from lamae.base.progress import Progress, ignore
from lamae.base.text import few
from lamae.evaluate.embeddings.embed import Embeddings
from lamae.evaluate.labels.store import Labels
from lamae.evaluate.probe.fit import probe_arrays
from lamae.evaluate.probe.result import ProbeResult, difference
from lamae.evaluate.statistics import Interval, estimate
from lamae.evaluate.values import finite

FRACTIONS = (0.01, 0.05, 0.1, 1.0)
NUM_SEEDS = 3

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FewLabelCurve:
    """Probes by fraction of training subjects, one per seed."""

    name: str
    results: dict[float, list[ProbeResult]]
    num_subjects: dict[float, int] = field(default_factory=dict)
    """Training subjects of each fraction."""

    def num_records(self, fraction: float) -> int:
        """Training records of those subjects, the mean over seeds."""
        return round(np.mean([result.num_train for result in self.results[fraction]]))

    def macro(self, fraction: float) -> Interval:
        """Macro AUROC, mean over seeds, with a 95 % interval over seeds and test subjects together."""
        return estimate({seed: result.drawn() for seed, result in enumerate(self.results[fraction])})

    def to_dict(self) -> dict[str, Any]:
        """Macro AUROC by fraction, and of how many subjects and records, as plain values."""
        return finite(
            {
                f"{fraction:g}": dataclasses.asdict(self.macro(fraction))
                | {"num_subjects": self.num_subjects[fraction], "num_records": self.num_records(fraction)}
                for fraction in self.results
            }
        )


def parse_fractions(text: str) -> list[float]:
    """``0.01,0.1,1`` as ascending numbers. Raises UsageError unless each lies above 0 and at most at 1."""
    try:
        fractions = sorted({float(part) for part in text.split(",")})
    except ValueError:
        raise UsageError(
            f"fractions {text!r}: write numbers with commas between, for example 0.01,0.05,0.1,1"
        ) from None
    for fraction in fractions:
        _check_fraction(fraction)
    return fractions


def _check_fraction(fraction: float) -> None:
    if not 0 < fraction <= 1:
        raise UsageError(f"label fraction {fraction:g} must lie above 0 and at most at 1")


def distinct_fractions(subject_N: np.ndarray, truth: Labels, fractions: Sequence[float]) -> list[float]:
    """``fractions`` ascending; of those of the same number of training subjects the largest, with a warning."""
    total = len(np.unique(subject_N[truth.rows("train")]))
    by_size: dict[int, list[float]] = {}
    for fraction in sorted(fractions):
        by_size.setdefault(_num_subjects(fraction, total), []).append(fraction)
    for size, (*others, largest) in by_size.items():
        if others:
            log.warning(
                "of %d training subjects the shares %s are the same %d as %g, and are left out",
                *(total, few([f"{share:g}" for share in others]), size, largest),
            )
    return [same[-1] for same in by_size.values()]


def few_label_curve(
    features: Embeddings,
    truth: Labels,
    *,
    fractions: Sequence[float] = FRACTIONS,
    num_seeds: int = NUM_SEEDS,
    method: str = "logistic",
    transductive: bool = False,
    progress: Progress = ignore,
) -> FewLabelCurve:
    """Probe ``features`` on every fraction and seed; the whole training set needs one seed only."""
    results: dict[float, list[ProbeResult]] = {}
    num_subjects: dict[float, int] = {}
    total = sum(1 if fraction >= 1 else num_seeds for fraction in fractions)
    for fraction in sorted(fractions):
        results[fraction] = []
        for seed in range(1 if fraction >= 1 else num_seeds):
            rows = training_rows(features, truth, fraction=fraction, seed=seed)
            results[fraction].append(
                probe_arrays(features, truth, method=method, transductive=transductive, train_rows=rows)
            )
            progress("few labels", sum(map(len, results.values())), total)
        num_subjects[fraction] = len(np.unique(features.subject_N[rows]))
    return FewLabelCurve(features.name, results, num_subjects)


def training_rows(features: Embeddings, truth: Labels, *, fraction: float, seed: int) -> np.ndarray:
    """int64 rows of the first ``fraction`` of the training subjects in the order of ``seed``, at least two subjects."""
    _check_fraction(fraction)
    return nested_share(features.subject_N, truth.rows("train"), fraction=fraction, seed=seed)


def nested_share(subject_N: np.ndarray, rows: np.ndarray, *, fraction: float, seed: int) -> np.ndarray:
    """Rows of the first ``fraction`` of the subjects in the order of ``seed``: smaller shares lie within larger."""
    subjects = np.random.default_rng(seed).permutation(np.unique(subject_N[rows]))
    return rows[np.isin(subject_N[rows], subjects[: _num_subjects(fraction, len(subjects))])]


def _num_subjects(fraction: float, total: int) -> int:
    return max(2, round(fraction * total))


def curve_difference(first: FewLabelCurve, second: FewLabelCurve, fraction: float) -> Interval:
    """Macro AUROC of ``first`` minus ``second`` at a fraction, paired by seed and by test subject."""
    pairs = zip(first.results[fraction], second.results[fraction], strict=True)
    return estimate({seed: difference(*pair).drawn() for seed, pair in enumerate(pairs)})
