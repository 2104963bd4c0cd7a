"""Safetensors files of gigabytes: one pass over memory writes, hashes and syncs them; reading fills tensors that exist.

A file is cut into chunks, each written or verified by one of a few threads: while one waits for the disk, another
hashes. The GIL is free in all that takes time. BLAKE3 hashes 3 to 5 GB/s on a core with AVX-512 (docs/log.md).
"""

import json
import os
import weakref
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, TypeVar

import torch
from blake3 import blake3

from lamae.base.errors import LamaeError
from lamae.base.files import begin_writing_back

T = TypeVar("T")
R = TypeVar("R")

CHUNK_BYTES = 16 << 20
"""What one digest covers; a part of the checkpoint's format."""
_NUM_THREADS = 4
_PIECE_BYTES = 1 << 20
"""Hashed and written, or read and hashed, while a core's cache still holds it."""
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.uint64: "U64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def on_threads(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """``map`` on a few threads; of a single item, here."""
    if len(items) < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        return list(pool.map(function, items))


def save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> dict[str, Any]:
    """Write a safetensors file, durably; its size and the digests of its chunks. Raises OSError.

    safetensors 0.8.0 writes one, too, but on one thread, unhashed, and readable for its owner alone.
    """
    # Wide types first, so that every tensor begins at a multiple of its width.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    views = [_bytes_of(tensors[name]) for name in order]
    ends = accumulate((len(view) for view in views), initial=0)
    header = json.dumps(
        {
            name: {"dtype": _DTYPES[tensors[name].dtype], "shape": list(tensors[name].shape), "data_offsets": offsets}
            for name, offsets in zip(order, pairwise(ends), strict=True)
        }
    ).encode()
    header += b" " * (-len(header) % 8)
    views = [memoryview(len(header).to_bytes(8, "little") + header), *views]
    *starts, num_bytes = accumulate((len(view) for view in views), initial=0)
    with path.open("wb", buffering=0) as file:

        def write(begin: int) -> str:
            pieces = _pieces(starts, views, begin, min(begin + CHUNK_BYTES, num_bytes))
            return _write_chunk(file.fileno(), begin, pieces)

        digests = on_threads(write, chunk_starts(num_bytes))
        os.fsync(file.fileno())
    return {"bytes": num_bytes, "blake3": digests}


def chunk_starts(num_bytes: int) -> range:
    """Where the chunks of a file of this size begin."""
    return range(0, num_bytes, CHUNK_BYTES)


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    """What a tensor in host memory holds; not copied where it has no gaps."""
    if not tensor.numel():  # stride 0 where it comes from numpy, and torch 2.13.0 views that as no other type
        return memoryview(b"")
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().data


def _pieces(starts: Sequence[int], views: Sequence[memoryview], begin: int, end: int) -> Iterator[memoryview]:
    """Bytes ``begin .. end`` of the views laid end to end, the i-th from ``starts[i]`` on."""
    index = bisect_right(starts, begin) - 1
    while begin < end:
        low = begin - starts[index]
        piece = views[index][low : low + min(_PIECE_BYTES, end - begin)]
        begin += len(piece)
        index += low + len(piece) == len(views[index])
        yield piece


def _write_chunk(descriptor: int, offset: int, pieces: Iterator[memoryview]) -> str:
    """Write pieces one after another and have the disk begin with them; their digest."""
    begin, digest = offset, blake3()
    for piece in pieces:
        digest.update(piece)
        while piece:
            written = os.pwrite(descriptor, piece, offset)
            piece, offset = piece[written:], offset + written
    begin_writing_back(descriptor, begin, offset - begin)
    return digest.hexdigest()


def chunk_digest(path: Path, begin: int) -> str:
    """Digest of the chunk of a file that begins there. Raises OSError."""
    digest, buffer, left = blake3(), memoryview(bytearray(_PIECE_BYTES)), CHUNK_BYTES
    with path.open("rb", buffering=0) as file:
        file.seek(begin)
        while left and (num_read := file.readinto(buffer[:left])):
            digest.update(buffer[:num_read])
            left -= num_read
    return digest.hexdigest()


class TensorFile:
    """A safetensors file open for reading, by any number of threads at once. Raises LamaeError where it is none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
            weakref.finalize(self, os.close, self._descriptor)
            length = int.from_bytes(os.pread(self._descriptor, 8, 0), "little")
            header = json.loads(os.pread(self._descriptor, min(length, os.fstat(self._descriptor).st_size), 8))
            size = os.fstat(self._descriptor).st_size - 8 - length
            for entry in header.values():
                offsets = entry.get("data_offsets", [0, 0])
                if [type(at) for at in offsets] != [int, int] or not 0 <= offsets[0] <= offsets[1] <= size:
                    raise ValueError(f"tensors beyond its {size} bytes")
            # Byte offsets of each tensor's values, from the end of the header on.
            self._extents = {
                name: (8 + length + entry["data_offsets"][0], 8 + length + entry["data_offsets"][1])
                for name, entry in header.items()
                if entry.get("dtype") == "F32"
            }
        except (OSError, ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
            raise LamaeError(f"{path}: unreadable ({error})") from None

    def read_into(self, target: torch.Tensor, name: str, start: int) -> None:
        """Elements ``start .. start + target.numel()`` of a float32 tensor, into one in host memory without gaps."""
        begin, end = self._extents.get(name, (0, 0))
        view = target.view(torch.uint8).numpy().data
        offset = begin + target.element_size() * start
        if start < 0 or offset + len(view) > end:
            raise LamaeError(f"{self._path}: {name} has no {target.numel()} float32 values from {start} on")
        try:
            while view:
                num_read = os.preadv(self._descriptor, [view], offset)
                if not num_read:
                    raise LamaeError(f"{self._path}: ends within {name}")
                view, offset = view[num_read:], offset + num_read
        except OSError as error:
            raise LamaeError(f"{self._path}: unreadable ({error.strerror})") from None
