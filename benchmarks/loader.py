"""Records per second into batches ``[64, 12, 5000]``: ours, other loaders, and copying memory.

Every candidate starts afresh in every repeat, gives some batches that are not counted (its workers start, its buffers
fill, what it had read ahead is used up) and then as many as are timed. The page cache is warm: what is measured is
the loader, not the disk. ``memcpy`` is one thread that copies records at random from an array in memory.
"""

import contextlib
import random
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from lamae.base.progress import Progress, ignore
from lamae.base.revision import installed_versions
from lamae.benchmarks.loader_peers import BUFFER, OpenStream, endless, peers
from lamae.benchmarks.timing import Ratio, Timing, in_turns, ratio_entries
from lamae.data.config import ORDERS, DataConfig, SignalConfig
from lamae.data.loader import RingLoader
from lamae.data.mixture import Mixture
from lamae.data.order import GlobalOrder
from lamae.data.transforms import SignalTransform
from lamae.sharding.format import ShardSet
from lamae.sharding.pack import PackOptions, pack
from lamae.sharding.synth import synthesize

BATCH_SIZE = 64
HEADLINE = "ours_2_threads"
PEER_PACKAGES = ("litdata", "mosaicml-streaming")
SLOW_PEERS = ("litdata", "wfdb_dataset")


@dataclass(frozen=True)
class Candidate:
    """A way to batches, and how many of them make a fair timing of it."""

    open: OpenStream
    warmup_batches: int
    timed_batches: int


