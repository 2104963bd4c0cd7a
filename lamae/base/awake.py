"""Time as a watcher saw it: a process that is suspended, or whose clock jumps, has waited for nothing meanwhile.

CLOCK_MONOTONIC goes on while a process is stopped (Ctrl-Z, ``scontrol suspend``, a paused machine), CLOCK_BOOTTIME
while the whole system sleeps too, and the time of day may be set: none of them says how long somebody has been silent
who could have spoken.
"""

import time
from collections.abc import Iterator

# A look that comes later than so many intervals after the one before found its own process stopped in between.
MOST_INTERVALS = 5


class AwakeClock:
    """Seconds since its first look, of which a gap between two looks counts for a few intervals at most."""

    def __init__(self, look_every_s: float) -> None:
        self._most_s = MOST_INTERVALS * look_every_s
        self._last_look = time.monotonic()
        self._seen_s = 0.0

    def look(self) -> float:
        """To be called every ``look_every_s`` or so: the seconds that this process was awake for."""
        now = time.monotonic()
        self._seen_s += min(now - self._last_look, self._most_s)
        self._last_look = now
        return self._seen_s


def patiently(limit_s: float, *, poll_s: float) -> Iterator[None]:
    """Lets its caller look every ``poll_s`` for ``limit_s`` seconds that it was awake for."""
    clock = AwakeClock(poll_s)
    while clock.look() < limit_s:
        yield
        time.sleep(poll_s)
