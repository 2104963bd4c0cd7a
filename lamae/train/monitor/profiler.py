"""A few steps looked at closely: a trace of every operation, a memory snapshot, and a table of where a step goes.

    RUN/profile/step-00000010/         the steps from 10 on, as many as were asked for
      rank-00000.pt.trace.json.gz      for Perfetto (ui.perfetto.dev) and TensorBoard's profiler plugin
      rank-00000.memory.pickle         CUDA only, for pytorch.org/memory_viz
      table.txt                        data wait, copy, forward, backward, communication, optimiser, host; all ranks

Asked for by ``profile.steps``, or of a run on its way by putting a file named ``profile.now`` into its directory.
"""

import contextlib
import gzip
import logging
import shutil
from pathlib import Path
from typing import Any

import torch

from lamae.base.rundirectory import RunDirectory, step_name
from lamae.train.clock import PHASES, StepClock, StepTimes
from lamae.train.config import ProfileConfig
from lamae.train.ranks.distributed import Ranks

MAX_MEMORY_EVENTS = 100_000

log = logging.getLogger(__name__)


class Profiler:
    """Begins and ends windows of profiled steps. Called by all ranks alike, between steps."""

    def __init__(
        self, config: ProfileConfig, *, run_dir: Path, ranks: Ranks, clock: StepClock, look_every: int
    ) -> None:
        self._config = config
        self._run_dir = run_dir
        self._ranks = ranks
        self._clock = clock
        self._look_every = look_every
        self._first, self._last = 0, 0  # the window that is open, or was
        self._on_cuda = ranks.device.type == "cuda"
        self._traces = ranks.rank < config.ranks
        self._trace: Any = None
        self.is_active = False
        """Whether the step to come belongs to a window."""

    def request(self, step: int) -> int:
        """For the flag exchange: 1 where somebody asks for a profile now. Rank 0 looks at logging steps."""
        if not self._ranks.is_main or self.is_active or step % self._look_every:
            return 0
        return int(RunDirectory(self._run_dir).profile_request.exists())

    def follow(self, step: int, *, requested: bool = False) -> None:
        """After a step, and once before the first: end the window that ends here, begin the one that begins next.

        ``requested`` is what all ranks agreed on.
        """
        was_active = self.is_active  # then a request is the one that began this window, seen twice
        if was_active and step >= self._last:
            self._end()
        if requested and not was_active:
            self._begin(step + 1, step + self._config.on_demand_steps)
            if self._ranks.is_main:
                RunDirectory(self._run_dir).profile_request.unlink(missing_ok=True)
        elif not self.is_active and self._config.steps:
            first, last = self._config.steps
            if first <= step + 1 <= last:  # later than first where a start, or another window's end, lies in between
                self._begin(step + 1, last)

    def close(self) -> None:
        """Drop a window that the end of the run cut short."""
        if self.is_active:
            log.warning(
                "the run ends before step %d, so the profile from step %d on is dropped", self._last, self._first
            )
            self._stop_trace()
            self._forget()

    def _begin(self, first: int, last: int) -> None:
        self._first, self._last = first, last
        self.is_active = True
        self._before = self._clock.read()
        self._clock.labels = self._traces
        if not self._traces:
            return
        activities = [torch.profiler.ProfilerActivity.CPU]
        if self._on_cuda:
            activities.append(torch.profiler.ProfilerActivity.CUDA)
            torch.cuda.memory._record_memory_history(max_entries=MAX_MEMORY_EVENTS)
        self._trace = torch.profiler.profile(activities=activities, record_shapes=True)
        self._trace.start()

    def _stop_trace(self) -> None:
        self._clock.labels = False
        if self._trace is not None:
            self._trace.stop()

    def _end(self) -> None:
        times = self._clock.read().since(self._before)
        self._stop_trace()
        of_ranks = self._ranks.gather(times)
        folder = RunDirectory(self._run_dir).profiles / step_name(self._first)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if self._traces:
                self._write_trace(folder)
            if self._ranks.is_main:
                table = format_table(of_ranks, first=self._first, last=self._last)
                (folder / "table.txt").write_text(table)
                log.info("profile of steps %d to %d in %s\n%s", self._first, self._last, folder, table)
        except (OSError, RuntimeError) as error:  # a look at the run must not end it
            log.warning("%s: the profile could not be written: %s", folder, error)
        self._forget()

    def _forget(self) -> None:
        """What the window has held, and the recording of allocations."""
        self._trace = None
        self.is_active = False
        if self._traces and self._on_cuda:
            with contextlib.suppress(RuntimeError):
                torch.cuda.memory._record_memory_history(enabled=None)

    def _write_trace(self, folder: Path) -> None:
        path = folder / f"rank-{self._ranks.rank:05d}.pt.trace.json"
        self._trace.export_chrome_trace(str(path))
        with path.open("rb") as plain, gzip.open(f"{path}.gz", "wb", compresslevel=3) as packed:
            shutil.copyfileobj(plain, packed)
        path.unlink()
        if self._on_cuda:
            torch.cuda.memory._dump_snapshot(str(folder / f"rank-{self._ranks.rank:05d}.memory.pickle"))


def format_table(of_ranks: list[StepTimes | None], *, first: int, last: int) -> str:
    """Where a step goes, mean over ranks, and for each phase the rank that spent most on it."""
    times = [of_rank for of_rank in of_ranks if of_rank is not None]
    step_s = sum(one.step_s for one in times) / len(times)
    ranks = f"{len(times)} rank{'s' * (len(times) > 1)}"
    lines = [
        f"steps {first} to {last}, {ranks}, while profiling: the profiler itself slows the host down",
        f"{'':14} {'ms per step':>11} {'share':>7} {'slowest rank':>20}",
    ]
    for name in (*PHASES, "other"):
        seconds = [one.phase_s[name] for one in times]
        mean_s, most_s = sum(seconds) / len(seconds), max(seconds)
        slowest = f"{seconds.index(most_s)}: {1000 * most_s:.2f} ms"
        lines.append(f"{name:14} {1000 * mean_s:11.2f} {100 * mean_s / step_s:5.1f} % {slowest:>20}")
    return "\n".join([*lines, f"{'step':14} {1000 * step_s:11.2f} {100.0:5.1f} %"]) + "\n"
