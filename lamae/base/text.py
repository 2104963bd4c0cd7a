"""Text from elsewhere (names of files and patients, headers, codes) as it may be shown to people.

A terminal obeys escape sequences in what it is sent, and a spreadsheet computes cells that begin like a formula.
"""

import logging
import re
from collections.abc import Iterable, Sequence

from lamae.base.errors import UsageError

# Control characters but tab and line feed, and those that turn the direction of what follows or break the line.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """Characters that act and are not seen as backslash escapes; tabs and line feeds stay."""
    return _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def slug(name: str) -> str:
    """A name as part of a path or an address: letters and digits, all else a hyphen."""
    return "".join(c if c.isalnum() else "-" for c in name)


def one_line(text: str) -> str:
    """``visible`` with tabs and line feeds as escapes, too."""
    return visible(text).replace("\t", "\\t").replace("\n", "\\n")


def few(names: Sequence[str], limit: int = 20, *, between: str = ", ") -> str:
    """The first names in a line, and how many more there are."""
    more = len(names) - limit
    return between.join([*names[:limit], *([f"and {more} more"] if more > 0 else [])])


def csv_row(values: Iterable[object]) -> list[str]:
    """Cells for a CSV that people open: one line each, and no formula (those get an apostrophe in front)."""
    return [_no_formula(one_line(str(value))) for value in values]


def whole_numbers(option: str, text: str, *, example: str, least: int = 1) -> list[int]:
    """``1,2,4`` as numbers. Raises UsageError, with ``example``, where they are none or below ``least``."""
    try:
        numbers = [int(number) for number in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < least:
        words = f"whole numbers of at least {least} with commas between, for example {example}"
        raise UsageError(f"{option} {text}: {words}")
    return numbers


class LogFormatter(logging.Formatter):
    """The project's log lines: messages are ``visible``."""

    def __init__(self, time_format: str) -> None:
        super().__init__("%(asctime)s %(levelname).1s %(message)s", datefmt=time_format)

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = visible(record.message)
        return super().formatMessage(record)


def _no_formula(text: str) -> str:
    if not text.startswith(("=", "+", "-", "@")):
        return text
    try:
        float(text)
    except ValueError:
        return "'" + text
    return text


def format_duration(seconds: float) -> str:
    """``59 s``, ``12:03``, ``2:03:04``, ``3 d 02:03``."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if days:
        return f"{days} d {h:02d}:{m:02d}"
    if hours:
        return f"{hours}:{m:02d}:{s:02d}"
    return f"{m}:{s:02d}" if minutes else f"{s} s"
