"""What ranks agree on between steps: a few integers on the CPU group, begun at one step and read at the next.

Every rank reads the same maximum at the same step, so whatever follows from it (save and leave, publish a
checkpoint) happens on all of them at once, and no step waits for a device or for a slow rank's message.
"""

import signal
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from lamae.base import signals
from lamae.train.ranks.distributed import Ranks


class StopSignals:
    """Remembers the first stop signal of this process instead of dying of it; a context manager.

    A second Ctrl-C ends the process at once: whoever presses it again does not want to wait for a checkpoint.
    """

    NUMBERS = (signal.SIGINT, *signals.STOP_SIGNALS)

    def __init__(self) -> None:
        self.received = 0
        """Number of the first signal received, 0 while there is none."""
        self._was_interrupted = False
        self._before: signals.Handlers = {}

    def __enter__(self) -> "StopSignals":
        self._before = signals.handle(self.NUMBERS, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        signals.restore(self._before)

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            if self._was_interrupted:
                raise KeyboardInterrupt
            self._was_interrupted = True
        self.received = self.received or number


class FlagExchange:
    """The maximum over ranks of a few integers, one step late."""

    def __init__(self, ranks: Ranks, num_flags: int) -> None:
        self._group = ranks.cpu_group
        self._alone = ranks.world_size == 1
        self._num_flags = num_flags
        self._flags: torch.Tensor | None = None
        self._work: Any = None

    def exchange(self, flags: list[int]) -> list[int] | None:
        """Begin to share ``flags``; gives the maxima of those of the previous call, None at the first."""
        assert len(flags) == self._num_flags
        previous = self._finish()
        self._flags = torch.tensor(flags, dtype=torch.int64)
        if not self._alone:
            self._work = dist.all_reduce(self._flags, op=dist.ReduceOp.MAX, group=self._group, async_op=True)
        return previous

    def _finish(self) -> list[int] | None:
        if self._work is not None:
            self._work.wait()
            self._work = None
        return None if self._flags is None else [int(flag) for flag in self._flags]

    def close(self) -> None:
        """Wait for the exchange in flight, so that no rank leaves while another still waits for it."""
        self._finish()
