"""Rows and cells of a CSV, with errors that say the line."""

import ast
import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from lamae.sharding.errors import UsageError

_Literal = TypeVar("_Literal", list, dict)


def read_heading(file: Path) -> list[str]:
    """Names of the columns. Raises UsageError when the file cannot be read as CSV."""
    with _reading(file) as reader:
        return list(reader.fieldnames or ())


def read_rows(file: Path, wanted: list[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, row) of a CSV. Raises UsageError when it cannot be read or lacks a wanted column."""
    with _reading(file) as reader:
        missing = [name for name in wanted if name not in (reader.fieldnames or ())]
        if missing:
            raise UsageError(f"{file}: no column {', '.join(missing)}; is this the right file for the source?")
        for row in reader:
            if None in row.values():
                raise UsageError(f"{file}, line {reader.line_num}: fewer fields than the heading")
            yield reader.line_num, row


@contextmanager
def _reading(file: Path) -> "Iterator[csv.DictReader[str]]":
    csv.field_size_limit(1 << 24)
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            yield csv.DictReader(stream)
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror or error}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{file}: not readable as CSV ({error})") from None


def integer_key(text: str, column: str, where: str) -> str:
    """A key that is an integer, in its one spelling: "00017", "17.0" and "17" are the same record."""
    return str(integer(text, column, where))


def integer(text: str, column: str, where: str) -> int:
    try:
        value = float(text)
        if value != int(value):
            raise ValueError
        return int(text) if text.strip().lstrip("+-").isdigit() else int(value)
    except (ValueError, OverflowError):
        raise UsageError(f"{where}: {column} is {text!r}, not an integer") from None


def code_list(text: str, column: str, where: str) -> list[str]:
    return [str(code) for code in literal(text, list, column, where)] if text.strip() else []


def literal(text: str, kind: type[_Literal], column: str, where: str) -> _Literal:
    """A Python literal of ``kind``, parsed without evaluating it."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = None
    if not isinstance(value, kind):
        raise UsageError(f"{where}: {column} is {text[:60]!r}, not a {kind.__name__}")
    return value
