"""Rows and cells of a CSV, with errors that say the line."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from lamae.sharding.errors import UsageError
from lamae.sharding.tables import Table, whole_number

_Literal = TypeVar("_Literal", list, dict)


def read_heading(file: Path) -> list[str]:
    """Names of the columns. Raises UsageError when the file cannot be read as CSV."""
    return Table(file).names


def read_rows(file: Path, wanted: list[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, row) of a CSV. Raises UsageError when it cannot be read or lacks a wanted column."""
    table = Table(file)
    table.require(*wanted)
    yield from table


def integer_key(text: str, column: str, where: str) -> str:
    """A key that is an integer, in its one spelling: "00017", "17.0" and "17" are the same record."""
    return str(integer(text, column, where))


def integer(text: str, column: str, where: str) -> int:
    value = whole_number(text)
    if value is None:
        raise UsageError(f"{where}: {column} is {text!r}, not an integer")
    return value


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
