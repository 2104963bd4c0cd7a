"""A plain POSIX ustar file, written front to back: names, sizes, bytes; no owners, no times, so the same input gives
the same bytes everywhere. ``tar`` and ``webdataset`` read it; nothing here is slower than copying.
"""

import hashlib
import os
from pathlib import Path
from types import TracebackType
from typing import Any

from blake3 import blake3

from lamae.base.files import begin_writing_back, own_name

BLOCK = 512
MAX_NAME = 100
# name, then mode 0444, uid 0, gid 0 | size | mtime 0 | checksum | type '0', link name | magic, version, owners, device
_MODE_UID_GID = b"0000444\0" + b"0000000\0" * 2
_MTIME = b"00000000000\0"
_TYPE_TO_END = b"0" + bytes(100) + b"ustar\x0000" + bytes(64) + b"0000000\0" * 2 + bytes(155) + bytes(12)
# The checksum is the sum of the header's bytes with its own eight taken as spaces.
_CONSTANT_SUM = sum(_MODE_UID_GID) + sum(_MTIME) + 8 * 32 + sum(_TYPE_TO_END)
END = bytes(2 * BLOCK)
DIGEST = "blake3"
"""What the whole tar is hashed with: four times as fast as sha256, which sets of format version 1 have."""
_MAX_PIECES = 512  # of one writev; POSIX lets systems stop at 1024


def member_header(name: str, size: int) -> bytes:
    """The 512-byte header of a regular file. Raises ValueError for a name over 100 bytes."""
    raw = name.encode("ascii")
    if len(raw) > MAX_NAME:
        raise ValueError(f"tar member name over {MAX_NAME} bytes: {name}")
    size_field = b"%011o\0" % size
    checksum = _CONSTANT_SUM + sum(raw) + sum(size_field)
    return b"".join((raw.ljust(100, b"\0"), _MODE_UID_GID, size_field, _MTIME, b"%06o\0 " % checksum, _TYPE_TO_END))


def member(name: str, *chunks: bytes | memoryview) -> tuple[bytes | memoryview, ...]:
    """The pieces of a member whose content is ``chunks``: header, content, padding; join them to write them."""
    length = sum(map(len, chunks))
    return (member_header(name, length), *chunks, bytes(-length % BLOCK))


def digest_of(entry: dict[str, Any]) -> tuple[str, str]:
    """The name of the hash that an entry of dataset.json, or a part's report, holds of its tar, and its hex digest."""
    name = DIGEST if DIGEST in entry else "sha256"
    return name, entry[name]


def new_digest(name: str) -> Any:
    """The hash of that name with nothing in it yet, for ``update`` and ``hexdigest``."""
    return blake3() if name == DIGEST else hashlib.new(name)


def is_whole(path: Path, entry: dict[str, Any]) -> bool:
    """Whether a tar has the digest that ``entry`` holds of it."""
    name, expected = digest_of(entry)
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: new_digest(name)).hexdigest() == expected


class TarWriter:
    """Writes ``path`` so that it exists only when it is whole: to a name of its own first, then renamed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        # Two writers of one shard (a requeued job and its old copy) must not share a file.
        self._partial = own_name(path)
        self._file = self._partial.open("wb", buffering=0)
        self._pending: list[bytes | memoryview] = []
        self._digest = blake3()
        self.size = 0

    def write(self, *pieces: bytes | memoryview) -> int:
        """Append whole members, as ``member`` makes them; returns the byte offset they start at.

        What the pieces show must not change before ``flush``: nothing is copied.
        """
        start = self.size
        for piece in pieces:
            self._digest.update(piece)
            self.size += len(piece)
        self._pending += pieces
        return start

    def flush(self) -> None:
        """Write what is pending, in one call where the system takes it all, and let the disk begin with it."""
        start = os.lseek(self._file.fileno(), 0, os.SEEK_CUR)
        for first in range(0, len(self._pending), _MAX_PIECES):
            pieces = self._pending[first : first + _MAX_PIECES]
            written = os.writev(self._file.fileno(), pieces)
            if written < sum(map(len, pieces)):  # a disk that is about to be full, or a signal
                rest = memoryview(b"".join(pieces))[written:]
                while rest:
                    rest = rest[os.write(self._file.fileno(), rest) :]
        self._pending.clear()
        begin_writing_back(self._file.fileno(), start, self.size - start)

    def close(self) -> str:
        """Finish the file, move it to its place and return its BLAKE3. The merge syncs it, with all others."""
        self.write(END)
        self.flush()
        self._file.close()
        self._partial.replace(self._path)
        return self._digest.hexdigest()

    def __enter__(self) -> "TarWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._partial.unlink(missing_ok=True)
            self._file.close()
