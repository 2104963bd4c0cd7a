"""Reading records of a shard set into memory that is already there, from any number of threads."""

import logging
import os
import threading
from collections import OrderedDict

import google_crc32c
import numpy as np
import torch

from lamae.data.batch import Batch
from sharding.errors import LamaeError
from sharding.format import ShardSet, lead_mask_to_bool
from sharding.leads import NUM_LEADS

logger = logging.getLogger(__name__)

MAX_OPEN_SHARDS = 512


class CorruptRecordError(LamaeError):
    """One record cannot be read or is not what was packed; the rest of its shard may be sound."""


class ReplacedShardError(LamaeError):
    """A shard is gone, or no longer the file it was when it was packed or first read."""


class _OpenShard:
    """A file descriptor that closes when the last reader lets go of it."""

    def __init__(self, path: str, fd: int, identity: tuple[int, ...]) -> None:
        self.path = path
        self.fd = fd
        self.identity = identity

    def __del__(self) -> None:
        os.close(self.fd)


class RecordReader:
    """Reads records by ``preadv`` at their index offsets, with a CRC-32C check; safe to share between threads."""

    def __init__(self, shard_set: ShardSet, *, check_crc: bool = True) -> None:
        self.shard_set = shard_set
        self.num_samples = shard_set.num_samples
        self.num_bytes = 2 * NUM_LEADS * self.num_samples
        self._check_crc = check_crc
        self._shard = shard_set.column("shard")
        self._offset = shard_set.column("payload_offset")
        self._crc = shard_set.column("crc32c")
        self._gain = shard_set.column("gain")
        self._baseline = shard_set.column("baseline")
        self._lead_mask = shard_set.column("lead_mask")
        self._num_missing = shard_set.column("num_missing")
        if not (shard_set.column("payload_length") == self.num_bytes).all():
            raise LamaeError(
                f"{shard_set.root}: not every record has {self.num_samples} samples per lead; "
                f"run 'lamae verify {shard_set.root}'"
            )
        self._open: OrderedDict[int, _OpenShard] = OrderedDict()
        self._lock = threading.Lock()

    def read_into(self, rows: np.ndarray, views: list[memoryview]) -> None:
        """Read record ``rows[i]`` into ``views[i]`` (writable bytes, ``num_bytes`` long).

        Raises CorruptRecordError or ReplacedShardError naming shard, offset and key.
        """
        for row, view in zip(rows.tolist(), views, strict=True):
            self.read_one(row, view)

    def read_one(self, row: int, view: memoryview) -> None:
        """Read one record; see ``read_into``."""
        shard = self._file(int(self._shard[row]))
        offset = int(self._offset[row])
        try:
            count = os.preadv(shard.fd, [view], offset)
            while 0 < count < self.num_bytes:  # some network file systems return less than was asked for
                more = os.preadv(shard.fd, [view[count:]], offset + count)
                if more == 0:
                    break
                count += more
        except OSError as error:
            raise self._corrupt(row, error.strerror or str(error)) from None
        if count != self.num_bytes:
            raise self._corrupt(row, f"the shard ends {self.num_bytes - count} bytes early")
        # google_crc32c wants an object without a release hook: an array, not the memoryview. It does not copy.
        if self._check_crc and google_crc32c.value(np.frombuffer(view, np.uint8)) != int(self._crc[row]):
            raise self._corrupt(row, "CRC-32C differs from the index")

    def batch(
        self, adc: torch.Tensor, rows: np.ndarray, epoch: np.ndarray, *, samples_consumed: int, num_replaced: int = 0
    ) -> Batch:
        """``adc`` (already read) together with what the index says about ``rows``."""
        lead_mask = lead_mask_to_bool(self._lead_mask[rows])
        return Batch(
            adc=adc,
            gain=torch.from_numpy(self._gain[rows]),
            baseline=torch.from_numpy(self._baseline[rows].astype(np.float32)),
            lead_mask=torch.from_numpy(lead_mask),
            row=torch.from_numpy(rows),
            epoch=torch.from_numpy(epoch),
            samples_consumed=samples_consumed,
            may_miss_samples=torch.from_numpy(((self._num_missing[rows] > 0) & lead_mask).any(-1)),
            num_replaced=num_replaced,
        )

    def close(self) -> None:
        """Let go of all files; those in use close when their read ends."""
        with self._lock:
            self._open.clear()

    def _file(self, shard: int) -> _OpenShard:
        with self._lock:
            found = self._open.get(shard)
            if found is not None:
                self._open.move_to_end(shard)
                return found
            path = str(self.shard_set.shard_path(shard))
            try:
                fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            except OSError as error:
                raise ReplacedShardError(
                    f"{path}: {error.strerror}; run 'lamae verify {self.shard_set.root}'"
                ) from None
            stat = os.fstat(fd)
            opened = self._open[shard] = _OpenShard(path, fd, (stat.st_ino, stat.st_size, stat.st_mtime_ns))
            while len(self._open) > MAX_OPEN_SHARDS:
                self._open.popitem(last=False)
            return opened

    def _corrupt(self, row: int, reason: str) -> CorruptRecordError:
        path = self.shard_set.shard_path(int(self._shard[row]))
        return CorruptRecordError(
            f"{path}: record {self.shard_set.keys[row]} at offset {int(self._offset[row])} is corrupt: {reason}; "
            f"run 'lamae verify {self.shard_set.root}', or read past it with data.on_corrupt=skip"
        )
