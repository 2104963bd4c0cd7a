"""Columns that a user adds to the index from a CSV file, aligned with the records by key.

A column whose every value is a number or empty becomes float64 with NaN for empty; any other becomes UTF-8 text,
padded with zero bytes like the keys. Whole numbers of more than 15 digits are ids, and stay text.
"""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from lamae.base.errors import UsageError
from lamae.base.files import file_sha256
from lamae.base.tables import Table
from lamae.sharding.join import KEY_COLUMNS, coverage, values_by_key
from lamae.sharding.sources import Entry, names_of
from lamae.sharding.walk import is_hidden

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,59}")  # of these zarr makes a folder


def with_columns(
    entries: list[Entry], path: str | None, *, allow_few: bool = False
) -> tuple[list[Entry], list[str], str | None, str]:
    """The entries with the values of the CSV file at ``path``, the columns' names, the file's sha256, and how many
    records it names where that is not all.

    Records that the file does not name get empty values. Raises UsageError where the file cannot be used.
    """
    if path is None:
        return entries, [], None, ""
    table = Table(Path(path))
    key_column = table.require_one_of(*KEY_COLUMNS)
    table.refuse_repeated_names()
    names = [name for name in table.names if name != key_column]
    for name in names:
        if not _NAME.fullmatch(name) or name == "zarr.json" or is_hidden(name):
            raise UsageError(
                f"{path}: a column named {name!r} cannot go into the index; name it with letters, digits and _, or "
                f"leave it out"
            )
    values = values_by_key(table, [key_column], names, names_of(entries))
    keys = [entry.key for entry in entries]
    note = coverage(table.path, "columns", keys, values, others="the others get empty values", allow_few=allow_few)
    empty = ("",) * len(names)
    found = [replace(entry, extra=values.get(entry.key, empty)) for entry in entries]
    return found, names, file_sha256(Path(path)), note


def typed_column(values: list[str]) -> np.ndarray:
    """float64 ``[N]`` where every value is empty or a number that float64 holds whole, else uint8 ``[N, K]``."""
    try:
        if not any("_" in value or (len(value) > 15 and value.isdecimal()) for value in values):
            return np.array([float(value) if value else np.nan for value in values])
    except ValueError:
        pass
    raw = np.array([value.encode() for value in values], dtype="S")
    return raw.view(np.uint8).reshape(len(values), raw.dtype.itemsize)
