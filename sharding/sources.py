"""What there is to pack: a source's records with their keys, subjects and folds, reconciled with its own list.

mimic   MIMIC-IV-ECG or a branch of it: record_list.csv, files/pNNNN/pNNNNNNNN/sNNNNNNNN/NNNNNNNN.hea; key study_id
ptbxl   PTB-XL: ptbxl_database.csv and records500/NNNNN/NNNNN_hr.hea (or records100); key the file's stem
code15  CODE-15 %: exams.csv and exams_part*.hdf5 (sharding.hdf5); key exam_id
wfdb    any directory of WFDB records; key the stem, or the path where stems repeat

Paths are relative to the folder that all records, and the source's list, have in common: so a set is the same whether
the source is its root, a folder around that, or a zip of either.
"""

import logging
import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lamae.base.errors import UsageError
from lamae.base.progress import Progress, ignore
from lamae.base.tables import Table, subject_number, whole_number
from lamae.sharding.files import HEADER_SUFFIX, Files
from lamae.sharding.hdf5 import EXAMS_NAME, Hdf5Files, is_hdf5
from lamae.sharding.header import subject_comment
from lamae.sharding.keys import RecordNames, keys_of
from lamae.sharding.reading import header_or_nothing
from lamae.sharding.splits import split_of_fold

logger = logging.getLogger(__name__)

MIMIC_LIST = "record_list.csv"
MIMIC_DIAGNOSES = "records_w_diag_icd10.csv"
"""Of MIMIC-IV-ECG-Ext-ICD, which is given out apart from the recordings."""
PTBXL_LIST = "ptbxl_database.csv"
_MIMIC_PATH = re.compile(r"(?:.*/)?p(?P<subject>\d{1,18})/s(?P<study>\d+)/(?P=study)")
_PTBXL_COLUMNS = {500: "filename_hr", 100: "filename_lr"}
_PTBXL_LAST_FOLD = 10
_NUM_LOOKED_AT = 16  # headers that recognition reads


@dataclass(frozen=True, slots=True)
class Entry:
    """One record of a listing."""

    key: str
    path: str  # relative to the source, without .hea
    subject: int | None
    split: int | None  # index into SPLITS where the source gives folds
    extra: tuple[str, ...] = ()  # values of the columns that the user adds


def names_of(entries: Iterable[Entry]) -> RecordNames:
    """What tables may call these records."""
    paths = {entry.key: entry.path for entry in entries}
    return RecordNames(paths, paths)


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
    why: str
    """What the kind was recognised by."""
    entries: list[Entry]
    reconciliation: Reconciliation
    named_by: str
    """What names the entries' subjects; empty where none has one yet."""
    ptbxl_rate_hz: int | None = None
    """Which of PTB-XL's two copies was taken."""


def list_source(
    files: Files, *, kind: str = "auto", ptbxl_rate_hz: int | None = None, progress: Progress = ignore
) -> Listing:
    """List the records of a source, and make paths in ``files`` relative to their common folder.

    Those of the kind code15 are of ``Hdf5Files`` instead.
    Raises UsageError where there is nothing to pack, or where auto cannot know what is meant.
    """
    found, lists, hdf5 = _walk(files, kind, progress)
    if kind == "code15" or (kind == "auto" and hdf5 and not found):
        return _list_code15(files, hdf5)
    files.base = _common_folder([*found, *lists])
    found = sorted(path[len(files.base) :] for path in found)
    why = f"--source {kind}"
    if kind == "auto":
        kind, why = _recognise(files, found, lists)
    if kind == "ptbxl":
        listing = _list_ptbxl(files, found, why, ptbxl_rate_hz)
    elif kind == "mimic":
        listing = _list_mimic(files, found, why)
    else:
        entries = [Entry(key, path, None, None) for key, path in zip(keys_of(found), found, strict=True)]
        listing = Listing("wfdb", why, entries, _reconcile(None, found, []), "")
    if not listing.entries:
        raise UsageError(
            f"{files.root}: {len(found)} WFDB headers, but none where {kind} keeps its records; give the root of the "
            f"data set, or another --source"
        )
    listing.entries.sort(key=lambda entry: entry.key)
    return listing


def _common_folder(paths: list[str]) -> str:
    """The deepest folder that all paths are below, with a ``/`` at its end, or the empty string."""
    start = posixpath.commonprefix([min(paths), max(paths)])
    return start[: start.rfind("/") + 1]


