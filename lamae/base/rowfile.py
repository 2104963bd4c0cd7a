"""Files of one JSON object per line, one or several per step, and warnings that do not repeat themselves."""

import codecs
import json
import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lamae.base.errors import LamaeError
from lamae.base.files import write_text

WARN_EVERY_S = 60.0
TAIL_BYTES = 1 << 16

log = logging.getLogger(__name__)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of such a file, oldest first; lines that are none are left out, as one that a kill cut short is."""
    return _read(path)[0]


def last_row(path: Path, *, with_key: str) -> dict[str, Any]:
    """The newest row that has ``with_key``, looked for at the end of the file; empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            rows, _ = _parse(file.read())
    except OSError:
        return {}
    return next((row for row in reversed(rows) if with_key in row), {})


def _read(path: Path) -> tuple[list[dict[str, Any]], list[tuple[int, bytes]]]:
    """The rows, and the lines that are none, with their numbers. Raises LamaeError where the file cannot be read."""
    try:
        return _parse(path.read_bytes() if path.exists() else b"")
    except OSError as error:
        raise LamaeError(f"{path}: {error.strerror or error}; move it away to go on") from None


def _parse(text: bytes) -> tuple[list[dict[str, Any]], list[tuple[int, bytes]]]:
    rows, foreign = [], []
    for number, line in enumerate(text.split(b"\n"), start=1):
        # A power cut leaves zeros, an editor a byte order mark.
        line = line.removeprefix(codecs.BOM_UTF8).strip(b"\0 \t\r")
        try:
            row = json.loads(line.decode())
            if not isinstance(row["step"], int):
                raise TypeError
            rows.append(row)
        except (ValueError, TypeError, KeyError):
            if line:
                foreign.append((number, line))
    return rows, foreign


class RowFile:
    """Appends rows; on any rank but 0 it does nothing. What cannot be written costs a warning, not the run.

    Opening cuts the rows of steps that will be taken again, so that no step is there twice, and moves lines that are no
    rows to a file beside it.
    """

    def __init__(self, path: Path, *, resume_step: int, is_main: bool) -> None:
        self._path = path
        self._is_main = is_main
        self._is_torn = False
        self._throttle = Throttle(WARN_EVERY_S)
        if is_main and path.exists():
            rows, foreign = _read(path)
            try:
                self._move_aside(foreign)
                kept = [row for row in rows if row["step"] <= resume_step]
                write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
            except OSError as error:
                raise LamaeError(f"{path}: {error.strerror or error}; make room and start again") from None

    def _move_aside(self, foreign: list[tuple[int, bytes]]) -> None:
        if not foreign:
            return
        aside = self._path.with_name(f"{self._path.name}.unreadable")
        with aside.open("ab") as file:
            file.writelines(line + b"\n" for _, line in foreign)
        numbers = ", ".join(str(number) for number, _ in foreign[:10]) + ", …" * (len(foreign) > 10)
        log.warning("%s: no row with a step in line %s; moved to %s", self._path, numbers, aside.name)

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """``rows`` each hold their ``step``."""
        if not self._is_main:
            return
        text = "".join(json.dumps(row) + "\n" for row in rows)
        try:
            with self._path.open("a") as file:
                file.write("\n" * self._is_torn + text)
            self._is_torn = False
        except OSError as error:
            self._is_torn = True  # part of a line may be there
            self._throttle.warn(self._path, error)


class Throttle:
    """Lets one warning through per ``every_s``, and counts those it holds back."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._last = float("-inf")
        self._num_held = 0

    def passes(self) -> str | None:
        """None where the warning is held back; else what to add to it: how many were since the one before."""
        now = time.monotonic()
        if now - self._last < self._every_s:
            self._num_held += 1
            return None
        held, self._num_held, self._last = self._num_held, 0, now
        return f" ({held} more since the last such line)" if held else ""

    def warn(self, path: Path, error: OSError) -> None:
        """Log that ``path`` could not be written, unless that was logged a moment ago."""
        more = self.passes()
        if more is not None:
            log.warning("%s could not be written: %s%s", path, error.strerror or error, more)
