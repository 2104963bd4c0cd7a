"""What there is to pack: a source's records with their keys, subjects and folds, reconciled with its own list.

mimic   MIMIC-IV-ECG: record_list.csv and files/pNNNN/pNNNNNNNN/sNNNNNNNN/NNNNNNNN.hea; key study_id
ptbxl   PTB-XL: ptbxl_database.csv and records500/NNNNN/NNNNN_hr.hea (or records100); key the file's stem
wfdb    any directory of WFDB records; key the stem, or the path where stems repeat; each its own subject
"""

import csv
import hashlib
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lamae.sharding.errors import UsageError
from lamae.sharding.files import Files
from lamae.sharding.progress import Progress, ignore
from lamae.sharding.splits import split_of_fold

MIMIC_LIST = "record_list.csv"
PTBXL_LIST = "ptbxl_database.csv"
_MIMIC_PATH = re.compile(r"(?:.*/)?p\d+/p(?P<subject>\d+)/s(?P<study>\d+)/(?P=study)")
_PTBXL_LAST_FOLD = 10
_MAX_KEY = 90  # KEY.json must fit the 100 bytes of a tar name


@dataclass(frozen=True, slots=True)
class Entry:
    """One record of a listing."""

    key: str
    path: str  # relative to the source, without .hea
    subject: int | None
    split: int | None  # index into SPLITS where the source gives folds
    extra: tuple[str, ...] = ()  # values of the columns that the user adds


@dataclass(frozen=True)
class Reconciliation:
    """The source's own list against what is there."""

    expected: int | None  # records in the source's list; None where it has none
    found: int  # headers found
    missing: list[str]  # paths listed but not found
    unlisted: list[str]  # paths found but not listed
    unused: list[str]  # paths found that cannot be packed: no subject is known for them

    def counts(self) -> dict[str, int | None]:
        """The numbers that go into the manifest."""
        return {
            "expected": self.expected,
            "found": self.found,
            "missing": len(self.missing),
            "unlisted": len(self.unlisted),
            "unused": len(self.unused),
        }


@dataclass(frozen=True)
class Listing:
    """Every record that will be looked at, sorted by key."""

    kind: str
    entries: list[Entry]
    reconciliation: Reconciliation


def list_source(
    files: Files, *, kind: str = "auto", ptbxl_rate_hz: int = 500, progress: Progress | None = None
) -> Listing:
    """List the records of a source. Raises UsageError where there is nothing to pack."""
    source = files.root
    found = _walk(files, progress or ignore)
    if not found:
        raise UsageError(f"{source}: no WFDB header (*.hea) anywhere below; is this the right place?")
    kind = detect(files, found) if kind == "auto" else kind
    if kind == "mimic":
        listing = _list_mimic(files, found)
    elif kind == "ptbxl":
        listing = _list_ptbxl(files, found, ptbxl_rate_hz)
    else:
        listing = _list_wfdb(found)
    if not listing.entries:
        raise UsageError(
            f"{source}: {len(found)} WFDB headers, but none where {kind} keeps its records; "
            f"choose another source kind, for example wfdb"
        )
    return listing


def detect(files: Files, found: list[str]) -> str:
    """``mimic``, ``ptbxl`` or ``wfdb``, by the lists in the root and where the first record is."""
    if files.exists(PTBXL_LIST):
        return "ptbxl"
    if files.exists(MIMIC_LIST) or _MIMIC_PATH.fullmatch(found[0]):
        return "mimic"
    return "wfdb"


def _walk(files: Files, progress: Progress) -> list[str]:
    found = []
    for path in files.records():
        found.append(path)
        if len(found) % 1000 == 0:
            progress("list", len(found), None)
    progress("list", len(found), len(found))
    return sorted(found)


def _list_mimic(files: Files, found: list[str]) -> Listing:
    listed = None
    if files.exists(MIMIC_LIST):
        listed = (row["path"] for row in _csv_rows(files, MIMIC_LIST, ("path",)))
    unused = [path for path in found if not _MIMIC_PATH.fullmatch(path)]
    reconciliation = _reconcile(listed, found, unused)
    left_out = set(unused)
    paths = [path for path in found if path not in left_out] if unused else found
    entries = [Entry(key, path, _mimic_subject(path), None) for key, path in zip(keys_of(paths), paths, strict=True)]
    return _listing("mimic", entries, reconciliation)


