"""Standardised features of some records, made a tile at a time of embeddings that may be larger than memory."""

import logging
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from lamae.base.errors import LamaeError

Labels01 = np.ndarray | csr_array
BLOCK_ROWS = 1024

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Standardizer:
    """Shift and scale to zero mean and unit variance, as measured on the training records."""

    mean_D: np.ndarray
    std_D: np.ndarray

    @classmethod
    def fit(cls, x_ND: "np.ndarray | Features") -> "Standardizer":
        """A feature that does not vary, whatever its unit, keeps scale 1, so it stays a harmless zero."""
        features = Features.of(x_ND)
        mean = sum(x.sum(0, dtype=np.float64) for _, x in features.tiles()) / len(features)
        std = np.sqrt(sum(np.square(x - mean).sum(0) for _, x in features.tiles()) / len(features))
        varies = (std > 1e-8 * np.abs(mean)) & (std > 1e-12 * std.max(initial=0)) & (std.astype(np.float32) > 0)
        if not varies.any():
            log.warning("no feature varies over the %d training records: nothing can be read from them", len(features))
        std = np.where(varies, std, 1.0)
        return cls(mean.astype(np.float32), std.astype(np.float32))

    def apply(self, x_ND: np.ndarray) -> np.ndarray:
        return (x_ND - self.mean_D) / self.std_D


@dataclass(frozen=True)
class UnitLength:
    """Scales rows to length one, after another scale where there is one."""

    before: "Standardizer | UnitLength | None"

    def apply(self, x_ND: np.ndarray) -> np.ndarray:
        x_ND = x_ND if self.before is None else self.before.apply(x_ND)
        return x_ND / np.linalg.norm(x_ND, axis=1, keepdims=True).clip(1e-12)


@dataclass(frozen=True)
class Joined:
    """Arrays of one width, in memory or on disk, as if they lay one below the other; nothing is copied."""

    parts: Sequence[Any]

    @property
    def shape(self) -> tuple[int, int]:
        return sum(part.shape[0] for part in self.parts), self.parts[0].shape[1]


@dataclass(frozen=True)
class Features:
    """``rows`` of ``source``, standardised where there is a ``scale``.

    The source is an array in memory, or one on disk that is read by chunks of rows, or both ``Joined``: except in
    memory, ``rows`` ascend.
    """

    source: Any
    rows: np.ndarray
    scale: Standardizer | UnitLength | None = None

    @classmethod
    def of(cls, x_ND: "np.ndarray | Features") -> "Features":
        return x_ND if isinstance(x_ND, Features) else cls(x_ND, np.arange(len(x_ND)))

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def num_features(self) -> int:
        return int(self.source.shape[1])

    def tiles(self, worker: int = 0, num_workers: int = 1) -> Iterator[tuple[slice, np.ndarray]]:
        """(which of ``rows``, float32 [n, D]), as many at a time as a chunk on disk holds; a worker's share of them."""
        if isinstance(self.source, Joined):
            yield from self._tiles_of_parts(self.source.parts, worker, num_workers)
            return
        if in_memory := isinstance(self.source, np.ndarray):
            edges = np.append(np.arange(0, len(self.rows), BLOCK_ROWS), len(self.rows))
        else:
            step = self.source.chunks[0]
            edges = np.searchsorted(self.rows, np.arange(0, self.source.shape[0] + step, step))
        for block, (first, end) in list(enumerate(pairwise(edges.tolist())))[worker::num_workers]:
            if first < end:
                rows = self.rows[first:end]
                found = self.source[rows if in_memory else slice(block * step, (block + 1) * step)]
                x = np.asarray(found if in_memory else found[rows - block * step], dtype=np.float32)
                yield slice(first, end), x if self.scale is None else self.scale.apply(x)

    def _tiles_of_parts(
        self, parts: Sequence[Any], worker: int, num_workers: int
    ) -> Iterator[tuple[slice, np.ndarray]]:
        start = 0
        for part in parts:
            end = start + part.shape[0]
            first, last = np.searchsorted(self.rows, [start, end]).tolist()
            tiles = Features(part, self.rows[first:last] - start, self.scale).tiles(worker, num_workers)
            yield from ((slice(first + rows.start, first + rows.stop), x) for rows, x in tiles)
            start = end

    def to_read_often(self) -> "Features":
        """The same, from a temporary file where the source is on disk: a store's chunks are compressed."""
        return self if isinstance(self.source, np.ndarray) else Features(_Spool(self), np.arange(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.concatenate([x for _, x in self.tiles()]).astype(dtype or np.float32)


class _Spool:
    """Features as they are computed with, float32 [N, D] in a temporary file without a name, read by slices of rows."""

    def __init__(self, features: Features) -> None:
        self.shape, self.chunks = (len(features), features.num_features), (BLOCK_ROWS,)
        try:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115
            for _, x in features.tiles():
                self._file.write(np.ascontiguousarray(x, dtype=np.float32).data)
            self._file.flush()
        except OSError as error:
            raise LamaeError(
                f"{tempfile.gettempdir()}: no room for {4 * math.prod(self.shape) / 1e9:.1f} GB of features "
                f"({error.strerror or error}); set TMPDIR to a folder on a disk that has it"
            ) from None

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, _ = rows.indices(self.shape[0])
        x = np.empty((stop - start, self.shape[1]), dtype=np.float32)
        if os.preadv(self._file.fileno(), [x.data.cast("B")], start * x.itemsize * x.shape[1]) != x.nbytes:
            raise LamaeError(f"{tempfile.gettempdir()}: a temporary file ends early; is the disk full?")
        return x
