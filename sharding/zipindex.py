"""Members of a large zip by name, in little memory: 1.6 million of them in 46 MB, shared between processes.

``zipfile`` keeps an object per member, over a gigabyte for PhysioNet's MIMIC-IV-ECG. Here a member is a row of a
sorted array: a 64-bit hash of its name, where it is and how to unpack it; the name itself is compared with the one in
the zip when the member is read. Format: PKWARE APPNOTE 6.3.10, stored and deflated members, zip64.
"""

import hashlib
import mmap
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lamae.sharding.errors import LamaeError, UsageError

_CENTRAL = struct.Struct("<4s6H3I5H2I")  # signature .. local header offset
_LOCAL = struct.Struct("<4s5H3I2H")
_END = struct.Struct("<4s4H2IH")
_END64_LOCATOR = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQ2H2I4Q")
_IN_ZIP64_EXTRA = 0xFFFFFFFF
_MAX_COMMENT = 65535
_STORED, _DEFLATED = 0, 8
_ROW = np.dtype(
    [("name_hash", "<u8"), ("offset", "<u8"), ("packed", "<u4"), ("size", "<u4"), ("crc32", "<u4"), ("deflated", "?")]
)


class Member(NamedTuple):
    """Where a member is and how to unpack it."""

    offset: int  # of its local header
    packed: int  # bytes in the zip
    size: int  # bytes unpacked
    crc32: int
    deflated: bool


@dataclass(frozen=True)
class ZipIndex:
    """The members of a zip. ``prefix`` is the one folder around everything, or empty."""

    rows: np.ndarray  # _ROW [N], sorted by name_hash
    prefix: str
    path: Path

    @classmethod
    def read(cls, path: Path) -> "ZipIndex":
        """Index the zip at ``path``. Raises UsageError for what this module does not read, LamaeError for damage."""
        tops: set[str] = set()

        def rows() -> Iterator[tuple[int, ...]]:
            for name, member in _central_directory(path):
                if not name.endswith("/"):
                    top, slash, _ = name.partition("/")
                    tops.add(top + slash)
                    yield _name_hash(name), *member

        table = np.fromiter(rows(), dtype=_ROW)  # a list of a million tuples would take ten times the memory
        if not len(table):
            raise UsageError(f"{path}: an empty zip")
        table.sort(order="name_hash")
        if (table["name_hash"][1:] == table["name_hash"][:-1]).any():
            raise LamaeError(f"{path}: two members have the same name; unpack it and give the directory")
        prefix = tops.pop() if len(tops) == 1 else ""
        return cls(table, prefix if prefix.endswith("/") else "", path)

    def save(self, path: Path) -> None:
        """Keep the index for other processes: prefix, path and rows as three npy arrays in one file."""
        with path.open("wb") as file:
            np.save(file, np.array(self.prefix))
            np.save(file, np.array(str(self.path)))
            np.save(file, self.rows)

    @classmethod
    def load(cls, path: Path) -> "ZipIndex":
        """An index that ``save`` wrote; its rows stay on disk until they are looked up."""
        with path.open("rb") as file:
            prefix, zip_path = str(np.load(file)), str(np.load(file))
            version = np.lib.format.read_magic(file)
            assert version == (1, 0)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            rows = np.memmap(path, dtype=dtype, mode="r", offset=file.tell(), shape=shape)
        return cls(rows, prefix, Path(zip_path))

    def find(self, path: str) -> Member:
        """The member at ``path`` below the prefix. Raises FileNotFoundError."""
        wanted = _name_hash(self.prefix + path)
        at = int(np.searchsorted(self.rows["name_hash"], np.uint64(wanted)))
        if at == len(self.rows) or int(self.rows["name_hash"][at]) != wanted:
            raise FileNotFoundError(path)
        return Member(*self.rows[at].item()[1:])

    def paths(self) -> Iterator[str]:
        """Every member's path below the prefix, in the order of the zip."""
        for name, _ in _central_directory(self.path):
            if not name.endswith("/"):
                yield name.removeprefix(self.prefix)


