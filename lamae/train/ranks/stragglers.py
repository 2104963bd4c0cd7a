"""Ranks that hold the others up: named when they stay slow, every one of them kept in ``stragglers.jsonl``."""

import logging
import statistics
from pathlib import Path

from lamae.base.rowfile import RowFile, Throttle
from lamae.base.rundirectory import RunDirectory
from lamae.train.ranks.distributed import Ranks

SLOW_RATIO = 1.5
SLOW_MIN_S = 0.005
# One slow interval is noise: another process on the machine, a page cache gone cold.
INTERVALS_IN_A_ROW = 3
REPORT_EVERY_S = 600.0

log = logging.getLogger(__name__)


class Stragglers:
    """Compares what all ranks spent on the same work in each logging interval. Used by all ranks alike."""

    def __init__(self, run_dir: Path, ranks: Ranks, *, resume_step: int) -> None:
        self._path = RunDirectory(run_dir).stragglers
        self._rows = RowFile(self._path, resume_step=resume_step, is_main=ranks.is_main)
        self._is_main = ranks.is_main
        self._slow_for: dict[tuple[str, int], int] = {}
        self._throttle: dict[str, Throttle] = {}

    def look(self, step: int, what: str, seconds: list[float]) -> None:
        """``seconds`` of every rank per step: slow is half again as much as the median, and 5 ms more."""
        median_s = statistics.median(seconds)
        slow = {rank: s for rank, s in enumerate(seconds) if s > SLOW_RATIO * median_s and s - median_s > SLOW_MIN_S}
        for rank in range(len(seconds)):
            self._slow_for[what, rank] = self._slow_for.get((what, rank), 0) + 1 if rank in slow else 0
        if not slow:
            return
        slow_ms = {rank: round(1000 * s, 1) for rank, s in slow.items()}
        self._rows.add([{"step": step, "what": what, "median_ms": round(1000 * median_s, 1), "slow_ms": slow_ms}])
        lasting = {rank: ms for rank, ms in slow_ms.items() if self._slow_for[what, rank] >= INTERVALS_IN_A_ROW}
        if not lasting or not self._is_main:
            return
        more = self._throttle.setdefault(what, Throttle(REPORT_EVERY_S)).passes()
        if more is not None:
            table = ", ".join(f"{rank}: {ms:.0f}" for rank, ms in lasting.items())
            log.warning(
                "step %d: ranks hold the others up, %s in ms per step (median %.0f): %s%s; all in %s",
                step,
                what,
                1000 * median_s,
                table,
                more,
                self._path.name,
            )
