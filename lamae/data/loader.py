"""From a shard set to batches: reader threads fill a ring of reused buffers ahead of the training loop.

    GlobalOrder.take(position)  ->  rows of this rank's slice  ->  preadv into a free buffer (threads)  ->  Batch

Each optimiser step takes ``global_batch_size`` samples of the global order; rank r of R reads the r-th of R equal
contiguous slices. The position of the last batch handed out is the loader's whole state.
"""

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from lamae.base.errors import UsageError
from lamae.base.leads import NUM_LEADS
from lamae.base.place import find_place
from lamae.data.batch import Batch
from lamae.data.config import DataConfig
from lamae.data.mixture import Mixture
from lamae.data.order import GlobalOrder, MixedOrder
from lamae.data.reader import RecordReader, bytes_of
from lamae.sharding.format import ShardSet

# Records per read task: few enough that the ring holds TASKS_PER_THREAD tasks of each thread, at most
# MAX_RECORDS_PER_TASK. Larger tasks cost fewer wake-ups of sleeping threads.
MAX_RECORDS_PER_TASK = 64
TASKS_PER_THREAD = 2
# A record that takes longer comes from a device, not from the page cache (15 to 30 microseconds), and hints pay.
COLD_READ_S = 100e-6
# How often the shards in use are looked at, in case somebody packs into a directory that a job reads.
CHECK_FILES_EVERY_S = 10.0
# How long storage may take for a batch before the log says what the job is waiting for.
PATIENCE_S = 30.0

logger = logging.getLogger(__name__)


@dataclass
class _Slot:
    """One buffer of the ring and what is being read into it."""

    adc: torch.Tensor
    memory: list[np.ndarray]
    rows: np.ndarray
    epoch: np.ndarray
    start: int = 0  # of this rank's slice in the stream
    samples_consumed: int = 0
    tasks: list["Future[int]"] = field(default_factory=list)
    copies: list[torch.cuda.Event] = field(default_factory=list)

    def is_read(self) -> bool:
        return all(task.done() for task in self.tasks)

    def note_copy(self) -> None:
        event = torch.cuda.Event()
        event.record()
        self.copies.append(event)

    def wait_for_copies(self) -> None:
        for event in self.copies:
            event.synchronize()
        self.copies.clear()


