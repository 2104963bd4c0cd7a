"""``labels.zarr``: what is known about each record of a shard set, row by row.

    label     uint8 [N, K]   1 where code k applies
    labelled  bool  [N]      false where nothing is known; such records are left out of training and testing a probe
    split     uint8 [N]      index into SPLITS, NO_SPLIT where a protocol leaves the record out

A label source (``lamae.evaluate.sources``) yields a LabelTable; joining it to the shard set by record key is the same
for all of them, and says how many records matched.
"""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lamae.evaluate import store
from lamae.sharding.errors import LamaeError, UsageError
from lamae.sharding.format import SPLITS, ShardSet

NO_SPLIT = 255
KIND = "labels"


@dataclass(frozen=True)
class LabelTable:
    """A label source as read, before it knows any shard set. All sequences run over the source's records."""

    key_choices: tuple[Sequence[str], ...]
    """Names under which the shard set may know the records; the choice that matches most is taken."""
    codes: Sequence[frozenset[str] | None]
    """Codes of each record; None where it is unlabelled."""
    vocabulary: Sequence[str]
    """The codes to keep, in column order."""
    split: np.ndarray
    """uint8: index into SPLITS, NO_SPLIT where the protocol leaves the record out; ignored if ``uses_own_split``."""
    uses_own_split: bool
    """Whether ``split`` replaces the shard set's own."""
    descriptions: dict[str, str]
    protocol: str
    """What was done to the codes and splits, in words."""


@dataclass(frozen=True)
class LabelReport:
    """What became of the join."""

    num_records: int
    num_matched: int
    num_labelled: int
    num_source_records: int
    num_per_split: dict[str, int]
    """Labelled records that a probe would use."""
    num_positive: dict[str, int]
    """Code to labelled records that carry it."""
    made: bool = True
    """False where the very same labels were there already."""

    def __str__(self) -> str:
        splits = ", ".join(f"{count} {split}" for split, count in self.num_per_split.items())
        return (
            f"{self.num_matched} of {self.num_records} records matched the source's {self.num_source_records}, "
            f"{self.num_labelled} are labelled ({splits}), {len(self.num_positive)} codes"
        )


@dataclass(frozen=True)
class Labels:
    """A labels store in memory; see the module's docstring for the columns."""

    label_NK: np.ndarray
    labelled_N: np.ndarray
    split_N: np.ndarray
    codes: list[str]
    descriptions: dict[str, str]
    protocol: str
    index_hash: str

    def rows(self, split: str) -> np.ndarray:
        """int64 rows of the labelled records of ``split``."""
        return np.flatnonzero(self.labelled_N & (self.split_N == SPLITS.index(split)))


def join_labels(
    shard_set: ShardSet, table: LabelTable, out: Path, *, file: Path, allow_missing: bool = False
) -> LabelReport:
    """Align ``table`` to the rows of ``shard_set`` and write ``out``.

    Raises UsageError when no record matches, when some do not and ``allow_missing`` is false, or when a key or the
    vocabulary is unusable.
    """
    if not table.vocabulary:
        raise UsageError(
            f"{file}: no code is left; either none has as many records as --min-count asks for, or the file gives its "
            f"records no codes"
        )
    row_by_key = {key: row for row, key in enumerate(shard_set.keys)}
    keys = max(table.key_choices, key=lambda choice: sum(key in row_by_key for key in choice))
    _refuse_repeats(keys, file)
    source_rows, rows = [], []
    for source_row, key in enumerate(keys):
        row = row_by_key.get(key)
        if row is not None:
            source_rows.append(source_row)
            rows.append(row)
    _refuse_loss(shard_set, keys, rows, file=file, allow_missing=allow_missing)

    column = {code: k for k, code in enumerate(table.vocabulary)}
    label_NK = np.zeros((shard_set.num_records, len(column)), dtype=np.uint8)
    labelled_N = np.zeros(shard_set.num_records, dtype=bool)
    split_N = np.full(shard_set.num_records, NO_SPLIT, dtype=np.uint8)
    for source_row, row in zip(source_rows, rows, strict=True):
        codes = table.codes[source_row]
        if codes is None:
            continue
        labelled_N[row] = True
        label_NK[row, [column[code] for code in codes if code in column]] = 1
    split_N[rows] = table.split[source_rows] if table.uses_own_split else shard_set.column("split")[rows]

    positives = label_NK[labelled_N].sum(0, dtype=np.int64)
    report = LabelReport(
        num_records=shard_set.num_records,
        num_matched=len(rows),
        num_labelled=int(labelled_N.sum()),
        num_source_records=len(keys),
        num_per_split={name: int((labelled_N & (split_N == i)).sum()) for i, name in enumerate(SPLITS)},
        num_positive={code: int(count) for code, count in zip(table.vocabulary, positives, strict=True)},
    )
    made = store.write(
        out,
        kind=KIND,
        columns={"label": label_NK, "labelled": labelled_N, "split": split_N},
        attributes={
            "index_sha256": shard_set.index_hash,
            "codes": list(table.vocabulary),
            "descriptions": {code: table.descriptions.get(code, "") for code in table.vocabulary},
            "protocol": table.protocol,
            "source_sha256": hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None,
            "num_matched": report.num_matched,
            "num_source_records": report.num_source_records,
            "num_positive": list(report.num_positive.values()),
        },
    )
    return dataclasses.replace(report, made=made)


