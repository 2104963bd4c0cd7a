"""What the command line shows: a progress bar on a terminal, plain lines in a log file, one line for an error."""

import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

from lamae.sharding.progress import Progress

LOG_LINE_EVERY_S = 10.0
# Of tables in a file or a pipe, which have no edge of their own.
LOG_WIDTH = 240

console = Console(highlight=False)


def set_up_logging() -> None:
    """Send our own log records to standard error, one short line each; other packages only from warnings on.

    To be called before torch is imported: its profiler's own messages, which no logger carries, are kept back too.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname).1s %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("lamae").setLevel(logging.INFO)


@contextmanager
def show_progress() -> Iterator[Progress]:
    """A progress callback: bars on a terminal; elsewhere a line when a stage starts, ends, and every ten seconds."""
    if console.is_terminal:
        with RichProgress(
            TextColumn("{task.description}"),
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
        console.print(f"{stage}: {done:,}{of}, {now - started[stage]:.1f} s", soft_wrap=True)

    yield print_line


def print_table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """A titled table; columns after the first are right-aligned."""
    table = Table(title=title, title_justify="left")
    for position, column in enumerate(columns):
        table.add_column(column, justify="left" if position == 0 else "right")
    for row in rows:
        table.add_row(*row)
    if console.is_terminal or "COLUMNS" in os.environ:
        console.print(table)
    else:
        Console(file=console.file, width=max(console.width, LOG_WIDTH), highlight=False).print(table)


def print_error(message: str) -> None:
    """One line on standard error, whatever line breaks the message had."""
    print(f"lamae: {' '.join(message.split())}", file=sys.stderr)