class RingLoader(Iterator[Batch]):
    """Iterator of batches, one per optimiser step, holding this rank's slice of each global batch.

    ``rows`` are the rows of ``records`` that make an epoch (int64). ``samples_consumed`` is where to start: the
    ``samples_consumed`` of the last batch trained on, at any world size, thread count or global batch size.
    ``num_batches`` bounds the iteration; None never ends. Reading begins at once. Use as a context manager, or call
    ``close()``.

    Raises UsageError where no batch can be made of these arguments; ``next()`` raises LamaeError naming shard,
    offset and key of a record that cannot be read.
    """

    def __init__(
        self,
        records: ShardSet | Mixture,
        rows: np.ndarray,
        *,
        config: DataConfig,
        seed: int,
        global_batch_size: int,
        rank: int,
        world_size: int,
        samples_consumed: int = 0,
        num_batches: int | None = None,
    ) -> None:
        records = Mixture.of(records)
        for name, value, least in (
            ("train.global_batch_size", global_batch_size, 1),
            ("train.seed", seed, 0),
            ("samples_consumed", samples_consumed, 0),
            ("world_size", world_size, 1),
        ):
            if not least <= value < 1 << 64:
                raise UsageError(f"{name}={value} must be at least {least} and below 2**64")
        if global_batch_size % world_size:
            raise UsageError(
                f"train.global_batch_size={global_batch_size} must be a multiple of the world size {world_size}"
            )
        if not 0 <= rank < world_size:
            raise UsageError(f"rank {rank} is not below world size {world_size}")
        self.samples_consumed = samples_consumed
        """Position of the last batch handed out: what a checkpoint stores."""
        self.wait_s = 0.0
        """Seconds that the consumer has spent in ``next()``, in all."""
        self.num_replaced = 0
        """Unreadable records handed out as another one so far (``data.on_corrupt=skip``), on this rank."""

        self._rows = np.ascontiguousarray(rows, dtype=np.int64)
        self._seed = seed
        self._config = config
        self._global_batch_size = global_batch_size
        self._size = global_batch_size // world_size
        self._rank = rank
        self._order = order_of(records, self._rows, config=config, seed=seed)
        self._reader = RecordReader.configured(records, config, rows=self._rows, seed=seed)
        self._position = samples_consumed
        self._batches_left = num_batches
        self._num_slots = config.prefetch + 1
        self._refuse_beyond_memory()
        num_tasks = TASKS_PER_THREAD * config.threads
        self._records_per_task = max(1, min(MAX_RECORDS_PER_TASK, self._size * self._num_slots // num_tasks))
        self._ahead: deque[_Slot] = deque()
        self._lent: _Slot | None = None
        self._files_checked = time.monotonic()
        self._closed = False
        self._pool = ThreadPoolExecutor(config.threads, thread_name_prefix="lamae-reader")
        self._adviser = ThreadPoolExecutor(1, thread_name_prefix="lamae-adviser")
        self._advised_until = samples_consumed
        self._read_s = 0.0  # per record, in the task that ended last
        self._advice: deque[Future[None]] = deque()
        for _ in range(self._num_slots):
            if self._batches_left != 0:
                self._read_ahead(self._new_slot())

    def __next__(self) -> Batch:
        if self._closed:
            raise ValueError("this loader is closed")
        began = time.perf_counter()
        lent, self._lent = self._lent, None
        # Return a finished batch first: reading the next would compete with it for the processor.
        hand_back_last = bool(self._ahead) and self._ahead[0].is_read()
        if lent is not None and not hand_back_last:
            self._hand_back(lent)
        if not self._ahead:
            raise StopIteration
        slot = self._ahead.popleft()
        num_replaced = self._finish(slot)
        self._lent = slot
        self.samples_consumed = slot.samples_consumed
        self.num_replaced += num_replaced
        batch = self._reader.batch(
            slot.adc,
            slot.rows.copy(),
            slot.epoch.copy(),
            samples_consumed=slot.samples_consumed,
            num_replaced=num_replaced,
        )
        if slot.adc.is_pinned():
            batch.on_copy = slot.note_copy
        if lent is not None and hand_back_last:
            self._hand_back(lent)
        self.wait_s += time.perf_counter() - began
        return batch

    def __enter__(self) -> "RingLoader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the threads, drop what was read ahead and close the shards. Safe to call twice."""
        self._closed = True
        for pool in (self._adviser, self._pool):
            pool.shutdown(wait=True, cancel_futures=True)
        self._ahead.clear()
        self._lent = None
        self._reader.close()

    def _refuse_beyond_memory(self) -> None:
        """The kernel kills what fills memory, without a word of why."""
        a_record = NUM_LEADS * self._reader.records.num_samples * torch.int16.itemsize
        needed = self._num_slots * self._size * a_record * find_place(os.environ).local_world_size
        present = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        if needed > present / 2:
            raise UsageError(
                f"train.global_batch_size={self._global_batch_size}: {self._num_slots} batches of {self._size:,} "
                f"records for each rank of this machine take {needed / 1e9:.1f} GB, more than half of the "
                f"{present / 1e9:.1f} GB there are; lower it or data.prefetch={self._config.prefetch}"
            )

    def _new_slot(self) -> _Slot:
        adc = torch.empty(
            (self._size, NUM_LEADS, self._reader.records.num_samples),
            dtype=torch.int16,
            pin_memory=torch.cuda.is_available(),
        )
        return _Slot(adc, bytes_of(adc), rows=np.empty(self._size, np.int64), epoch=np.empty(self._size, np.int64))

    def _finish(self, slot: _Slot) -> int:
        """Wait until a slot is read; how many records had to be replaced.

        An error ends the loader for good: going on after it would leave out a batch.
        """
        began = time.monotonic()
        num_replaced = 0
        for task in slot.tasks:
            while True:
                try:
                    error = task.exception(timeout=PATIENCE_S)
                    break
                except TimeoutError:
                    waited_s = time.monotonic() - began
                    logger.warning("waiting for records of %s for %.0f s", self._reader.records.root, waited_s)
            if error is not None:
                self.close()
                raise error
            num_replaced += task.result()
        return num_replaced

    def _hand_back(self, slot: _Slot) -> None:
        """The batch in ``slot`` is no longer needed: its buffer takes the next one."""
        slot.wait_for_copies()
        self._read_ahead(slot)

    def _read_ahead(self, slot: _Slot) -> None:
        """Start reading the next batch of the order into ``slot``; nothing where the last one is already on its way."""
        if self._batches_left == 0:
            return
        if self._batches_left is not None:
            self._batches_left -= 1
        slot.start = self._position + self._rank * self._size
        if self._config.order == "window":
            self._advise(self._rows_of_next_window, self._position)
        elif self._read_s > COLD_READ_S:
            self._advise(self._rows_at, slot.start, slot.start + self._size)
        self._position += self._global_batch_size
        slot.samples_consumed = self._position
        slot.tasks = [
            self._pool.submit(self._fill, slot, part, min(part + self._records_per_task, self._size))
            for part in range(0, self._size, self._records_per_task)
        ]
        if time.monotonic() - self._files_checked >= CHECK_FILES_EVERY_S:
            self._files_checked = time.monotonic()
            slot.tasks.append(self._pool.submit(self._check_files))
        self._ahead.append(slot)

    def _rows_at(self, start: int, stop: int) -> np.ndarray:
        return self._rows[self._order.take(start, stop)[1]]

    def _rows_of_next_window(self, position: int) -> np.ndarray:
        """What this rank reads from ``position`` to the end of the next window, less what was hinted at before.

        The reader sorts it by file and offset, so a disk sees a long sweep per window instead of scattered reads.
        """
        start, stop = self._advised_until, self._order.end_of_next_window(position)
        if stop <= start:
            return np.empty(0, np.int64)
        self._advised_until = stop
        rank = (np.arange(start, stop) - position) % self._global_batch_size // self._size
        return self._rows_at(start, stop)[rank == self._rank]

    def _advise(self, choose_rows: Callable[..., np.ndarray], *arguments: Any) -> None:
        """Hint at what will be read, on a thread of its own, since a slow disk can make even hints wait."""

        def advise() -> None:
            self._reader.advise(choose_rows(*arguments), until=lambda: self._closed)

        self._advice.append(self._adviser.submit(advise))
        while self._advice and self._advice[0].done():
            self._advice.popleft().result()

    def _fill(self, slot: _Slot, start: int, stop: int) -> int:
        """Read records ``start`` to ``stop`` of a slot; how many of them had to be replaced."""
        if self._closed:
            return 0
        # The order is read here and not in the training thread: drawing that of a new epoch takes milliseconds.
        slot.epoch[start:stop], index = self._order.take(slot.start + start, slot.start + stop)
        slot.rows[start:stop] = self._rows[index]
        began = time.perf_counter()
        num_replaced = self._reader.read_or_replace(slot.rows[start:stop], slot.memory[start:stop])
        self._read_s = (time.perf_counter() - began) / (stop - start)
        return num_replaced

    def _check_files(self) -> int:
        self._reader.check_files()
        return 0


def order_of(records: Mixture, rows: np.ndarray, *, config: DataConfig, seed: int) -> GlobalOrder | MixedOrder:
    """The order in which ``rows`` (of one set after the other) are read. Raises UsageError where a set has none."""
    counts = np.bincount(records.set_of(rows), minlength=len(records.sets))
    for shard_set, count in zip(records.sets, counts, strict=True):
        if count == 0:
            raise UsageError(f"{shard_set.root}: no records in data.split={config.split}; choose another split")
    by_set = np.split(rows, np.cumsum(counts)[:-1])
    shards = None
    if config.order == "window":
        shards = [
            shard_set.column("shard")[own - first]
            for shard_set, own, first in zip(records.sets, by_set, records.first_rows, strict=False)
        ]
    if len(counts) == 1:
        return GlobalOrder(
            len(rows),
            seed=seed,
            mode=config.order,
            shards=shards[0] if shards else None,
            window_shards=config.window_shards,
        )
    return MixedOrder(
        counts.tolist(),
        weights=config.weights or [1.0] * len(counts),
        seed=seed,
        mode=config.order,
        shards=shards,
        window_shards=config.window_shards,
    )
