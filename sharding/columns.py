"""Columns that a user adds to the index from a CSV file, aligned with the records by key.

A column whose every value is a number or empty becomes float64 with NaN for empty; any other becomes UTF-8 text,
padded with zero bytes like the keys.
"""

import csv
import hashlib
import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from lamae.sharding.errors import UsageError
from lamae.sharding.sources import Entry
from lamae.sharding.splits import KEY_COLUMNS, no_key_matches

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,60}")


def with_columns(entries: list[Entry], path: str | None) -> tuple[list[Entry], list[str], str | None]:
    """The entries with the values of the CSV file at ``path``, the columns' names and the file's sha256.

    Records that the file does not name get empty values. Raises UsageError where the file cannot be used.
    """
    if path is None:
        return entries, [], None
    try:
        content = Path(path).read_bytes()
        rows = csv.DictReader(content.decode("utf-8-sig").splitlines(keepends=True))
        names = list(rows.fieldnames or [])
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; columns_from is a CSV file with a key column") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path}: not a text file; columns_from is a CSV file with a key column") from None
    key_column = next((name for name in KEY_COLUMNS if name in names), None)
    if key_column is None:
        raise UsageError(f"{path}: needs a column {' or '.join(KEY_COLUMNS)}; it has {', '.join(names)}")
    names.remove(key_column)
    for name in names:
        if not _NAME.fullmatch(name):
            raise UsageError(f"{path}: column {name!r} cannot be a name in the index; use letters, digits and _")
    values = {row[key_column]: tuple(row[name] or "" for name in names) for row in rows}
    if not any(entry.key in values for entry in entries):
        raise no_key_matches(path, key_column, values, entries[0].key)
    empty = ("",) * len(names)
    found = [replace(entry, extra=values.get(entry.key, empty)) for entry in entries]
    return found, names, hashlib.sha256(content).hexdigest()


def typed_column(values: list[str]) -> np.ndarray:
    """float64 ``[N]`` where every value is a number or empty, else uint8 ``[N, K]``."""
    try:
        return np.array([float(value) if value else np.nan for value in values])
    except ValueError:
        raw = np.array([value.encode() for value in values], dtype="S")
        return raw.view(np.uint8).reshape(len(values), raw.dtype.itemsize)
