"""The order in which a job sees records: a pure function of (seed, samples consumed).

The job's stream is ``permutation(epoch 0) ‖ permutation(epoch 1) ‖ …``; position p of the stream is the p-th sample
that the job as a whole consumes. Batches are slices of the stream, so they straddle epochs, nothing is padded,
dropped or repeated, and world size, threads, restarts and batch size cannot change the order. Several sets are mixed
into one such stream by ``MixedOrder``.

A permutation is made by sorting 64-bit words: random bits above, the record's index below. Only the raw stream of
Philox-4x64 (which numpy keeps stable across versions) and sorting enter, so the order outlives library upgrades.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import numpy as np

from lamae.data.config import ORDERS
from lamae.keyed import GOLDEN

DrawnT = TypeVar("DrawnT")

_WORD_BITS = 64
_MIN_RANDOM_BITS = 24


class _LatestEpochs(Generic[DrawnT]):
    """What ``draw`` makes of an epoch; the two latest are kept. One thread draws while the others wait for it."""

    def __init__(self, draw: Callable[[int], DrawnT]) -> None:
        self._draw = draw
        self._kept: dict[int, DrawnT] = {}
        self._lock = threading.Lock()

    def __call__(self, epoch: int) -> DrawnT:
        with self._lock:
            if epoch not in self._kept:
                while len(self._kept) >= 2:
                    del self._kept[next(iter(self._kept))]
                self._kept[epoch] = self._draw(epoch)
            return self._kept[epoch]


class GlobalOrder:
    """Endless stream of indices 0..num_records-1, every index once per epoch.

    ``mode="global"`` shuffles all records. ``mode="window"`` shuffles the shards, cuts that sequence into windows of
    ``window_shards`` shards and shuffles the records of each window: reads stay within one window at a time. It
    needs ``shards``, the shard of every record (int ``[num_records]``). Safe to share between threads.
    """

    def __init__(
        self,
        num_records: int,
        *,
        seed: int,
        mode: str = "global",
        shards: np.ndarray | None = None,
        window_shards: int = 16,
    ) -> None:
        if num_records < 1:
            raise ValueError(f"num_records must be at least 1, not {num_records}")
        if mode not in ORDERS:
            raise ValueError(f"mode must be one of {', '.join(ORDERS)}, not {mode!r}")
        if window_shards < 1:
            raise ValueError(f"window_shards must be at least 1, not {window_shards}")
        self.num_records = num_records
        self.seed = seed
        self.window_shards = window_shards
        self._shard_ranks: np.ndarray | None = None
        self._num_shards = 0
        if mode == "window":
            if shards is None or len(shards) != num_records:
                raise ValueError("mode='window' needs the shard of every record")
            distinct, self._shard_ranks = np.unique(shards, return_inverse=True)
            self._num_shards = len(distinct)
        self._epoch = _LatestEpochs(self._draw)

    def take(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Samples ``start`` to ``stop`` of the stream: (epoch, index), both int64 ``[stop - start]``."""
        if not 0 <= start <= stop:
            raise ValueError(f"0 <= start <= stop must hold, not start={start}, stop={stop}")
        epochs, indices = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for epoch in range(start // self.num_records, -(-stop // self.num_records)):
            begin = epoch * self.num_records
            index = self.permutation(epoch)[max(start - begin, 0) : stop - begin]
            epochs.append(np.full(len(index), epoch, dtype=np.int64))
            indices.append(index)
        return np.concatenate(epochs), np.concatenate(indices)

    def permutation(self, epoch: int) -> np.ndarray:
        """int64 ``[num_records]``: the order of one epoch. The two latest are kept; treat as read-only."""
        return self._epoch(epoch)[0]

    def end_of_next_window(self, position: int) -> int:
        """Where the window after the one that holds ``position`` ends in the stream; windows end with their epoch."""
        epoch, within = divmod(position, self.num_records)
        ends = self._epoch(epoch)[1]
        window = int(np.searchsorted(ends, within, side="right"))
        if window + 1 < len(ends):
            return epoch * self.num_records + int(ends[window + 1])
        return (epoch + 1) * self.num_records + int(self._epoch(epoch + 1)[1][0])

    def _draw(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The permutation of an epoch and the places where its windows end."""
        random = np.random.Philox(key=np.array([self.seed, epoch], dtype=np.uint64))
        index_bits = (self.num_records - 1).bit_length()
        words = random.random_raw(self.num_records)
        high_bits = 0
        window_ends = np.array([self.num_records])
        if self._shard_ranks is not None:
            place = np.argsort(random.random_raw(self._num_shards), kind="stable")
            window_of_shard = np.empty(self._num_shards, dtype=np.uint64)
            window_of_shard[place] = np.arange(self._num_shards) // self.window_shards
            window_ends = np.bincount(window_of_shard[self._shard_ranks].astype(np.int64)).cumsum()
            high_bits = ((self._num_shards - 1) // self.window_shards).bit_length()
            if high_bits:
                words >>= np.uint64(high_bits)
                words |= window_of_shard[self._shard_ranks] << np.uint64(_WORD_BITS - high_bits)
        assert index_bits + high_bits + _MIN_RANDOM_BITS <= _WORD_BITS, "too many records for 64-bit sort words"
        # Ties of the random bits are negligibly rare; the index breaks them.
        words >>= np.uint64(index_bits)
        words <<= np.uint64(index_bits)
        words |= np.arange(self.num_records, dtype=np.uint64)
        words.sort()
        words &= np.uint64((1 << index_bits) - 1)
        return words.view(np.int64), window_ends


class MixedOrder:
    """Several sets in one endless stream, each read in its own global order.

    An epoch of the mixture holds exactly ``round(weights[s] * counts[s])`` samples of set s (at least one), in an order
    that is drawn anew for every epoch. Set s goes on in its own stream where the epoch before left it, so every record
    of a set is seen once before any of them is seen again. ``shards`` are each set's, for ``mode="window"``. Safe to
    share between threads.
    """

    def __init__(
        self,
        counts: Sequence[int],
        *,
        weights: Sequence[float],
        seed: int,
        mode: str = "global",
        shards: Sequence[np.ndarray] | None = None,
        window_shards: int = 16,
    ) -> None:
        self.shares = [max(1, round(weight * count)) for weight, count in zip(weights, counts, strict=True)]
        """Samples of each set in an epoch of the mixture."""
        self._first_index = np.cumsum([0, *counts])
        self._streams = [
            GlobalOrder(
                count,
                seed=(seed + (place + 1) * GOLDEN) % 2**_WORD_BITS,  # another for every set
                mode=mode,
                shards=shards[place] if shards is not None else None,
                window_shards=window_shards,
            )
            for place, count in enumerate(counts)
        ]
        self._slots = GlobalOrder(sum(self.shares), seed=seed)
        self._epoch = _LatestEpochs(self._draw)

    def take(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Samples ``start`` to ``stop``: int64 ``[stop - start]`` each, how often its set had been gone through before,
        and the record's index among those of all sets, one set after the other.
        """
        length = self._slots.num_records
        epochs, indices = np.empty(stop - start, np.int64), np.empty(stop - start, np.int64)
        for epoch in range(start // length, -(-stop // length)):
            begin = epoch * length
            low, high = max(start, begin), min(stop, begin + length)
            for place, (stream, position) in enumerate(zip(self._streams, self._epoch(epoch), strict=True)):
                own = slice(*np.searchsorted(position, [low - begin, high - begin]).tolist())
                first, here = epoch * self.shares[place], begin - start + position[own]
                epochs[here], own_index = stream.take(first + own.start, first + own.stop)
                indices[here] = self._first_index[place] + own_index
        return epochs, indices

    def end_of_next_window(self, position: int) -> int:
        """Where, of all sets, a window that follows the one in use ends first; at the latest with the epoch."""
        length = self._slots.num_records
        epoch, within = divmod(position, length)
        ends = [length]
        for place, (stream, position_in_epoch) in enumerate(zip(self._streams, self._epoch(epoch), strict=True)):
            first = epoch * self.shares[place]
            end = stream.end_of_next_window(first + int(np.searchsorted(position_in_epoch, within))) - first
            ends += position_in_epoch[end : end + 1].tolist()
        return epoch * length + min(ends)

    def _draw(self, epoch: int) -> list[np.ndarray]:
        """Of each set, where its samples are in an epoch of the mixture: int64, ascending."""
        borders = np.cumsum(self.shares)
        set_of = np.searchsorted(borders, self._slots.permutation(epoch), side="right").astype(np.uint16)
        return np.split(np.argsort(set_of, kind="stable"), borders[:-1])