def _mimic_subject(path: str) -> int:
    match = _MIMIC_PATH.fullmatch(path)
    assert match is not None
    return int(match["subject"])


def _list_ptbxl(files: Files, found: list[str], rate_hz: int) -> Listing:
    folder, column = ("records500/", "filename_hr") if rate_hz == 500 else ("records100/", "filename_lr")
    rows = {row[column]: row for row in _csv_rows(files, PTBXL_LIST, ("patient_id", "strat_fold", column))}
    found = [path for path in found if path.startswith(folder)]
    paths = [path for path in found if path in rows]
    entries = []
    for key, path in zip(keys_of(paths), paths, strict=True):
        row = rows[path]
        try:
            subject, fold = int(float(row["patient_id"])), int(float(row["strat_fold"]))
        except ValueError:
            raise UsageError(
                f"{files.root / PTBXL_LIST}: {path} has patient_id {row['patient_id']!r} and strat_fold "
                f"{row['strat_fold']!r}; both must be numbers"
            ) from None
        entries.append(Entry(key, path, subject=subject, split=split_of_fold(fold, _PTBXL_LAST_FOLD)))
    unused = [path for path in found if path not in rows]
    return _listing("ptbxl", entries, _reconcile(rows, found, unused))


def _list_wfdb(found: list[str]) -> Listing:
    entries = [Entry(key, path, None, None) for key, path in zip(keys_of(found), found, strict=True)]
    return _listing("wfdb", entries, _reconcile(None, found, []))


def _listing(kind: str, entries: list[Entry], reconciliation: Reconciliation) -> Listing:
    entries.sort(key=lambda entry: entry.key)
    return Listing(kind, entries, reconciliation)


def _reconcile(listed: Iterable[str] | None, found: list[str], unused: list[str]) -> Reconciliation:
    """Compare the source's list with what is there, keeping no path twice: both may have 800,000."""
    if listed is None:
        return Reconciliation(None, len(found), missing=[], unlisted=[], unused=unused)
    is_listed = dict.fromkeys(found, False)
    missing = set()
    for path in listed:
        if path in is_listed:
            is_listed[path] = True
        else:
            missing.add(path)
    unlisted = [path for path in found if not is_listed[path]]
    expected = len(found) - len(unlisted) + len(missing)
    return Reconciliation(expected, len(found), sorted(missing), unlisted, unused)


def keys_of(paths: Iterable[str]) -> list[str]:
    """A unique key for every path: the stem; where stems repeat, the path with ``/`` as ``__``.

    A key is ASCII without ``.`` (webdataset cuts there); what that would make equal or too long gets 8 hex digits of
    the path's sha256, so every path keeps a key of its own that does not depend on the order of the listing.
    """
    paths = list(paths)
    stems = [_clean(path.rpartition("/")[2]) for path in paths]
    if len(set(stems)) == len(stems) and len(max(stems, key=len, default="")) <= _MAX_KEY:
        return stems
    repeated = Counter(stems)
    keys = [
        stem if repeated[stem] == 1 else _clean(path.replace("/", "__"))
        for stem, path in zip(stems, paths, strict=True)
    ]
    repeated = Counter(keys)
    return [
        key if repeated[key] == 1 and len(key) <= _MAX_KEY else f"{key[: _MAX_KEY - 9]}-{_short_hash(path)}"
        for key, path in zip(keys, paths, strict=True)
    ]


def _clean(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_+=@-]", "_", name)


def _short_hash(path: str) -> str:
    return hashlib.sha256(path.encode()).hexdigest()[:8]


def _csv_rows(files: Files, name: str, columns: tuple[str, ...]) -> Iterator[dict[str, str]]:
    path = files.root / name
    try:
        rows = csv.DictReader(io.TextIOWrapper(io.BytesIO(files.read(name)), encoding="utf-8-sig", newline=""))
        absent = [column for column in columns if column not in (rows.fieldnames or [])]
        if absent:
            raise UsageError(f"{path}: no column {', '.join(absent)}; this is not the file of that name")
        yield from rows
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: unreadable ({error})") from None