def run(*, quick: bool = False, progress: Progress = ignore, repeats: int | None = None) -> dict[str, Any]:
    """Measure; see benchmarks.timing for the form of the result."""
    num_records = 1024 if quick else 4096
    repeats = repeats or (3 if quick else 5)
    with tempfile.TemporaryDirectory(prefix="lamae-bench-") as name:
        scratch = Path(name)
        source, subjects = scratch / "source", num_records // 4
        synthesize(source, num_records=num_records, num_subjects=subjects, seed=0, progress=progress)
        pack(source, scratch / "set", options=PackOptions(shard_size=num_records // 8), progress=progress)
        shard_set = ShardSet.open(scratch / "set")
        # Other splits, since a mixture takes no set twice.
        differently = PackOptions(shard_size=num_records // 4, split_fractions=[0.4, 0.3, 0.3])
        pack(source, scratch / "again", options=differently, progress=progress)
        candidates = (
            _ours(shard_set, ShardSet.open(scratch / "again"), quick=quick)
            | _memcpy(shard_set)
            | _peers(source, shard_set, scratch, quick=quick)
        )
        timings = time_streams(candidates, repeats=repeats, progress=progress)
    by_peer = {peer: _best_setting(timings, peer) for peer in ("webdataset_tutorial", "webdataset_tutorial_int16")}
    best_peer = _fastest(timings, [name for name in timings if not name.startswith(("ours", "memcpy"))])
    versions = installed_versions(PEER_PACKAGES)
    ours, tutorial = timings[HEADLINE], timings[by_peer["webdataset_tutorial"]]
    return {
        "settings": {
            "batch_size": BATCH_SIZE,
            "num_records": shard_set.num_records,
            "num_samples": shard_set.num_samples,
            "repeats": repeats,
            "ours": HEADLINE,
            **by_peer,
            "best_peer": best_peer,
            "peer_versions": {package: versions[package] for package in PEER_PACKAGES},
        },
        "seek_ms": seek_ms(num_records=800_000, repeats=repeats),
        "measurements": {name: timing.to_dict() for name, timing in timings.items()},
        **ratio_entries(
            {
                "vs_webdataset_tutorial": Ratio.of(ours, tutorial),
                "vs_webdataset_tutorial_int16": Ratio.of(ours, timings[by_peer["webdataset_tutorial_int16"]]),
                "float32_vs_webdataset_tutorial": Ratio.of(timings["ours_2_threads_float32"], tutorial),
                "vs_best_peer": Ratio.of(ours, timings[best_peer]),
                "vs_memcpy": Ratio.of(ours, timings["memcpy"]),
                "crc_on_vs_off": Ratio.of(ours, timings["ours_2_threads_no_crc"]),
                "window_vs_global": Ratio.of(timings["ours_2_threads_window"], ours),
                "two_sets_vs_one": Ratio.of(timings["ours_2_threads_two_sets"], ours),
            }
        ),
    }


def time_streams(
    candidates: Mapping[str, Candidate], *, repeats: int, progress: Progress = ignore
) -> dict[str, Timing]:
    """Time the steady state of each candidate once per repeat, in an order shuffled anew each time."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for name in in_turns(candidates, repeats=repeats, progress=progress):
        candidate = candidates[name]
        with candidate.open() as stream:
            for _ in range(candidate.warmup_batches):
                next(stream)
            start = time.perf_counter()
            for _ in range(candidate.timed_batches):
                next(stream)
            seconds[name].append(time.perf_counter() - start)
    return {name: Timing(tuple(seconds[name]), BATCH_SIZE * candidates[name].timed_batches) for name in candidates}


def seek_ms(*, num_records: int, repeats: int) -> dict[str, float]:
    """Median milliseconds from nothing to a batch's records anywhere in a stream of ``num_records`` per epoch."""
    position = random.Random(0)
    medians = {}
    for mode in ORDERS:
        milliseconds = []
        for seed in range(repeats):
            place = position.randrange(100 * num_records)
            start = time.perf_counter()
            order = GlobalOrder(num_records, seed=seed, mode=mode, shards=np.arange(num_records) // 1024)
            order.take(place, place + 1024)
            milliseconds.append(1000 * (time.perf_counter() - start))
        medians[mode] = statistics.median(milliseconds)
    return medians


def _ours(shard_set: ShardSet, again: ShardSet, *, quick: bool) -> dict[str, Candidate]:
    """``again`` holds the same records: half of them from each is one set's work in two sets."""
    variants: dict[str, dict[str, Any]] = {
        "ours_1_thread": {"threads": 1},
        "ours_2_threads": {"threads": 2},
        "ours_4_threads": {"threads": 4},
        "ours_2_threads_no_crc": {"threads": 2, "check_crc": False},
        "ours_2_threads_window": {"threads": 2, "order": "window", "window_shards": 2},
    }
    timed = 100 if quick else 400
    ours = {
        name: Candidate(partial(_ring, shard_set, DataConfig(path="", **settings)), 20, timed)
        for name, settings in variants.items()
    }
    halves = np.arange(shard_set.num_records) + np.repeat([0, shard_set.num_records], shard_set.num_records // 2)
    both = partial(_ring, Mixture([shard_set, again]), DataConfig(path="", threads=2), rows=halves)
    ours["ours_2_threads_two_sets"] = Candidate(both, 20, timed)
    ours["ours_2_threads_float32"] = Candidate(partial(_float32, shard_set), 20, timed // 4)
    return ours


@contextlib.contextmanager
def _ring(records: ShardSet | Mixture, config: DataConfig, rows: np.ndarray | None = None) -> Iterator[Iterator[Any]]:
    rows = np.arange(records.num_records) if rows is None else rows
    arguments = {"seed": 0, "global_batch_size": BATCH_SIZE, "rank": 0, "world_size": 1}
    with RingLoader(records, rows, config=config, **arguments) as loader:
        yield loader


@contextlib.contextmanager
def _float32(shard_set: ShardSet) -> Iterator[Iterator[Any]]:
    """Ours, turned into millivolt at the recorded rate on the consumer's thread."""
    config = SignalConfig(rate_hz=round(shard_set.rate_hz))
    transform = SignalTransform(config, source_rate_hz=shard_set.rate_hz, num_samples=shard_set.num_samples)
    with _ring(shard_set, DataConfig(path="", threads=2)) as loader:
        yield (transform(batch, seed=0, train=False) for batch in loader)


def _memcpy(shard_set: ShardSet) -> dict[str, Candidate]:
    """The limit: records at random from one array in memory into buffers that are used in turn."""
    rng = np.random.default_rng(0)
    records = np.stack([shard_set.read(row) for row in range(shard_set.num_records)])
    order = np.concatenate([rng.permutation(len(records)) for _ in range(1 + 30_000 // len(records))])
    buffers = np.zeros((5, BATCH_SIZE, *records.shape[1:]), dtype=records.dtype)

    def batches() -> Iterator[np.ndarray]:
        for number in range(len(order) // BATCH_SIZE):
            buffer = buffers[number % len(buffers)]
            for place, row in enumerate(order[number * BATCH_SIZE : (number + 1) * BATCH_SIZE].tolist()):
                buffer[place] = records[row]
            yield buffer

    return {"memcpy": Candidate(lambda: contextlib.nullcontext(batches()), 20, 400)}


def _peers(source: Path, shard_set: ShardSet, scratch: Path, *, quick: bool) -> dict[str, Candidate]:
    candidates = {}
    for name, make_loader in peers(source, shard_set, scratch).items():
        for workers in (0, 2) if quick else (0, 1, 2):
            make: Callable[[], Any] = partial(make_loader, batch_size=BATCH_SIZE, workers=workers)
            if name.startswith("webdataset"):
                # Each worker's shuffle buffer grows by one record for each it gives, and must be full.
                warmup, timed = 2 + max(1, workers) * BUFFER // BATCH_SIZE, 16 if quick else 48
            else:
                # Two batches per worker are read ahead; all of it lies within one epoch, so no worker starts again.
                warmup, timed = 6, 8 if quick or name in SLOW_PEERS else 48
            candidates[f"{name}_{workers}_workers"] = Candidate(partial(endless, make), warmup, timed)
    return candidates


def _best_setting(timings: Mapping[str, Timing], peer: str) -> str:
    """The fastest of a peer's numbers of workers."""
    return _fastest(timings, [name for name in timings if re.fullmatch(rf"{peer}_\d+_workers", name)])


def _fastest(timings: Mapping[str, Timing], names: list[str]) -> str:
    return max(names, key=lambda name: timings[name].rate)
