"""The shard set on disk: what its files are called, what its index holds, and how to read it.

    OUT/
      dataset.json        what this set is; written last and atomically, so its presence means "complete"
      shards/NNNNNN.tar   plain WebDataset: KEY.npy (int16 [12, T], canonical lead order) and KEY.json
      index.zarr/         zarr v3 group of columns, row i = record i
      rejects.csv         records that were left out, with the reason (key,reason,detail)
      unmatched.csv       where the source has a list of its own: what is missing, unlisted or unused (path,status)

A record is read by ``pread`` of ``payload_length`` bytes at ``payload_offset`` of its shard: the samples of KEY.npy
without the npy header. -32768 means "no sample". A shard set is read-only once ``dataset.json`` is there.
"""

import io
import json
import os
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from lamae.base import files
from lamae.base.errors import LamaeError, UsageError
from lamae.base.leads import NUM_LEADS
from lamae.sharding.checked import CheckedGroup, file_sums, sums_digest

FORMAT_VERSION = 2  # 1 had the sha256 of each tar instead of its BLAKE3
WINDOW_MARK = "#"
"""Between a record's key and its window's number. It sorts below all that keys are made of, so windows of one
record stay together and in the order of the records."""
NO_SAMPLE = -32768
MANIFEST_NAME = "dataset.json"
WORK_NAME = ".packing"  # of a shard set that is being made
INDEX_NAME = "index.zarr"
SHARDS_NAME = "shards"
REJECTS_NAME = "rejects.csv"
UNMATCHED_NAME = "unmatched.csv"
EXTRA_PREFIX = "extra/"
SPLITS: tuple[str, ...] = ("train", "val", "test")
_REQUIRED = ("num_records", "num_samples", "rate_hz", "index_sha256", "shards")
_REMEDY = "copy the shard set again from where it is whole, or pack it again"


@dataclass(frozen=True)
class Column:
    """One column of the index: array of shape ``[N, *shape]``."""

    dtype: str
    shape: tuple[int, ...]
    doc: str
    wide: str = ""
    """The type where a value does not fit ``dtype``."""


COLUMNS: dict[str, Column] = {
    "key": Column("uint8", (-1,), "record key, ASCII, padded with zero bytes to the longest"),
    "shard": Column("uint32", (), "number of the tar that holds the record"),
    "payload_offset": Column("uint64", (), "byte offset of the first sample within the tar"),
    "payload_length": Column("uint32", (), "bytes of samples: 2 * 12 * T"),
    "crc32c": Column("uint32", (), "CRC-32C (Castagnoli) of those bytes"),
    "extent_crc32c": Column(
        "uint32", (), "CRC-32C of all the record's bytes in the tar: both members with their headers"
    ),
    "subject": Column("int64", (), "subject id; -1 - row where the source has none"),
    "split": Column("uint8", (), "index into SPLITS"),
    "gain": Column("float32", (NUM_LEADS,), "ADC units per millivolt; 1 where the lead is missing"),
    "baseline": Column("int16", (NUM_LEADS,), "ADC value of 0 mV", wide="int32"),
    "lead_mask": Column("uint16", (), "bit l is set where canonical lead l is present and usable"),
    "mean_mv": Column("float32", (NUM_LEADS,), "mean over valid samples, millivolt"),
    "std_mv": Column("float32", (NUM_LEADS,), "standard deviation over valid samples, millivolt"),
    "min_adc": Column("int16", (NUM_LEADS,), "smallest valid sample, ADC units"),
    "max_adc": Column("int16", (NUM_LEADS,), "largest valid sample, ADC units"),
    "num_missing": Column("uint16", (NUM_LEADS,), "samples equal to NO_SAMPLE"),
    "lead_flags": Column("uint16", (NUM_LEADS,), "quality flags per lead, bits of sharding.quality.LEAD_FLAGS"),
    "record_flags": Column("uint16", (), "quality flags per record, bits of sharding.quality.RECORD_FLAGS"),
}


def shard_name(shard: int) -> str:
    """File name of a shard: ``000042.tar``."""
    return f"{shard:06d}.tar"


