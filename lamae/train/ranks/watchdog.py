"""Ends a run that hangs, and says where: a job that waits for ever for a lost rank costs its whole allocation."""

import faulthandler
import logging
import os
import statistics
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lamae.base.awake import AwakeClock
from lamae.base.errors import EXIT_HUNG
from lamae.base.rundirectory import RunDirectory
from lamae.train.config import MonitorConfig

MIN_STEPS = 3
WINDOW = 64

log = logging.getLogger(__name__)


class Watchdog:
    """A thread of every rank: no step for ``hang_factor`` median steps, and it writes the stacks of all of this
    rank's Python threads into the run directory and ends the process. A context manager.

    When one rank hangs, all others soon wait for it in a collective: each one's watchdog fires on its own. Only time
    that the watchdog was awake for counts: a suspended run goes on when it wakes.

    between_s: how long the work between steps may take, where ranks wait for each other in it.
    """

    def __init__(self, run_dir: Path, *, rank: int, config: MonitorConfig, between_s: float = float("inf")) -> None:
        self._path = RunDirectory(run_dir).hang(rank)
        self._factor = config.hang_factor
        self._floor_s = config.hang_floor_s
        self._between_s = between_s
        self._steps_s: deque[float] = deque(maxlen=WINDOW)
        self._last_beat = time.monotonic()
        self._num_signs = 0
        self._paused = False
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="lamae-watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._last_beat = time.monotonic()
        if self.is_watching:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def is_watching(self) -> bool:
        return self._factor > 0

    def beat(self) -> None:
        """A step is done."""
        now = time.monotonic()
        self._steps_s.append(now - self._last_beat)
        self._last_beat = now
        self._num_signs += 1

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Work between steps, whose length has nothing to do with theirs: saving, drawing."""
        self._paused = True
        self._num_signs += 1
        try:
            yield
        finally:
            self._last_beat = time.monotonic()
            self._paused = False
            self._num_signs += 1

    @property
    def limit_s(self) -> float:
        """Seconds that a step may take now: ``factor`` times the median of recent steps, at least the floor; the floor
        alone until enough steps were timed."""
        if len(self._steps_s) < MIN_STEPS:
            return self._floor_s or float("inf")
        return max(self._floor_s, self._factor * statistics.median(self._steps_s))

    def _watch(self) -> None:
        look_every_s = min(1.0, max(self._floor_s / 4, 0.05))
        clock = AwakeClock(look_every_s)
        num_signs, last_sign_s = self._num_signs, clock.look()
        while not self._done.wait(look_every_s):
            now_s = clock.look()
            if num_signs != self._num_signs:
                num_signs, last_sign_s = self._num_signs, now_s
            elif now_s - last_sign_s > (self._between_s if self._paused else self.limit_s):
                self._end(now_s - last_sign_s)

    def _end(self, waited: float) -> None:
        try:
            log.error("no step for %.0f s; this rank's stacks go to %s", waited, self._path)
            with self._path.open("w") as file:
                faulthandler.dump_traceback(file, all_threads=True)
                file.flush()
                os.fsync(file.fileno())
        finally:
            os._exit(EXIT_HUNG)  # the main thread sits in a call that no exception reaches
