"""Who has how many records, under which ids, in which folds: pure functions of the seed and of counting numbers."""

from collections import Counter

import numpy as np

from lamae.sharding.synth.findings import FINDINGS
from lamae.sharding.synth.streams import Stream, random_stream

NUM_FOLDS = 20
# Ids are eight digits with a fixed first one, as MIMIC's are.
ID_SPACE = 9_000_000
_ID_STEP = 4_178_611  # shares no factor with ID_SPACE, so that ids never meet


def records_per_subject(seed: int, *, num_records: int, num_subjects: int) -> list[list[int]]:
    """For each subject the global numbers of its records, ascending.

    Record i < num_subjects goes to subject i; later ones go to subjects by weights with a long tail. Record i goes to
    the same subject whatever ``num_records`` is.
    """
    rng = random_stream(seed, Stream.PLAN, num_subjects)
    edges = np.cumsum(rng.gamma(0.8, size=num_subjects))
    extra = np.searchsorted(edges, rng.uniform(size=num_records - num_subjects) * edges[-1])
    subject_of_record = np.concatenate([np.arange(num_subjects), np.minimum(extra, num_subjects - 1)])
    by_subject = np.argsort(subject_of_record, kind="stable")
    ends = np.cumsum(np.bincount(subject_of_record, minlength=num_subjects))
    return [numbers.tolist() for numbers in np.split(by_subject, ends[:-1])]


class Ids:
    """Eight-digit ids that look arbitrary and are different for every number below ID_SPACE."""

    def __init__(self, seed: int, *, first_digit: int) -> None:
        self._base = first_digit * 10_000_000
        self._start = int(random_stream(seed, Stream.IDS, first_digit).integers(ID_SPACE))

    def __getitem__(self, number: int) -> int:
        return self._base + (number * _ID_STEP + self._start) % ID_SPACE

    def number_part(self, an_id: int) -> int:
        """An id without its first digit."""
        return an_id - self._base


def fold_of_subject(seed: int, subject: int) -> int:
    """A random fold; of every twenty subjects one goes to each."""
    block, position = divmod(subject, NUM_FOLDS)
    return int(random_stream(seed, Stream.FOLDS, block).permutation(NUM_FOLDS)[position])


class StratifiedFolds:
    """Folds dealt in turn within each stratum: the findings that a subject's first stay was coded with."""

    def __init__(self) -> None:
        self._num_dealt: Counter[tuple[str, ...]] = Counter()

    def deal(self, codes: tuple[str, ...]) -> int:
        stratum = tuple(finding.icd10 for finding in FINDINGS if finding.icd10 in codes)
        # Strata start at different folds, else rare ones would all fill the first.
        first = sum(map(ord, "".join(stratum)))
        fold = (first + 7 * self._num_dealt[stratum]) % NUM_FOLDS
        self._num_dealt[stratum] += 1
        return fold
