"""Files of one JSON object per line, one or several per step, and warnings that do not repeat themselves."""

import json
import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lamae.train.durable import write_durably

TELL_FAILURES_EVERY_S = 60.0

log = logging.getLogger(__name__)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of such a file, oldest first; a last line cut short by a kill is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


class RowFile:
    """Appends rows; on any rank but 0 it does nothing. What cannot be written costs a warning, not the run.

    Opening cuts the rows of steps that will be taken again, so that no step is told twice.
    """

    def __init__(self, path: Path, *, resume_step: int, is_main: bool) -> None:
        self._path = path
        self._is_main = is_main
        self._is_torn = False
        self._throttle = Throttle(TELL_FAILURES_EVERY_S)
        if is_main and path.exists():
            kept = [row for row in read_rows(path) if row["step"] <= resume_step]
            write_durably(path, "".join(json.dumps(row) + "\n" for row in kept))

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
            more = self._throttle.asks()
            if more is not None:
                log.warning("%s could not be written: %s%s", self._path, error.strerror or error, more)


class Throttle:
    """Lets one warning through per ``every_s``, and counts those it holds back."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._told = float("-inf")
        self._num_held = 0

    def asks(self) -> str | None:
        """None where the warning is held back; else what to add to it: how many were since the one before."""
        now = time.monotonic()
        if now - self._told < self._every_s:
            self._num_held += 1
            return None
        held, self._num_held, self._told = self._num_held, 0, now
        return f" ({held} more since the last such line)" if held else ""
