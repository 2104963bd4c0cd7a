"""``labels.zarr``: what is known about each record of a shard set, row by row.

    label     uint8 [N, C]   1 where code k applies
    labelled  bool  [N]      false where nothing is known; such records are left out of training and testing a probe
    split     uint8 [N]      index into SPLITS, NO_SPLIT where a protocol leaves the record out

A label source (``lamae.evaluate.labels.sources``) yields a LabelTable; joining it to the shard set by record key is
the same for all of them, and says how many records matched.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from lamae.base.errors import LamaeError, UsageError
from lamae.base.files import file_sha256
from lamae.base.text import few
from lamae.evaluate import store
from lamae.evaluate.labels.codes import CodeLists
from lamae.sharding.format import SPLITS, ShardSet
from lamae.sharding.keys import RecordNames

NO_SPLIT = 255
KIND = "labels"


@dataclass(frozen=True)
class LabelTable:
    """A label source as read, before it knows any shard set. All sequences run over the source's records."""

    key_choices: Sequence[Sequence[str]]
    """Names under which the shard set may know the records; of each record the first that it knows is taken."""
    places: Sequence[int | str]
    """Where each record was read: the number of a line, or a file."""
    codes: CodeLists
    vocabulary: Sequence[str]
    """The codes to keep, in column order."""
    protocol: str
    """What was done to the codes and splits, in words."""
    split: np.ndarray | None = None
    """uint8: index into SPLITS, NO_SPLIT where the protocol leaves the record out; None for the shard set's own."""
    descriptions: dict[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    """What the user should know of how the file was read."""


@dataclass(frozen=True)
class LabelReport:
    """What became of the join."""

    num_records: int
    num_matched: int
    num_labelled: int
    """Rows: of records or, where the shard set has several of a record, of windows."""
    rows_are: str
    num_source_records: int
    num_per_split: dict[str, int]
    """Labelled rows that a probe would use."""
    num_positive: dict[str, int]
    """Code to labelled rows that have it."""
    num_positive_per_split: dict[str, list[int]]
    """The same in each split."""
    descriptions: dict[str, str]
    notes: Sequence[str]
    made: bool = True
    """False where the very same labels were there already."""

    def __str__(self) -> str:
        splits = ", ".join(f"{count} {split}" for split, count in self.num_per_split.items())
        labelled = f"{self.num_labelled} windows" if self.rows_are == "windows" else self.num_labelled
        return (
            f"{self.num_matched} of {self.num_records} records matched the source's {self.num_source_records}, "
            f"{labelled} are labelled ({splits}), {len(self.num_positive)} codes"
        )

    def rows(self) -> list[list[str]]:
        """Code, name, labelled rows with it and those of each split, the most frequent code first."""
        return [
            [code, self.descriptions[code], f"{count:,}", *(f"{n:,}" for n in self.num_positive_per_split[code])]
            for code, count in sorted(self.num_positive.items(), key=lambda item: (-item[1], item[0]))
        ]


@dataclass(frozen=True)
class Labels:
    """A labels store in memory; see the module's docstring for the columns."""

    label_NC: np.ndarray | csr_array
    """Where it would take more than ``store.LARGE_BYTES``, the places of the ones alone."""
    labelled_N: np.ndarray
    split_N: np.ndarray
    codes: list[str]
    descriptions: dict[str, str]
    protocol: str
    index_hash: str
    unknown_patients: str = ""
    """What the splits are where patients are not known, as ``ShardSet.unknown_patients``."""

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
    row_M = _rows(shard_set, table, file)
    rows = row_M[row_M >= 0]
    _refuse_loss(shard_set, table, rows, file=file, allow_missing=allow_missing)
    label_NC, labelled_N = table.codes.columns(table.vocabulary, row_M, shard_set.num_records)
    left_out = _left_out_note(table, row_M, label_NC)
    table = dataclasses.replace(table, codes=CodeLists(), key_choices=(), places=())  # a third of the memory
    split_N = np.full(shard_set.num_records, NO_SPLIT, dtype=np.uint8)
    split_N[rows] = shard_set.column("split")[rows] if table.split is None else table.split[row_M >= 0]
    rows_are = "records" if len(shard_set.row_by_record) == shard_set.num_records else "windows"
    if rows_are == "windows":  # every window has its record's labels
        label_NC, labelled_N, split_N = (values[shard_set.first_row] for values in (label_NC, labelled_N, split_N))

    positives = _positives(label_NC, labelled_N, split_N)
    per_split = [[int(count) for count in counts] for counts in positives[:, : len(SPLITS)]]
    descriptions = {code: table.descriptions.get(code, "") for code in table.vocabulary}
    report = LabelReport(
        num_records=len(shard_set.row_by_record),
        num_matched=len(rows),
        num_labelled=int(labelled_N.sum()),
        rows_are=rows_are,
        num_source_records=len(row_M),
        num_per_split={name: int((labelled_N & (split_N == i)).sum()) for i, name in enumerate(SPLITS)},
        num_positive=dict(zip(table.vocabulary, positives.sum(1).tolist(), strict=True)),
        num_positive_per_split=dict(zip(table.vocabulary, per_split, strict=True)),
        descriptions=descriptions,
        notes=[*table.notes, *filter(None, [left_out, shard_set.unknown_patients])],
    )
    made = store.write(
        out,
        kind=KIND,
        columns={"label": label_NC, "labelled": labelled_N, "split": split_N},
        attributes={
            "index_sha256": shard_set.index_hash,
            "codes": list(table.vocabulary),
            "descriptions": descriptions,
            "protocol": table.protocol,
            "notes": list(table.notes),
            "unknown_patients": shard_set.unknown_patients,
            "source_sha256": file_sha256(file) if file.is_file() else None,
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
        label = group.open("label")
        return Labels(
            label_NC=np.asarray(label) if label.nbytes <= store.LARGE_BYTES else store.sparse(label),
            labelled_N=group["labelled"],
            split_N=group["split"],
            codes=[str(code) for code in attributes["codes"]],
            descriptions=dict(attributes["descriptions"]),
            protocol=str(attributes["protocol"]),
            index_hash=str(attributes["index_sha256"]),
            unknown_patients=str(attributes.get("unknown_patients", "")),
        )
    except KeyError as error:
        raise LamaeError(f"{path}: {error} is missing; make the labels again") from None


def labels_hash(labels: Labels) -> str:
    """sha256 over everything that a probe or a fine-tuning takes from labels."""
    digest = hashlib.sha256("\0".join([labels.index_hash, *labels.codes]).encode())
    for column in (labels.label_NC, labels.labelled_N, labels.split_N):
        for rows in store.blocks(column.shape[0]):
            digest.update(np.ascontiguousarray(store.dense(column[rows])).tobytes())
    return digest.hexdigest()


def _rows(shard_set: ShardSet, table: LabelTable, file: Path) -> np.ndarray:
    """int64 [M]: the first row of each of the source's records in the shard set, -1 where that has none.

    Raises UsageError where two of the source's records are one of the shard set's.
    """
    row_by_key = shard_set.row_by_record
    names = RecordNames(row_by_key)
    row_M = np.full(len(table.codes), -1)
    for record, choices in enumerate(zip(*table.key_choices, strict=True)):
        key = next(filter(None, map(names.find, choices)), None)
        if key is not None:
            row_M[record] = row_by_key[key]
    found, counts = np.unique(row_M[row_M >= 0], return_counts=True)
    repeated = found[counts > 1]
    if len(repeated):
        places = [table.places[record] for record in np.flatnonzero(row_M == repeated[0])[:2]]
        first, second = (f"line {place}" if isinstance(place, int) else place for place in places)
        raise UsageError(
            f"{file}: {len(repeated)} keys occur more than once, for example {shard_set.keys[repeated[0]]} in "
            f"{first} and {second}; keep one row of each, with all of its labels"
        )
    return row_M


def _refuse_loss(shard_set: ShardSet, table: LabelTable, rows: np.ndarray, *, file: Path, allow_missing: bool) -> None:
    if not len(rows):
        raise UsageError(
            f"{file}: none of its {len(table.codes)} keys is in {shard_set.root} (there: {shard_set.keys[0]!r}, here: "
            f"{table.key_choices[0][0]!r}); are these the labels of that data?"
            if len(table.codes)
            else f"{file}: holds no records"
        )
    missing = np.setdiff1d(list(shard_set.row_by_record.values()), rows)
    if len(missing) and not allow_missing:
        raise UsageError(
            f"{file}: {len(missing)} of {len(shard_set.row_by_record)} records of {shard_set.root} have no row there "
            f"(first: {shard_set.record_keys[missing[0]]}); give --allow-missing to leave them unlabelled"
        )


def _left_out_note(table: LabelTable, row_M: np.ndarray, kept_NC: csr_array) -> str:
    """Which of the source's codes are not in the vocabulary, and how many of the shard set's records have them."""
    vocabulary = set(table.vocabulary)
    left = [(code, count) for code, count in table.codes.counts() if code not in vocabulary]
    if not left:
        return ""
    left_NC, _ = table.codes.columns([code for code, _ in left], row_M, kept_NC.shape[0])
    has_N, has_others_N = (np.diff(label_NC.indptr) > 0 for label_NC in (left_NC, kept_NC))
    return (
        f"{len(left):,} codes left out by --min-count or --top: {few([f'{code} ({n:,})' for code, n in left], 8)}; "
        f"{has_N.sum():,} records here have them, {(has_N & ~has_others_N).sum():,} of these no other code"
    )


def _positives(label_NC: csr_array, labelled_N: np.ndarray, split_N: np.ndarray) -> np.ndarray:
    """int64 [C, splits + 1]: labelled records with each code in each split, and in none."""
    place_N = np.where(labelled_N, np.minimum(split_N, len(SPLITS)), -1)
    indicator_NS = place_N[:, None] == np.arange(len(SPLITS) + 1)
    counts = np.zeros((label_NC.shape[1], len(SPLITS) + 1), dtype=np.int64)
    for rows in store.blocks(len(labelled_N)):  # scipy takes all of both to int64 first
        counts += label_NC[rows].T @ indicator_NS[rows].astype(np.int64)
    return counts
