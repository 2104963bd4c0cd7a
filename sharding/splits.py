"""Which split a record belongs to: always decided by subject, so that no person is on two sides.

Without folds, a hash of the subject id decides: adding files never moves a subject. With folds (PTB-XL's own, or a
file given as ``splits_from``) the last is test, the one before it validation, the rest training.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lamae.base.errors import UsageError
from lamae.base.files import file_sha256
from lamae.base.tables import Table, whole_number
from lamae.sharding.format import SPLITS
from lamae.sharding.join import KEY_COLUMNS, values_by_key
from lamae.sharding.keys import RecordNames

_FOLD_COLUMNS = ("strat_fold", "fold", "split")


def split_of_subject(subject: str, fractions: Sequence[float]) -> int:
    """Index into SPLITS of a subject: the first 8 bytes of sha256(subject) as a number in [0, 1)."""
    draw = int.from_bytes(hashlib.sha256(subject.encode()).digest()[:8], "big") / 2**64
    edge = 0.0
    for split, fraction in enumerate(fractions):
        edge += fraction
        if draw < edge:
            return split
    return len(fractions) - 1


def split_of_fold(fold: int, num_folds_max: int) -> int:
    """Index into SPLITS of a fold where ``num_folds_max`` is the largest fold number: PTB-XL 1-8/9/10, 0-17/18/19."""
    return max(0, 2 - (num_folds_max - fold))


@dataclass(frozen=True)
class FoldFile:
    """Folds by record key, from a CSV file with a key column and a fold column."""

    path: Path
    split_by_key: dict[str, int]
    sha256: str

    @classmethod
    def read(cls, path: Path, names: RecordNames) -> "FoldFile":
        """Read ``path``, which has a column such as ``study_id`` and one such as ``strat_fold``; ``names`` are the
        source's. Raises UsageError.
        """
        table = Table(path)
        key_column = table.require_one_of(*KEY_COLUMNS)
        fold_column = table.require_one_of(*_FOLD_COLUMNS)
        cells = values_by_key(table, [key_column], [fold_column], names)
        fold_by_key = {key: fold.casefold() for key, (fold,) in cells.items()}
        return cls(path, _splits(fold_by_key, path), file_sha256(path))


def _splits(fold_by_key: dict[str, str], path: Path) -> dict[str, int]:
    if set(fold_by_key.values()) <= set(SPLITS):
        return {key: SPLITS.index(name) for key, name in fold_by_key.items()}
    folds = {}
    for key, text in fold_by_key.items():
        fold = whole_number(text)
        if fold is None:
            raise UsageError(
                f"{path}: the fold of {key} is {text!r}, neither a whole number nor one of {', '.join(SPLITS)}"
            )
        folds[key] = fold
    last = max(folds.values())
    return {key: split_of_fold(fold, last) for key, fold in folds.items()}