def _walk(files: Files, kind: str, progress: Progress) -> tuple[list[str], list[str], list[str]]:
    """Paths of all headers, without their suffix, of all lists of PTB-XL and MIMIC-IV-ECG, and of all HDF5 files."""
    found, lists, hdf5, others, zips = [], [], [], [], []
    for path in files.paths():
        if path.endswith(HEADER_SUFFIX):
            found.append(path.removesuffix(HEADER_SUFFIX))
            if len(found) % 1000 == 0:
                progress("list", len(found), None)
        elif posixpath.basename(path) in (MIMIC_LIST, PTBXL_LIST):
            lists.append(path)
        elif is_hdf5(path):
            hdf5.append(path)
        elif path[-len(HEADER_SUFFIX) :].casefold() == HEADER_SUFFIX:
            others.append(path)
        elif path.casefold().endswith(".zip"):
            zips.append(path)
    if others:
        raise UsageError(
            f"{files.root}: {len(others)} files such as {min(others)} end in {others[0][-4:]}, where no WFDB "
            f"reader looks; rename them to end in {HEADER_SUFFIX}"
        )
    parts = [path for path in hdf5 if posixpath.basename(path).startswith("exams_part")]
    if kind == "auto" and found and parts:
        raise UsageError(
            f"{files.root}: WFDB headers such as {min(found)}{HEADER_SUFFIX}, and CODE-15 % in HDF5 such as "
            f"{min(parts)}; give the folder of one of them, or --source code15 or wfdb"
        )
    if not found and not (hdf5 and kind in ("auto", "code15")):
        remedy = f"; give {min(zips)} itself" if zips else "; is this the right place?"
        if any(posixpath.basename(path).startswith("exams_part") for path in zips):
            remedy = f"; of CODE-15 %, unzip {min(zips)} and the others"
        raise UsageError(f"{files.root}: no WFDB header (*.hea) anywhere below{remedy}")
    if found and zips:
        logger.warning(
            "%s: %d zips such as %s are not read; pack one by giving it itself, or unzip it here",
            files.root,
            len(zips),
            min(zips),
        )
    if found:
        progress("list", len(found), len(found))
    return found, lists, hdf5