def read_member(descriptor: int, member: Member, name: str) -> bytes:
    """The unpacked content of a member. Raises ValueError or zlib.error where it is damaged or another file's."""
    raw_name = name.encode()
    # The local header's extra field may be longer than the central one; 64 bytes are nearly always enough.
    wanted = _LOCAL.size + len(raw_name) + 64 + member.packed
    chunk = os.pread(descriptor, wanted, member.offset)
    signature, *_, name_length, extra_length = _LOCAL.unpack_from(chunk)
    start = _LOCAL.size + name_length + extra_length
    if signature != b"PK\3\4" or chunk[_LOCAL.size : _LOCAL.size + name_length] != raw_name:
        raise ValueError("the local header is not the one that the directory announces")
    packed = chunk[start : start + member.packed]
    if len(packed) < member.packed:
        packed = os.pread(descriptor, member.packed, member.offset + start)
    content = zlib.decompress(packed, -15, member.size) if member.deflated else packed
    if len(content) != member.size or zlib.crc32(content) != member.crc32:
        raise ValueError("crc32")
    return content


def _name_hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def _central_directory(path: Path) -> Iterator[tuple[str, Member]]:
    """Name and member of every entry of the central directory."""
    if path.stat().st_size < _END.size:
        raise UsageError(f"{path}: not a zip")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        offset, count = _find_directory(view, path)
        for _ in range(count):
            if offset + _CENTRAL.size > len(view) or view[offset : offset + 4] != b"PK\1\2":
                raise LamaeError(f"{path}: the directory of the zip is damaged at byte {offset}; download it again")
            (_, _, _, bits, method, _, _, crc32, packed, size, name_length, extra_length, comment_length, *_, at) = (
                _CENTRAL.unpack_from(view, offset)
            )
            start = offset + _CENTRAL.size
            raw_name = view[start : start + name_length]
            if at == _IN_ZIP64_EXTRA or size == _IN_ZIP64_EXTRA or packed == _IN_ZIP64_EXTRA:
                extra = view[start + name_length : start + name_length + extra_length]
                size, packed, at = _zip64(extra, size, packed, at)
            if bits & 1 or method not in (_STORED, _DEFLATED):
                raise UsageError(f"{path}: {raw_name!r} is encrypted or packed by method {method}; unpack the zip")
            if size < _IN_ZIP64_EXTRA:  # no ECG file is larger; other members are simply not there
                yield raw_name.decode("utf-8", "surrogateescape"), Member(at, packed, size, crc32, method == _DEFLATED)
            offset = start + name_length + extra_length + comment_length


def _find_directory(view: mmap.mmap, path: Path) -> tuple[int, int]:
    """Offset of the central directory and its number of entries."""
    end = view.rfind(b"PK\5\6", max(0, len(view) - _END.size - _MAX_COMMENT))
    if end < 0:
        raise UsageError(f"{path}: no zip, or one whose end is missing; download it again")
    *_, count, _, offset, _ = _END.unpack_from(view, end)
    locator = end - _END64_LOCATOR.size
    if locator >= 0 and view[locator : locator + 4] == b"PK\6\7":
        _, _, at, _ = _END64_LOCATOR.unpack_from(view, locator)
        if view[at : at + 4] != b"PK\6\6":
            raise LamaeError(f"{path}: the zip64 end record is damaged; download it again")
        *_, count, _, offset = _END64.unpack_from(view, at)
    return offset, count


def _zip64(extra: bytes, size: int, packed: int, at: int) -> tuple[int, int, int]:
    """Size, packed size and offset, filled in where the zip64 extra field (id 1) keeps them, in this order."""
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        if kind == 1:
            numbers = iter(struct.unpack_from(f"<{length // 8}Q", extra, position + 4))
            size, packed, at = (next(numbers) if value == _IN_ZIP64_EXTRA else value for value in (size, packed, at))
            break
        position += 4 + length
    return size, packed, at
