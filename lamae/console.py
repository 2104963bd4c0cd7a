"""What the command line shows: a progress bar on a terminal, plain lines in a log file, one line for an error.

Nothing printed here is read as markup or obeyed by the terminal: paths, record keys and codes hold anything.
"""

import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

from lamae.base.progress import Progress, ignore
from lamae.base.text import LogFormatter, one_line, visible

LOG_LINE_EVERY_S = 10.0
# Of tables in a file or a pipe, which have no edge of their own.
LOG_WIDTH = 240
# quiet, verbose, or anything else for neither. In the environment, so that processes started from here follow it.
VERBOSITY_VARIABLE = "LAMAE_VERBOSITY"
GOES_ON = "what is complete stays, and what can go on does so with the same command"

_plain_console = partial(Console, highlight=False, markup=False, emoji=False)
console = _plain_console()


def set_up_logging() -> None:
    """Send our own log records to standard error, one short line each; other packages only from warnings on.

    To be called before torch is imported: its profiler's own messages, which no logger carries, are kept back too.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    for stream in (sys.stdout, sys.stderr):  # names of files and patients need not fit the terminal's encoding
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogFormatter("%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    set_verbosity(os.environ.get(VERBOSITY_VARIABLE, ""))


def set_verbosity(verbosity: str) -> None:
    """``quiet``: warnings, errors and results only; ``verbose``: every log record; else what lies between."""
    os.environ[VERBOSITY_VARIABLE] = verbosity
    # Held back by the handler, not the logger: a run's log file gets all of it.
    logging.getLogger("lamae").setLevel(logging.DEBUG if verbosity == "verbose" else logging.INFO)
    for handler in logging.getLogger().handlers:
        if type(handler) is logging.StreamHandler:
            handler.setLevel(logging.WARNING if verbosity == "quiet" else logging.NOTSET)


def is_quiet() -> bool:
    return os.environ.get(VERBOSITY_VARIABLE) == "quiet"


def say(text: str = "", *, style: str | None = None) -> None:
    """A line of the result, never wrapped and never left out."""
    console.print(visible(text), style=style, soft_wrap=True)


def hint(text: str = "", *, style: str | None = None) -> None:
    """A line on the way or beyond the result; none with --quiet."""
    if not is_quiet():
        say(text, style=style)


@contextmanager
def show_progress() -> Iterator[Progress]:
    """A progress callback: bars on a terminal; elsewhere a line when a stage starts, ends, and every ten seconds."""
    if is_quiet():
        yield ignore
        return
    if console.is_terminal:
        with RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        ) as bars:
            tasks = {}

            def update_bar(stage: str, done: int, total: int | None) -> None:
                if stage not in tasks:
                    tasks[stage] = bars.add_task(stage, total=total)
                bars.update(tasks[stage], completed=done, total=total)

            yield update_bar
        return

    started: dict[str, float] = {}
    printed: dict[str, float] = {}

    def print_line(stage: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        started.setdefault(stage, now)
        finished = total is not None and done >= total
        if finished and printed.get(stage) == float("inf"):
            return
        if not finished and now - printed.get(stage, float("-inf")) < LOG_LINE_EVERY_S:
            return
        printed[stage] = float("inf") if finished else now
        of = f" of {total:,}" if total is not None else ""
        say(f"{stage}: {done:,}{of}, {now - started[stage]:.1f} s")

    yield print_line


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """A table below its title, which may be longer than it is wide; columns after the first are right-aligned."""
    table = Table()
    for position, column in enumerate(columns):
        table.add_column(one_line(column), justify="left" if position == 0 else "right")
    for row in rows:
        table.add_row(*map(one_line, row))
    say(title, style="italic")
    has_edge = console.is_terminal or "COLUMNS" in os.environ
    (console if has_edge else _plain_console(file=console.file, width=max(console.width, LOG_WIDTH))).print(table)


def print_error(message: str) -> None:
    """One line on standard error, whatever line breaks the message had."""
    print(f"lamae: {visible(' '.join(message.split()))}", file=sys.stderr)


def say_when_terminated() -> None:
    """From now on SIGTERM ends this process as before, but with a word."""
    process = os.getpid()

    def end(number: int, _frame: FrameType | None) -> None:
        if os.getpid() == process:  # not in what was forked from it
            print_error(f"terminated by {signal.Signals(number).name}; {GOES_ON}")
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, end)
