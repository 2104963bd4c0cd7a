"""Where a step's time goes: disjoint phases, timed on the device without waiting for it."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

PHASES = ("data_wait", "copy", "forward", "backward", "communication", "optimizer")
"""Waiting for the loader; to the device, signal and mask; the model; collectives, whichever phase starts them; clipping
and AdamW. What a step takes beyond them is the host's: ``other``."""

COLLECTIVES = (
    "all_reduce",
    "all_reduce_coalesced",
    "reduce",
    "reduce_scatter",
    "reduce_scatter_tensor",
    "all_gather",
    "all_gather_into_tensor",
    "all_gather_coalesced",
    "broadcast",
    "all_to_all_single",
    "barrier",
)

Batches = TypeVar("Batches")


@dataclass(frozen=True)
class StepTimes:
    """Seconds per step, mean over the timed steps."""

    step_s: float
    phase_s: dict[str, float]
    """By name of ``PHASES`` and ``other``: they sum to ``step_s``."""


@dataclass(frozen=True)
class ClockReading:
    """All that a clock has seen so far; what lies between two readings is their difference."""

    num_steps: int
    seconds: dict[str, float]

    def since(self, before: "ClockReading") -> StepTimes | None:
        """The steps timed between ``before`` and this reading; None where there were none."""
        num_steps = self.num_steps - before.num_steps
        if not num_steps:
            return None
        mean_s = {name: (self.seconds[name] - before.seconds[name]) / num_steps for name in ("step", *PHASES)}
        step_s = mean_s.pop("step")
        return StepTimes(step_s, mean_s | {"other": max(step_s - sum(mean_s.values()), 0.0)})


@dataclass(frozen=True)
class _Span:
    """One stretch of a phase between two events (CUDA) or two clock readings (seconds)."""

    name: str
    outer: str
    began: Any
    ended: Any


class StepClock:
    """Adds up what the phases of steps take. A phase within a phase counts for the inner one alone.

    On a CPU every step is timed. On CUDA a phase is what lies between two events on the current stream, work and
    waiting alike; only steps asked for are timed, and nothing synchronises before ``read``.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_cuda = device.type == "cuda"
        self.labels = False
        """Whether phases are named in the trace of a torch profiler."""
        self._timing = False
        self._open: list[str] = []
        self._spans: list[_Span] = []  # whose events nobody has asked yet
        self._seconds = dict.fromkeys(("step", *PHASES), 0.0)
        self._step_began: Any = None
        self._num_steps = 0

    def steps(self, batches: Iterable[Batches], *, is_asked_for: Callable[[], bool]) -> Iterator[Batches]:
        """The batches; a step lasts from the wait for its batch to ``end_step``."""
        iterator = iter(batches)
        while True:
            self._timing = not self._on_cuda or is_asked_for()
            self._step_began = self._now() if self._timing else None
            with self.phase("data_wait"):
                try:
                    batch = next(iterator)
                except StopIteration:
                    self._step_began, self._timing = None, False
                    return
            yield batch

    def end_step(self) -> None:
        if self._step_began is not None:
            self._close(_Span("step", "", self._step_began, self._now()))
            self._num_steps += 1
        self._step_began, self._timing = None, False

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time what is inside, if it is inside a timed step."""
        if not self._timing:
            yield
            return
        outer = self._open[-1] if self._open else ""
        self._open.append(name)
        began = self._now()
        try:
            with torch.profiler.record_function(f"lamae/{name}") if self.labels else nullcontext():
                yield
        finally:
            self._open.pop()
            self._close(_Span(name, outer, began, self._now()))

    def read(self) -> ClockReading:
        """Everything so far. Synchronises on CUDA."""
        for span in self._spans:
            span.ended.synchronize()
            self._add(span, span.began.elapsed_time(span.ended) / 1000)
        self._spans = []
        return ClockReading(self._num_steps, dict(self._seconds))

    def _now(self) -> Any:
        if not self._on_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _close(self, span: _Span) -> None:
        if self._on_cuda:
            self._spans.append(span)
        else:
            self._add(span, span.ended - span.began)

    def _add(self, span: _Span, seconds: float) -> None:
        self._seconds[span.name] += seconds
        if span.outer:
            self._seconds[span.outer] -= seconds


class TimedBackend:
    """DeepSpeed's communication back end with a clock on its collectives and on the waits for those begun earlier.

    What is timed holds the step up: sending, and waiting for slower ranks. On CUDA a collective that overlaps with
    other work counts for what is left of it when it is waited for.
    """

    def __init__(self, backend: Any, clock: StepClock) -> None:
        self._backend = backend
        self._clock = clock

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._backend, name)
        return self._timed(value) if name in COLLECTIVES else value

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            with self._clock.phase("communication"):
                work = function(*arguments, **options)
            return _TimedWork(work, self._clock) if hasattr(work, "wait") else work

        return timed


class _TimedWork:
    """A handle whose ``wait`` is timed; everything else is the collective's own."""

    def __init__(self, work: Any, clock: StepClock) -> None:
        self._work = work
        self._clock = clock

    def wait(self, *arguments: Any, **options: Any) -> Any:
        with self._clock.phase("communication"):
            return self._work.wait(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)
