"""Which split a record belongs to: always decided by subject, so that no person is on two sides.

Without folds, a hash of the subject id decides: adding files never moves a subject. With folds (PTB-XL's own, or a
file given as ``splits_from``) the last is test, the one before it validation, the rest training.
"""

import csv
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lamae.sharding.errors import UsageError
from lamae.sharding.format import SPLITS

KEY_COLUMNS = ("key", "study_id", "ecg_id", "record")
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

    split_by_key: dict[str, int]
    sha256: str
    key_column: str

    @classmethod
    def read(cls, path: Path) -> "FoldFile":
        """Read ``path``, which has a column such as ``study_id`` and one such as ``strat_fold``. Raises UsageError."""
        try:
            content = path.read_bytes()
            rows = csv.DictReader(content.decode("utf-8-sig").splitlines())
            names = rows.fieldnames or []
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}; splits_from is a CSV file of keys and folds") from None
        except UnicodeDecodeError:
            raise UsageError(f"{path}: not a text file; splits_from is a CSV file of keys and folds") from None
        key_column = next((name for name in KEY_COLUMNS if name in names), None)
        fold_column = next((name for name in _FOLD_COLUMNS if name in names), None)
        if key_column is None or fold_column is None:
            raise UsageError(
                f"{path}: needs a column {' or '.join(KEY_COLUMNS)} and a column {' or '.join(_FOLD_COLUMNS)}; "
                f"it has {', '.join(names)}"
            )
        fold_by_key = {row[key_column]: row[fold_column] for row in rows}
        return cls(_splits(fold_by_key, path), hashlib.sha256(content).hexdigest(), key_column)


def no_key_matches(path: str, key_column: str, keys: Iterable[str], record: str) -> UsageError:
    """What to raise where none of the ``keys`` of a CSV file is a record's, with an example of either."""
    example = next(iter(keys), "")
    return UsageError(
        f"{path}: nothing in its column {key_column} (such as {example!r}) is the key of a record of the source "
        f"(such as {record!r}); add a column key with those"
    )


def _splits(fold_by_key: dict[str, str], path: Path) -> dict[str, int]:
    if fold_by_key and set(fold_by_key.values()) <= set(SPLITS):
        return {key: SPLITS.index(name) for key, name in fold_by_key.items()}
    try:
        folds = {key: int(float(fold)) for key, fold in fold_by_key.items()}
    except (TypeError, ValueError):
        raise UsageError(f"{path}: a fold is neither a whole number nor one of {', '.join(SPLITS)}") from None
    last = max(folds.values(), default=0)
    return {key: split_of_fold(fold, last) for key, fold in folds.items()}