def _recognise(files: Files, found: list[str], lists: list[str]) -> tuple[str, str]:
    """``mimic``, ``ptbxl`` or ``wfdb``, and what says so. Raises UsageError where a list covers only a part."""
    if files.exists(PTBXL_LIST):
        return "ptbxl", PTBXL_LIST
    if files.exists(MIMIC_LIST):
        return "mimic", MIMIC_LIST
    if lists:
        raise UsageError(
            f"{files.root}: {min(lists)} is the list of a part of what is here, or not beside its records; give the "
            f"folder of that list and pack the rest by itself, or --source wfdb to take everything without the list"
        )
    num_mimic = sum(_MIMIC_PATH.fullmatch(files.base + path) is not None for path in found)
    if 2 * num_mimic > len(found):
        return "mimic", f"{num_mimic} of {len(found)} paths are like MIMIC-IV-ECG's"
    chosen = found[:: -(-len(found) // _NUM_LOOKED_AT)]
    num_mimic = sum(b"<subject_id>" in header_or_nothing(files, path) for path in chosen)
    if 2 * num_mimic > len(chosen):
        return "mimic", "headers name a <subject_id>, as MIMIC-IV-ECG's do"
    if (above := _ptbxl_root_above(files, found[0])) is not None:
        raise UsageError(
            f"{files.root}: a part of PTB-XL, whose patients and folds are in {above / PTBXL_LIST}; give {above}, or "
            f"--source wfdb to take these records without them"
        )
    return "wfdb", "neither a list nor paths nor headers like those of MIMIC-IV-ECG or PTB-XL"


def _ptbxl_root_above(files: Files, path: str) -> Path | None:
    """The folder above the source whose list of PTB-XL names the record at ``path``."""
    record = files.root.resolve() / files.base / path
    for folder in [] if files.root.is_file() else list(files.root.resolve().parents)[:2]:
        try:
            if record.relative_to(folder).as_posix() in (folder / PTBXL_LIST).read_text(errors="replace"):
                return folder
        except OSError:
            continue
    return None


def _list_mimic(files: Files, found: list[str], why: str) -> Listing:
    listed = None
    if files.exists(MIMIC_LIST):
        table = Table(files.root / files.base / MIMIC_LIST, files.read(MIMIC_LIST))
        table.require("path")
        listed = (row["path"] for _, row in table)
    subjects = [_mimic_subject(files, path) for path in found]
    unused = [path for path, subject in zip(found, subjects, strict=True) if subject is None]
    paths = [path for path, subject in zip(found, subjects, strict=True) if subject is not None]
    known = (subject for subject in subjects if subject is not None)
    entries = [Entry(key, path, subject, None) for key, path, subject in zip(keys_of(paths), paths, known, strict=True)]
    return Listing("mimic", why, entries, _reconcile(listed, found, unused), "paths or headers")


def _mimic_subject(files: Files, path: str) -> int | None:
    match = _MIMIC_PATH.fullmatch(files.base + path)
    return int(match["subject"]) if match else subject_comment(header_or_nothing(files, path).decode("latin-1"))


def _list_ptbxl(files: Files, found: list[str], why: str, rate_hz: int | None) -> Listing:
    try:
        table = Table(files.root / files.base / PTBXL_LIST, files.read(PTBXL_LIST))
    except FileNotFoundError:
        raise UsageError(f"{files.root / files.base / PTBXL_LIST}: not there") from None
    table.require("patient_id", "strat_fold", *([_PTBXL_COLUMNS[rate_hz]] if rate_hz else []))
    listed: dict[int, dict[str, tuple[int, int]]] = {
        rate: {} for rate, column in _PTBXL_COLUMNS.items() if table.first_of(column)
    }
    for line, row in table:
        subject, fold = whole_number(row["patient_id"]), whole_number(row["strat_fold"])
        for rate, rows in listed.items():
            path = row[_PTBXL_COLUMNS[rate]]
            if subject is None or not 0 <= subject < 2**63 or fold is None or not 1 <= fold <= _PTBXL_LAST_FOLD:
                raise UsageError(
                    f"{table.where(line)}: {path} has patient_id {row['patient_id']!r} and strat_fold "
                    f"{row['strat_fold']!r}; they must be whole numbers, the fold one from 1 to {_PTBXL_LAST_FOLD}"
                )
            if path and rows.setdefault(path, (subject, fold)) != (subject, fold):
                raise UsageError(
                    f"{table.where(line)}: {path} a second time, with patient {subject} and fold {fold} instead of "
                    f"{rows[path][0]} and {rows[path][1]}; keep one row"
                )
    here = set(found)
    chosen = next((rate for rate in [rate_hz or 500, 100] if not here.isdisjoint(listed.get(rate, ()))), None)
    if chosen is None or (rate_hz is not None and chosen != rate_hz):
        other = next((rate for rate in listed if not here.isdisjoint(listed[rate])), None)
        raise UsageError(
            f"{table.path}: none of the recordings it lists at {rate_hz or 500} Hz is here; "
            + (
                f"some at {other} are: give ptbxl_rate_hz={other}"
                if other
                else "are records100 or records500 beside it?"
            )
        )
    rows = listed[chosen]
    paths = [path for path in found if path in rows]
    entries = [
        Entry(key, path, subject=rows[path][0], split=split_of_fold(rows[path][1], _PTBXL_LAST_FOLD))
        for key, path in zip(keys_of(paths), paths, strict=True)
    ]
    others = {path for rate, rows in listed.items() if rate != chosen for path in rows}
    found = [path for path in found if path not in others]
    unused = [path for path in found if path not in rows]
    return Listing("ptbxl", why, entries, _reconcile(rows, found, unused), PTBXL_LIST, chosen)


def _list_code15(files: Files, hdf5: list[str]) -> Listing:
    tables = [path for path in files.paths() if posixpath.basename(path) == EXAMS_NAME]
    if files.root.is_file():
        raise UsageError(f"{files.root}: HDF5 is not read inside a zip; unzip it into the folder of {EXAMS_NAME}")
    if len(tables) != 1:
        raise UsageError(
            f"{files.root}: {' and '.join(sorted(tables)) or f'no {EXAMS_NAME}'} beside {min(hdf5, default='*.hdf5')}; "
            f"one is needed, for whose exam each is; CODE-15 % has it at https://zenodo.org/records/4916206"
        )
    table = Table(files.root / tables[0], files.read(tables[0]))
    table.require("exam_id", "patient_id")
    table.first_of("trace_file")
    listed: dict[str, tuple[str, str]] = {}
    for line, row in table:
        number = whole_number(row["exam_id"])
        said = row["patient_id"], posixpath.splitext(row.get("trace_file", ""))[0]
        if number is None or listed.setdefault(str(number), said) != said:
            why = "is no whole number" if number is None else "a second time, with another patient_id or trace_file"
            raise UsageError(f"{table.where(line)}: exam_id {row['exam_id']!r} {why}; correct or remove the row")
    found = [path.removesuffix(HEADER_SUFFIX) for path in Hdf5Files(files.root).paths()]
    place: dict[str, str] = {}
    unused: list[str] = []
    for path in found:
        part, _, exam = path.rpartition("/")
        if exam not in listed:  # every part ends with a row for exam 0
            unused.append(path)
            continue
        if exam in place:
            raise UsageError(
                f"{files.root}: exam {exam} is in {place[exam].rpartition('/')[0]} and a second time in {part}; keep "
                f"one of them"
            )
        place[exam] = path
    if not place:
        raise UsageError(f"{table.path}: lists none of the {len(found)} exams below {files.root}; is it theirs?")
    entries = [Entry(exam, place[exam], subject_number(listed[exam][0]), None) for exam in sorted(place)]
    paths = (place.get(exam, f"{part}/{exam}".lstrip("/")) for exam, (_, part) in listed.items())
    why = f"{EXAMS_NAME}, and exam_id and tracings in {len(hdf5)} HDF5 files"
    return Listing("code15", why, entries, _reconcile(paths, found, unused), EXAMS_NAME)


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
