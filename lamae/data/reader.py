"""Reading records of a shard set into memory that is already there, from any number of threads."""

import contextlib
import os
import resource
import threading
from collections.abc import Callable
from pathlib import Path

import google_crc32c
import numpy as np
import torch

from lamae.base.errors import LamaeError
from lamae.base.leads import NUM_LEADS
from lamae.data.batch import Batch
from lamae.data.config import DataConfig
from lamae.data.mixture import Mixture
from lamae.sharding.format import ShardSet, lead_mask_to_bool

MAX_OPEN_SHARDS = 4096
MAX_REPLACEMENTS = 16

OnCorrupt = Callable[[int, "CorruptRecordError"], None]


class CorruptRecordError(LamaeError):
    """One record cannot be read or is not what was packed; the rest of its shard may be sound."""


class ReplacedShardError(LamaeError):
    """A shard is gone, or no longer the file it was when it was packed or first read."""


class _OpenShard:
    """A file descriptor that closes when the last reader lets go of it, and what the file was when it was opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDONLY)
        stat = os.fstat(self.fd)
        self.size = stat.st_size
        self.identity = _identity(stat)

    def __del__(self) -> None:
        if hasattr(self, "fd"):
            os.close(self.fd)

    def is_still_there(self) -> bool:
        """Whether the path still leads to the very file that is open, untouched."""
        try:
            return _identity(os.stat(self.path)) == self.identity
        except OSError:
            return False


def _max_open_shards() -> int:
    """Half of the files this process may open, within reason."""
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MAX_OPEN_SHARDS if allowed == resource.RLIM_INFINITY else max(1, min(MAX_OPEN_SHARDS, allowed // 2))


def _identity(stat: os.stat_result) -> tuple[int, ...]:
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


class RecordReader:
    """Reads records by ``preadv`` at their index offsets, with a CRC-32C check; safe to share between threads.

    Where there are ``replacements``, rows of the index, ``read`` and ``read_or_replace`` read one of them, chosen by
    ``seed`` and row alone, in place of a corrupt record.
    """

    def __init__(
        self,
        records: ShardSet | Mixture,
        *,
        check_crc: bool = True,
        replacements: np.ndarray | None = None,
        seed: int = 0,
    ) -> None:
        self.records = records = Mixture.of(records)
        self._check_crc = check_crc
        self._replacements = replacements
        self._seed = seed
        self._offset = records.column("payload_offset")
        self._length = records.column("payload_length")
        self._crc = records.column("crc32c")
        self._gain = records.column("gain")
        self._baseline = records.column("baseline")
        self._lead_mask = lead_mask_to_bool(records.column("lead_mask"))
        self._may_miss_samples = ((records.column("num_missing") > 0) & self._lead_mask).any(-1)
        # Shards of all sets are numbered through.
        self._shards: list[tuple[ShardSet, int]] = []
        numbers = []
        for shard_set in records.sets:
            if not (shard_set.column("payload_length") == 2 * NUM_LEADS * shard_set.num_samples).all():
                raise LamaeError(
                    f"{shard_set.root}: not every record has {shard_set.num_samples} samples per lead; "
                    f"run 'lamae verify {shard_set.root}'"
                )
            own = shard_set.column("shard").astype(np.int64)
            numbers.append(own + len(self._shards))
            self._shards += [(shard_set, shard) for shard in range(int(own.max(initial=-1)) + 1)]
        self._shard = numbers[0] if len(numbers) == 1 else np.concatenate(numbers)
        self._max_open = _max_open_shards()
        self._open: dict[int, _OpenShard] = {}
        self._lock = threading.Lock()

    @classmethod
    def configured(
        cls, records: ShardSet | Mixture, config: DataConfig, *, rows: np.ndarray, seed: int
    ) -> "RecordReader":
        """Reads some of ``rows`` as ``data.check_crc`` and ``data.on_corrupt`` say."""
        replacements = rows if config.on_corrupt == "skip" else None
        return cls(records, check_crc=config.check_crc, replacements=replacements, seed=seed)

    def read_or_replace(self, rows: np.ndarray, memory: list[np.ndarray]) -> int:
        """As ``read_into``, but ``rows`` then holds what was read in place of corrupt records; how many they were."""
        if self._replacements is None:
            self.read_into(rows, memory)
            return 0
        replaced = []

        def replace(place: int, error: CorruptRecordError) -> None:
            replaced.append((place, self._replace(int(rows[place]), memory[place], error)))

        self.read_into(rows, memory, on_corrupt=replace)
        for place, row in replaced:
            rows[place] = row
        return len(replaced)

    def _replace(self, row: int, record: np.ndarray, first: CorruptRecordError) -> int:
        """Read another record instead of ``row``; which one."""
        assert self._replacements is not None
        candidates = np.random.Philox(key=np.array([self._seed, row], dtype=np.uint64)).random_raw(MAX_REPLACEMENTS)
        for index in candidates % np.uint64(len(self._replacements)):
            other = self._replacements[index : index + 1]
            try:
                self.read_into(other, [record])
            except CorruptRecordError:
                continue
            return int(other[0])
        raise LamaeError(f"{first}; {MAX_REPLACEMENTS} records tried in its place are corrupt too")

    def read_into(self, rows: np.ndarray, memory: list[np.ndarray], *, on_corrupt: OnCorrupt | None = None) -> None:
        """Read record ``rows[i]`` into the first of ``memory[i]`` (uint8, contiguous, as long as the longest record).

        Raises ReplacedShardError, and CorruptRecordError naming shard, offset and key unless ``on_corrupt`` takes
        care of it; that is called with i and the error.
        """
        # The loader's hot path: one system call, one checksum and as little else as can be per record. (mypy learns
        # that arrays are buffers with Python 3.12.)
        files, check_crc = self._open, self._check_crc
        columns = (self._shard, self._offset, self._length, self._crc)
        index = zip(*(column[rows].tolist() for column in columns), memory, strict=True)
        for place, (shard, offset, num_bytes, crc, record) in enumerate(index):
            file = files.get(shard) or self._open_shard(shard)
            problem = None
            if len(record) != num_bytes:
                record = record[:num_bytes]
            try:
                count = os.preadv(file.fd, (record,), offset)
                if count != num_bytes:
                    count += self._read_rest(file.fd, record[count:], offset + count)
            except OSError as error:
                problem = error.strerror or str(error)
            else:
                if count != num_bytes:
                    problem = f"the shard ends {num_bytes - count} bytes early"
                elif check_crc and google_crc32c.value(record) != crc:
                    problem = "CRC-32C differs from the index"
            if problem is not None:
                self.check_files()  # another file in its place is no matter of one record
                corrupt = self._corrupt(int(rows[place]), problem)
                if on_corrupt is None:
                    raise corrupt
                on_corrupt(place, corrupt)

    def advise(self, rows: np.ndarray, *, until: Callable[[], bool]) -> None:
        """Ask the system to fetch ``rows`` into the page cache, in file order; stops early once ``until()``.

        A hint: whatever is wrong with a file is left for reading to find.
        """
        if not hasattr(os, "posix_fadvise"):  # macOS
            return
        shards, offsets = self._shard[rows], self._offset[rows]
        by_place = np.lexsort((offsets, shards))
        for row in rows[by_place]:
            if until():
                return
            shard = int(self._shard[row])
            with contextlib.suppress(OSError, ReplacedShardError):
                file = self._open.get(shard) or self._open_shard(shard)
                os.posix_fadvise(file.fd, int(self._offset[row]), int(self._length[row]), os.POSIX_FADV_WILLNEED)

    @staticmethod
    def _read_rest(fd: int, rest: np.ndarray, offset: int) -> int:
        """Some network file systems return less than was asked for: go on until the end of the file."""
        count = 0
        while count < len(rest):
            more = os.preadv(fd, (rest[count:],), offset + count)  # type: ignore[arg-type]
            if more == 0:
                break
            count += more
        return count

    def read(self, rows: np.ndarray, *, epoch: int = 0) -> Batch:
        """``rows``, in that order, in memory of their own. Raises as ``read_or_replace``."""
        rows = np.array(rows, dtype=np.int64)
        adc = torch.empty((len(rows), NUM_LEADS, self.records.num_samples), dtype=torch.int16)
        num_replaced = self.read_or_replace(rows, bytes_of(adc))
        epochs = np.full(len(rows), epoch, dtype=np.int64)
        return self.batch(adc, rows, epochs, samples_consumed=0, num_replaced=num_replaced)

    def batch(
        self, adc: torch.Tensor, rows: np.ndarray, epoch: np.ndarray, *, samples_consumed: int, num_replaced: int = 0
    ) -> Batch:
        """``adc`` (already read) together with what the index says about ``rows``."""
        return Batch(
            adc=adc,
            gain=torch.from_numpy(self._gain[rows]),
            baseline=torch.from_numpy(self._baseline[rows].astype(np.float32)),
            lead_mask=torch.from_numpy(self._lead_mask[rows]),
            row=torch.from_numpy(rows),
            epoch=torch.from_numpy(epoch),
            samples_consumed=samples_consumed,
            may_miss_samples=torch.from_numpy(self._may_miss_samples[rows]),
            set_of=torch.from_numpy(self.records.set_of(rows)) if len(self.records.sets) > 1 else None,
            num_replaced=num_replaced,
        )

    def check_files(self) -> None:
        """Raises ReplacedShardError where a shard was replaced, resized, touched or removed since it was opened."""
        for file in list(self._open.values()):
            if not file.is_still_there():
                raise _replaced(file.path, "changed while it was being read")

    def close(self) -> None:
        """Let go of all files; those in use close when their read ends."""
        with self._lock:
            self._open.clear()

    def _open_shard(self, shard: int) -> _OpenShard:
        with self._lock:
            if shard in self._open:
                return self._open[shard]
            shard_set, number = self._shards[shard]
            path = shard_set.shard_path(number)
            try:
                opened = _OpenShard(path)
            except OSError as error:
                raise _replaced(path, error.strerror or str(error)) from None
            packed_size = shard_set.shard_bytes.get(path.name)
            if packed_size is not None and opened.size != packed_size:
                raise _replaced(path, f"{opened.size} bytes long, but {packed_size} when it was packed")
            while len(self._open) >= self._max_open:
                del self._open[next(iter(self._open))]
            self._open[shard] = opened
            return opened

    def _corrupt(self, row: int, reason: str) -> CorruptRecordError:
        shard_set, number = self._shards[int(self._shard[row])]
        return CorruptRecordError(
            f"{shard_set.shard_path(number)}: record {self.records.keys[row]} at offset {int(self._offset[row])} is "
            f"corrupt: {reason}; run 'lamae verify {shard_set.root}', which says what to do (training can read past "
            "it with data.on_corrupt=skip)"
        )


def bytes_of(adc: torch.Tensor) -> list[np.ndarray]:
    """The memory of each record of a contiguous ``[B, 12, T]`` tensor, as uint8 ``[24 * T]``."""
    return list(adc.numpy().reshape(len(adc), -1).view(np.uint8))


def _replaced(path: Path, reason: str) -> ReplacedShardError:
    root = path.parents[1]
    return ReplacedShardError(
        f"{path}: {reason}; a shard set is read-only once it is packed: run 'lamae verify {root}'"
    )