def read_labels(path: Path) -> Labels:
    """Load a labels store. Raises UsageError or LamaeError as ``store.open_store``."""
    group = store.open_store(path, kind=KIND)
    attributes = group.attrs
    try:
        return Labels(
            label_NK=group["label"],
            labelled_N=group["labelled"],
            split_N=group["split"],
            codes=[str(code) for code in attributes["codes"]],
            descriptions=dict(attributes["descriptions"]),
            protocol=str(attributes["protocol"]),
            index_hash=str(attributes["index_sha256"]),
        )
    except KeyError as error:
        raise LamaeError(f"{path}: {error} is missing; make the labels again") from None


def labels_hash(labels: Labels) -> str:
    """sha256 over everything that a probe or a fine-tuning takes from labels."""
    digest = hashlib.sha256("\0".join([labels.index_hash, *labels.codes]).encode())
    for column in (labels.label_NK, labels.labelled_N, labels.split_N):
        digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()


def count_codes(codes: Sequence[frozenset[str] | None]) -> list[tuple[str, int]]:
    """Codes with their number of records, the most frequent first, ties by name."""
    counts = Counter(code for record in codes if record for code in record)
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def choose_vocabulary(
    counts: list[tuple[str, int]], *, min_count: int, top: int | None = None, distinct: bool = False
) -> list[str]:
    """Codes with at least ``min_count`` records, at most the ``top`` most frequent, in order of the alphabet.

    ``distinct`` leaves out a code that only ever occurs together with one and the same code below it (I210 where
    every I210 is I2109): its column would count one diagnosis twice.
    """
    kept = [code for code, count in counts if count >= min_count]
    if distinct:
        number = dict(counts)
        # A code's records include those of every code below it, so equal numbers mean equal records.
        kept = [a for a in kept if not any(b != a and b.startswith(a) and number[b] == number[a] for b in kept)]
    return sorted(kept[:top])


def _refuse_repeats(keys: Sequence[str], file: Path) -> None:
    repeated = [key for key, count in Counter(keys).items() if count > 1]
    if repeated:
        raise UsageError(f"{file}: {len(repeated)} keys occur more than once, for example {repeated[0]}; keep one row")


def _refuse_loss(shard_set: ShardSet, keys: Sequence[str], rows: list[int], *, file: Path, allow_missing: bool) -> None:
    if not rows:
        raise UsageError(
            f"{file}: none of its {len(keys)} keys is in {shard_set.root} (there: {shard_set.keys[0]!r}, here: "
            f"{keys[0]!r}); are these the labels of that data?"
            if len(keys)
            else f"{file}: holds no records"
        )
    missing = shard_set.num_records - len(rows)
    if missing and not allow_missing:
        matched = set(rows)
        first = next(key for row, key in enumerate(shard_set.keys) if row not in matched)
        raise UsageError(
            f"{file}: {missing} of {shard_set.num_records} records of {shard_set.root} have no row there (first: "
            f"{first}); give --allow-missing to leave them unlabelled"
        )
