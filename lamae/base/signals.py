"""Requests to save and leave: which signals they are, and how a process takes them."""

import logging
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

STOP_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""A scheduler's, and the hang-up of a closed terminal. Who is not yet able to listen dies of them."""

Handlers = dict[signal.Signals, Any]

log = logging.getLogger(__name__)


def handle(numbers: Iterable[signal.Signals], handler: Callable[[int, FrameType | None], object]) -> Handlers:
    """Install ``handler``; gives those before it, for ``restore``.

    A hang-up that was ignored when this process started (nohup, a local job) stays ignored.
    """
    wanted = [n for n in numbers if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in wanted}


def restore(handlers: Handlers) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


@contextmanager
def leaving_on_request(stop: Callable[[], None]) -> Iterator[None]:
    """For who waits for processes of its own: SIGTERM and a hang-up end the block as SystemExit, and however it ends
    ``stop`` then ends those processes, undisturbed by further requests."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    is_main_thread = threading.current_thread() is threading.main_thread()
    before = handle(numbers, _leave) if is_main_thread else {}
    try:
        yield
    finally:
        restore(dict.fromkeys(before, signal.SIG_IGN))
        stop()
        restore(before)


def _leave(number: int, _frame: FrameType | None) -> None:
    log.warning("%s: waiting for what was started here to save and leave", signal.Signals(number).name)
    raise SystemExit(128 + number)
