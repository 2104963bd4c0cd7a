"""Side-by-side timing: every candidate in one process, order shuffled between repeats, medians with their spread.

A benchmark module has ``run(*, quick: bool, progress: Progress) -> dict`` returning at least

    {"settings": {...}, "measurements": {name: Timing.to_dict()}, **ratio_entries({name: Ratio})}

and, where something was not measured, ``"notes"``: a list of sentences that are printed with the ratios,

so that ``ratios`` maps names to plain numbers (medians) and ``ratio_spread`` to their (min, max).

``lamae bench`` adds hardware, versions and revision (benchmarks.result).
"""

import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from lamae.base.progress import Progress, ignore

T = TypeVar("T")


@dataclass(frozen=True)
class Timing:
    """Repeated timings of one candidate that each processed ``items`` items."""

    seconds: tuple[float, ...]
    items: float

    @property
    def rate(self) -> float:
        """Items per second at the median."""
        return self.items / statistics.median(self.seconds)

    def to_dict(self) -> dict[str, Any]:
        return {**spread([self.items / s for s in self.seconds]), "items": self.items}


@dataclass(frozen=True)
class Ratio:
    """How many times the rate of ``base`` ``candidate`` reached, repeat by repeat."""

    values: tuple[float, ...]

    @classmethod
    def of(cls, candidate: Timing, base: Timing) -> "Ratio":
        """Pairs the repeats of two candidates timed by one ``time_side_by_side`` call."""
        return cls(
            tuple(
                (candidate.items / a) / (base.items / b) for a, b in zip(candidate.seconds, base.seconds, strict=True)
            )
        )

    @property
    def median(self) -> float:
        return statistics.median(self.values)


def spread(rates: Sequence[float]) -> dict[str, Any]:
    """What a result says of rates that were measured again and again."""
    return {"per_s": statistics.median(rates), "min": min(rates), "max": max(rates), "repeats": len(rates)}


def ratio_entries(ratios: Mapping[str, Ratio]) -> dict[str, dict[str, Any]]:
    """The ``ratios`` and ``ratio_spread`` entries of a result."""
    return {
        "ratios": {name: ratio.median for name, ratio in ratios.items()},
        "ratio_spread": {name: [min(ratio.values), max(ratio.values)] for name, ratio in ratios.items()},
    }


def median_s(action: Callable[[], object], repeats: int = 5) -> float:
    """Seconds of an action, after a first time that warms it up."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def in_turns(names: Iterable[T], *, repeats: int, seed: int = 0, progress: Progress = ignore) -> Iterator[T]:
    """Every name once per repeat, in an order shuffled anew each time."""
    order, shuffle = list(names), random.Random(seed).shuffle
    for repeat in range(repeats):
        turn = order.copy()
        shuffle(turn)
        for position, name in enumerate(turn, start=1):
            yield name
            progress("timing", repeat * len(order) + position, repeats * len(order))


def time_side_by_side(
    candidates: Mapping[str, Callable[[], float]],
    *,
    repeats: int,
    warmup: int = 1,
    prepare: Callable[[], None] = lambda: None,
    progress: Progress = ignore,
) -> dict[str, Timing]:
    """Times candidates round by round, in an order shuffled anew each round.

    A candidate is a callable that does its work once and returns how many items it processed; all of its calls must
    process the same number. ``prepare`` is called before each of them and not timed.
    """
    for _ in range(warmup):
        for candidate in candidates.values():
            prepare()
            candidate()
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    items: dict[str, float] = {}
    for name in in_turns(candidates, repeats=repeats, progress=progress):
        prepare()
        start = time.perf_counter()
        count = candidates[name]()
        seconds[name].append(time.perf_counter() - start)
        if items.setdefault(name, count) != count:
            raise ValueError(f"candidate {name} processed {count} items, before {items[name]}")
    return {name: Timing(tuple(seconds[name]), items[name]) for name in candidates}
