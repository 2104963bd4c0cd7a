"""A run's log file: what the console says, for whoever looks into the run directory later."""

import logging
from pathlib import Path
from types import TracebackType

from lamae.base.errors import LamaeError
from lamae.base.rowfile import WARN_EVERY_S, Throttle
from lamae.base.rundirectory import RunDirectory
from lamae.base.text import LogFormatter


class RunLog(logging.Handler):
    """Appends every log record to ``RUN/log.txt``, and why the run failed; on any rank but 0 it does nothing.

    What was said before ``begin``, when it is not yet known whether there is anything to do, is written then. What
    cannot be written costs a warning, not the run.
    """

    def __init__(self, run_dir: Path, *, is_main: bool) -> None:
        super().__init__()
        self.setFormatter(LogFormatter("%Y-%m-%d %H:%M:%S"))
        self._path = RunDirectory(run_dir).log
        self._is_main = is_main
        self._early: list[str] | None = []
        self._throttle = Throttle(WARN_EVERY_S)

    def __enter__(self) -> "RunLog":
        if self._is_main:
            logging.getLogger().addHandler(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        logging.getLogger().removeHandler(self)
        if self._is_main and isinstance(error, Exception):
            trace = None if isinstance(error, LamaeError) else (type(error), error, traceback)
            message = f"failed: {error or type(error).__name__}"
            self.handle(logging.LogRecord(__name__, logging.ERROR, __file__, 0, message, None, trace))

    def begin(self) -> None:
        """The run directory is there and this start has steps to take."""
        early, self._early = self._early or [], None
        if self._is_main and early:
            self._write(early)

    def emit(self, record: logging.LogRecord) -> None:
        if self._early is None:
            self._write([self.format(record)])
        else:
            self._early.append(self.format(record))

    def _write(self, lines: list[str]) -> None:
        try:
            with self._path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write("".join(f"{line}\n" for line in lines))
        except OSError as error:
            self._throttle.warn(self._path, error)