@lru_cache(maxsize=4)
def npy_header(num_samples: int) -> bytes:
    """The npy header (version 1.0) of an int16 array ``[12, num_samples]``."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        buffer, {"descr": "<i2", "fortran_order": False, "shape": (NUM_LEADS, num_samples)}
    )
    return buffer.getvalue()


def lead_mask_to_bool(lead_mask: np.ndarray) -> np.ndarray:
    """uint16 bit masks ``[...]`` to booleans ``[..., 12]``."""
    return (lead_mask[..., None] >> np.arange(NUM_LEADS, dtype=np.uint16)) & 1 == 1


def manifest_text(manifest: dict[str, Any]) -> str:
    """The text of dataset.json for ``manifest``, which it ends with its own sha256."""
    content = {key: value for key, value in manifest.items() if key != "manifest_sha256"}
    return json.dumps(content | {"manifest_sha256": files.json_sha256(content)}, indent=1) + "\n"


def _why_no_shard_set(root: Path) -> str:
    """What ``root`` is instead of a finished shard set, and how to get one."""
    if not root.exists():
        return f"no such directory; make a shard set with 'lamae shard SOURCE {root}'"
    name = root.resolve().name.removesuffix(".zip")
    of_it = f"if these are recordings, make a shard set of them: 'lamae shard {root} {name}-shards'"
    if not root.is_dir():
        return f"a file, and no shard set; {of_it}"
    if (root / WORK_NAME).exists() or not any(root.iterdir()):
        return f"no {MANIFEST_NAME}, so this is no finished shard set; make it with 'lamae shard SOURCE {root}'"
    if (root / SHARDS_NAME).is_dir() and (root / INDEX_NAME).is_dir():
        return f"{MANIFEST_NAME} is missing, without which nothing tells that the others are whole; {_REMEDY}"
    return f"no {MANIFEST_NAME}, so this is no shard set; {of_it}"


@dataclass(frozen=True)
class ShardSet:
    """A complete shard set, opened for reading. Columns load on first use and stay in memory."""

    root: Path
    manifest: dict[str, Any]
    _columns: dict[str, np.ndarray] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def open(cls, path: "str | os.PathLike[str] | ShardSet") -> "ShardSet":
        """Open ``path``; one that is open already is returned as it is.

        Raises UsageError when it is no complete shard set and LamaeError when its manifest was changed since it was
        written, or was written by a newer version.
        """
        if isinstance(path, ShardSet):
            return path
        root = Path(path)
        manifest_path = root / MANIFEST_NAME
        if not manifest_path.is_file():
            raise UsageError(f"{root}: {_why_no_shard_set(root)}")
        try:
            manifest = json.loads(manifest_path.read_text())
            version = int(manifest["format_version"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise LamaeError(f"{manifest_path}: not readable as a shard set manifest ({error}); {_REMEDY}") from None
        files.check_version(root, "format version", version, FORMAT_VERSION)
        digest = manifest.pop("manifest_sha256", None)
        if digest != files.json_sha256(manifest):
            raise LamaeError(f"{manifest_path}: changed since it was written (sha256); {_REMEDY}")
        missing = [name for name in _REQUIRED if name not in manifest]
        if missing:
            raise LamaeError(f"{manifest_path}: has no {', '.join(missing)}; {_REMEDY}")
        return cls(root, {**manifest, "manifest_sha256": digest})

    @property
    def num_records(self) -> int:
        return int(self.manifest["num_records"])

    @property
    def num_samples(self) -> int:
        """Samples per lead, T."""
        return int(self.manifest["num_samples"])

    @property
    def rate_hz(self) -> float:
        return float(self.manifest["rate_hz"])

    @property
    def unknown_patients(self) -> str:
        """What the splits are where the patients of records are not known; empty where all are."""
        patients = self.manifest.get("plan", {}).get("patients", {})
        return str(patients["note"]) if patients.get("records_without") else ""

    @property
    def partly_named(self) -> str:
        """What tables given when packing say of a part of the records only, such as folds; empty where of all."""
        return "; ".join(self.manifest.get("plan", {}).get("partly_named", []))

    @property
    def index_hash(self) -> str:
        """What labels.zarr and embeddings.zarr carry to prove that their rows are this set's rows."""
        return str(self.manifest["index_sha256"])

    @property
    def index_sums(self) -> dict[str, str]:
        """sha256 of every file of the index; sets that were packed before the manifest held them have but the hash."""
        return self.manifest.get("index_files") or file_sums(self.root / INDEX_NAME)

    @cached_property
    def _index(self) -> CheckedGroup:
        root, sums = self.root / INDEX_NAME, self.index_sums
        index = CheckedGroup(root, sums, remedy=_REMEDY)
        if sums_digest(sums) != self.index_hash:
            raise LamaeError(f"{root}: changed since it was written (sha256); {_REMEDY}")
        return index

    def column(self, name: str) -> np.ndarray:
        """Column ``name`` of the index as an array ``[N, ...]``; see COLUMNS, or ``extra/NAME``. Read-only.

        Raises UsageError where there is none of that name, LamaeError where one of its files was lost or changed.
        """
        if name not in self._columns:
            if name not in self._index and name not in COLUMNS:
                there = ", ".join(each for each in self._index.names if each != EXTRA_PREFIX.rstrip("/"))
                raise UsageError(f"{self.root}: no column {name}; there are {there}")
            values = self._index[name]
            if len(values) != self.num_records:
                raise LamaeError(
                    f"{self.root / INDEX_NAME}: column {name} has {len(values)} rows, "
                    f"{MANIFEST_NAME} says {self.num_records}"
                )
            values.flags.writeable = False
            self._columns[name] = values
        return self._columns[name]

    @cached_property
    def shard_bytes(self) -> dict[str, int]:
        """Size of every tar, by its file name."""
        return {shard["name"]: int(shard["bytes"]) for shard in self.manifest["shards"]}

    @property
    def flagged_N(self) -> np.ndarray:
        """bool [N]: records with any quality flag, on a lead or as a whole."""
        return self.column("lead_flags").any(1) | (self.column("record_flags") > 0)

    @cached_property
    def keys(self) -> list[str]:
        raw = np.ascontiguousarray(self.column("key"))
        return [key.decode("ascii") for key in raw.view(f"S{raw.shape[1]}").ravel()] if len(raw) else []

    @cached_property
    def record_keys(self) -> list[str]:
        """Key of the record that each row is from: its own key, less a window's number (see sharding.windows)."""
        is_numbered = self.manifest.get("plan", {}).get("options", {}).get("windows") == "all"
        return [key.rpartition(WINDOW_MARK)[0] for key in self.keys] if is_numbered else self.keys

    @cached_property
    def row_by_record(self) -> dict[str, int]:
        """First row of every record, by the record's key."""
        found: dict[str, int] = {}
        for row, key in enumerate(self.record_keys):
            found.setdefault(key, row)
        return found

    @cached_property
    def first_row(self) -> np.ndarray:
        """int64 [N]: of every row, the first row of its record; its own where a record is one row."""
        return np.array([self.row_by_record[key] for key in self.record_keys], dtype=np.int64)

    @cached_property
    def row_by_key(self) -> dict[str, int]:
        """Row of every record's or window's key."""
        return {key: row for row, key in enumerate(self.keys)}

    def row_of(self, key: str) -> int:
        """Row of a record's or window's key, the first of a record's windows. Raises UsageError when there is none."""
        row = self.row_by_key.get(key, self.row_by_record.get(key))
        if row is None:
            raise UsageError(f"{self.root}: no record {key!r} among {self.num_records}, such as {self.keys[0]!r}")
        return row

    def rows_of_split(self, split: str) -> np.ndarray:
        """int64 rows of ``train``, ``val``, ``test`` or ``all``, ascending."""
        if split == "all":
            return np.arange(self.num_records, dtype=np.int64)
        if split not in SPLITS:
            raise UsageError(f"split {split!r} is none of {', '.join(SPLITS)}, all")
        return np.flatnonzero(self.column("split") == SPLITS.index(split)).astype(np.int64)

    def shard_path(self, shard: int) -> Path:
        return self.root / SHARDS_NAME / shard_name(shard)

    def read(self, row: int, *, verify: bool = True) -> np.ndarray:
        """int16 ``[12, T]`` in ADC units of record ``row``, checked against its crc32c."""
        shard, offset = int(self.column("shard")[row]), int(self.column("payload_offset")[row])
        length = int(self.column("payload_length")[row])
        path = self.shard_path(shard)
        try:
            with path.open("rb") as file:
                payload = os.pread(file.fileno(), length, offset)
        except OSError as error:
            raise LamaeError(f"{path}: {error.strerror}; run 'lamae verify {self.root}'") from None
        if len(payload) != length or (verify and google_crc32c.value(payload) != int(self.column("crc32c")[row])):
            raise LamaeError(
                f"{path}: record {self.keys[row]} at offset {offset} is corrupt (crc32c); "
                f"run 'lamae verify {self.root}'"
            )
        return np.frombuffer(payload, dtype="<i2").reshape(NUM_LEADS, -1)
