"""Whose record each is: what the source's list or paths leave open, by header comment, by a file, by a pattern.

A record that none of them names stays its own subject. That splits such records by record and not by patient, so it is
said wherever the splits are used.
"""

import logging
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from lamae.base.errors import UsageError
from lamae.base.files import file_sha256
from lamae.base.tables import Table, subject_number
from lamae.sharding.join import KEY_COLUMNS, values_by_key
from lamae.sharding.options import PackOptions
from lamae.sharding.sources import Entry, names_of

logger = logging.getLogger(__name__)

_SUBJECT_COLUMNS = ("subject", "subject_id", "patient", "patient_id")
_PATIENT_FOLDER = re.compile(r"(?:^|/)patient[_-]?(\d{1,18})/")  # of the PTB Diagnostic ECG Database


def name_subjects(entries: list[Entry], base: str, options: PackOptions) -> tuple[list[str], str | None]:
    """Give entries of the list the subjects that ``options`` and paths name; what named them, and the file's sha256.

    ``base`` stands before every path. Raises UsageError where an option cannot be used, contradicts what is known of a
    record, or leaves records without a subject though allow_unknown_subjects is false.
    """
    sources: dict[str, Callable[[Entry], int | None]] = {}
    sha256 = None
    if options.subjects_from:
        subject_of, sha256 = _from_file(Path(options.subjects_from), entries)
        sources[f"subjects_from={options.subjects_from}"] = subject_of
    if options.subject_pattern:
        subject_of = _from_pattern(options.subject_pattern, base, entries)
        sources[f"subject_pattern={options.subject_pattern}"] = subject_of
    for origin, subject_of in sources.items():
        _apply(entries, subject_of, origin)
    unknown = [entry.key for entry in entries if entry.subject is None]
    if sources and unknown and not options.allow_unknown_subjects:
        raise UsageError(
            f"{' and '.join(sources)}: no subject for {len(unknown)} of {len(entries)} records, such as {unknown[0]}; "
            f"allow_unknown_subjects=true lets each be a subject of its own"
        )
    named_by = [origin.partition("=")[0] for origin in sources]
    if unknown and not sources and _apply_folders(entries, base):
        named_by = ["folders patientNNN"]
    return named_by, sha256


def patients_of(entries: list[Entry], named_by: list[str]) -> dict[str, Any]:
    """What a plan says of the patients: how many records have one, who named them, and what splits that makes."""
    unknown = sum(entry.subject is None for entry in entries)
    known = len({entry.subject for entry in entries} - {None})
    note = "splits by patient"
    if unknown == len(entries):
        note = "splits by record: patients unknown"
    elif unknown:
        note = f"splits by patient, but by record for {unknown:,} of {len(entries):,} records: patients unknown"
    return {"known": known, "records_without": unknown, "named_by": named_by, "note": note}


def warn_of_unknown(patients: dict[str, Any]) -> None:
    """Log what it means where patients are not known, and the remedy."""
    if patients["records_without"]:
        logger.warning(
            "%s; one patient may be in train and test. --subjects-from FILE.csv or --subject-pattern REGEX names them",
            patients["note"],
        )


def _apply_folders(entries: list[Entry], base: str) -> int:
    """As ``_apply``; names nobody where a folder patientNNN and what is known differ: it then counts something else."""

    def subject_of(entry: Entry) -> int | None:
        return _found(_PATIENT_FOLDER, base, entry)

    for entry in entries:
        if entry.subject is not None and subject_of(entry) not in (None, entry.subject):
            logger.warning("folders patientNNN are no patients here: %s is of patient %d", entry.path, entry.subject)
            return 0
    return _apply(entries, subject_of, "folders patientNNN")


def _apply(entries: list[Entry], subject_of: Callable[[Entry], int | None], origin: str) -> int:
    """Name subjects in place, for there may be 800,000 entries; how many were named that had none."""
    num_named = 0
    for position, entry in enumerate(entries):
        subject = subject_of(entry)
        if subject is None:
            continue
        if entry.subject is None:
            entries[position] = replace(entry, subject=subject)
            num_named += 1
        elif subject != entry.subject:
            raise UsageError(
                f"{origin}: {entry.key} is of subject {subject} there, and of {entry.subject} by what is known "
                f"without; leave the option out, or correct it"
            )
    return num_named


def _from_file(path: Path, entries: list[Entry]) -> tuple[Callable[[Entry], int | None], str]:
    table = Table(path)
    key_column = table.require_one_of(*KEY_COLUMNS)
    subject_column = table.require_one_of(*_SUBJECT_COLUMNS)
    cells = values_by_key(table, [key_column], [subject_column], names_of(entries))
    subjects = {key: subject_number(text) for key, (text,) in cells.items()}
    return lambda entry: subjects.get(entry.key), file_sha256(path)


def _from_pattern(text: str, base: str, entries: list[Entry]) -> Callable[[Entry], int | None]:
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise UsageError(f"subject_pattern={text}: no regular expression ({error})") from None
    if pattern.groups != 1:
        raise UsageError(
            f"subject_pattern={text}: has {pattern.groups} groups in parentheses; the subject is what one holds, as "
            f"in patient(\\d+)/"
        )
    if not any(pattern.search(base + entry.path) for entry in entries):
        raise UsageError(f"subject_pattern={text}: is in no path, such as {base}{entries[0].path}")
    return lambda entry: _found(pattern, base, entry)


def _found(pattern: re.Pattern[str], base: str, entry: Entry) -> int | None:
    match = pattern.search(base + entry.path)
    return subject_number(match[1] or "") if match else None
