"""Members of a large zip by name, in little memory: 1.6 million of them in 46 MB, shared between processes.

``zipfile`` keeps an object per member, over a gigabyte for PhysioNet's MIMIC-IV-ECG. Here a member is a row of a
sorted array: a 64-bit hash of its name, where it is and how to unpack it; the name itself is compared with the one in
the zip when the member is read. Format: PKWARE APPNOTE 6.3.10, stored and deflated members, zip64.
"""

import hashlib
import logging
import mmap
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lamae.base.errors import LamaeError, UsageError
from lamae.base.files import new_file
from lamae.sharding.walk import is_hidden

logger = logging.getLogger(__name__)

_CENTRAL = struct.Struct("<4s6H3I5H2I")  # signature .. local header offset
_LOCAL = struct.Struct("<4s5H3I2H")
_END = struct.Struct("<4s4H2IH")
_END64_LOCATOR = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQ2H2I4Q")
_IN_ZIP64_EXTRA = 0xFFFFFFFF
_MAX_COMMENT = 65535
_STORED, _DEFLATED = 0, 8
_SMALL = 1 << 16  # bytes that are at most 64 MiB unpacked: deflate makes up to 1,032 bytes of one
_UNIX = 3  # system that made a member
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
    """The members of a zip that are not hidden."""

    rows: np.ndarray  # _ROW [N], sorted by name_hash
    path: Path
    directory_sha256: str  # of the zip's own directory
    size: int  # of the zip, bytes
    changed_ns: int  # when it was last written

    @classmethod
    def read(cls, path: Path) -> "ZipIndex":
        """Index the zip at ``path``. Raises UsageError for what this module does not read, LamaeError for damage."""

        def rows() -> Iterator[tuple[int, ...]]:
            for name, member in _central_directory(path):
                yield _name_hash(name), *member

        status = path.stat()
        table = np.fromiter(rows(), dtype=_ROW)  # a list of a million tuples would take ten times the memory
        if not len(table):
            raise UsageError(f"{path}: an empty zip")
        table.sort(order="name_hash")
        if (table["name_hash"][1:] == table["name_hash"][:-1]).any():
            raise LamaeError(f"{path}: two members have the same name; unpack it and give the directory")
        return cls(table, path, _directory_digest(path), status.st_size, status.st_mtime_ns)

    def save(self, path: Path) -> None:
        """Keep the index for other processes: what the zip was, and rows, as two npy arrays in one file."""
        with new_file(path) as partial, partial.open("wb") as file:
            np.save(file, np.array([self.directory_sha256, str(self.size), str(self.changed_ns)]))
            np.save(file, self.rows)

    @classmethod
    def load(cls, path: Path, zip_path: Path | None = None) -> "ZipIndex":
        """An index that ``save`` wrote, to read ``zip_path`` with; its rows stay on disk until they are looked up.

        Raises LamaeError where that is not the zip of which the index was made.
        """
        with path.open("rb") as file:
            digest, size, changed_ns = np.load(file).tolist()
            version = np.lib.format.read_magic(file)
            assert version == (1, 0)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            rows = np.memmap(path, dtype=dtype, mode="r", offset=file.tell(), shape=shape)
        index = cls(rows, zip_path or Path(), digest, int(size), int(changed_ns))
        if zip_path is not None:
            index._refuse_other(zip_path)
        return index

    def _refuse_other(self, zip_path: Path) -> None:
        status = zip_path.stat()
        if (status.st_size, status.st_mtime_ns) == (self.size, self.changed_ns):
            return
        if _directory_digest(zip_path) != self.directory_sha256:
            raise LamaeError(
                f"{zip_path}: another zip than the one that was planned, or made anew; run the same command without "
                f"--parts to take it up"
            )

    def has_content_of(self, other: "ZipIndex") -> bool:
        """Whether both hold the same files, wherever these lie in the zip."""
        content = ["name_hash", "crc32", "size"]
        return np.array_equal(self.rows[content], other.rows[content])

    def find(self, path: str) -> Member:
        """The member at ``path``. Raises FileNotFoundError."""
        wanted = _name_hash(path)
        at = int(np.searchsorted(self.rows["name_hash"], np.uint64(wanted)))
        if at == len(self.rows) or int(self.rows["name_hash"][at]) != wanted:
            raise FileNotFoundError(path)
        return Member(*self.rows[at].item()[1:])

    def paths(self) -> Iterator[str]:
        """Every member's path, in the order of the zip."""
        for name, _ in _central_directory(self.path):
            yield name


def read_member(descriptor: int, member: Member, name: str) -> bytes:
    """The unpacked content of a member. Raises ValueError or zlib.error where it is damaged or another file's."""
    # The local header's name and extra field may be longer than the central ones; this is nearly always enough.
    chunk = os.pread(descriptor, _LOCAL.size + len(name) + 64 + member.packed, member.offset)
    if len(chunk) < _LOCAL.size:
        raise ValueError("the zip ends before it")
    signature, *_, name_length, extra_length = _LOCAL.unpack_from(chunk)
    start = _LOCAL.size + name_length + extra_length
    raw_name = chunk[_LOCAL.size : _LOCAL.size + name_length]
    if signature != b"PK\3\4" or name not in (_decoded(raw_name, True), _decoded(raw_name, False)):
        raise ValueError("the local header is not the one that the directory announces")
    packed = chunk[start : start + member.packed]
    if len(packed) < member.packed:
        packed = os.pread(descriptor, member.packed, member.offset + start)
    content = _inflate(packed, member.size) if member.deflated else packed
    if len(content) != member.size or zlib.crc32(content) != member.crc32:
        raise ValueError("crc32")
    return content


def _inflate(packed: bytes, size: int) -> bytes:
    """At most one byte over the ``size`` that the directory announces, or 64 MiB: the rest may be gigabytes."""
    if len(packed) <= _SMALL:
        return zlib.decompress(packed, -15, size)  # faster by a sixth
    return zlib.decompressobj(-15).decompress(packed, size + 1)


def _name_hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(os.fsencode(name), digest_size=8).digest(), "little")


def _decoded(raw_name: bytes, from_unix: bool) -> str:
    """A member's path as unzip would write it: the bytes of a Unix system as they are, others by their code page."""
    try:
        name = raw_name.decode()
    except UnicodeDecodeError:
        name = os.fsdecode(raw_name) if from_unix else raw_name.decode("cp437")
    if not from_unix:
        name = name.replace("\\", "/")
    return name.removeprefix("./").lstrip("/")


def _directory_digest(path: Path) -> str:
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view,
        memoryview(view) as whole,
        whole[_find_directory(view, path)[0] :] as directory,
    ):
        return hashlib.sha256(directory).hexdigest()


def _central_directory(path: Path) -> Iterator[tuple[str, Member]]:
    """Name and member of every file of the central directory that is not hidden."""
    try:
        if path.stat().st_size < _END.size:
            raise UsageError(f"{path}: not a zip")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            yield from _entries(view, path)
    except struct.error:
        raise LamaeError(f"{path}: the directory of the zip is damaged; download it again") from None


def _entries(view: mmap.mmap, path: Path) -> Iterator[tuple[str, Member]]:
    offset, count = _find_directory(view, path)
    links = []
    for _ in range(count):
        if view[offset : offset + 4] != b"PK\1\2":
            raise LamaeError(f"{path}: the directory of the zip is damaged at byte {offset}; download it again")
        (_, made_by, _, bits, method, _, _, crc32, packed, size, *lengths, _, _, mode, at) = _CENTRAL.unpack_from(
            view, offset
        )
        name_length, extra_length, _ = lengths
        start = offset + _CENTRAL.size
        offset = start + sum(lengths)
        if offset > len(view):
            raise struct.error
        from_unix = made_by >> 8 == _UNIX
        name = _decoded(view[start : start + name_length], from_unix)
        if name.endswith("/") or is_hidden(name):
            continue
        if at == _IN_ZIP64_EXTRA or size == _IN_ZIP64_EXTRA or packed == _IN_ZIP64_EXTRA:
            extra = view[start + name_length : start + name_length + extra_length]
            size, packed, at = _zip64(extra, size, packed, at)
        if bits & 1 or method not in (_STORED, _DEFLATED):
            how = "encrypted" if bits & 1 else f"packed by method {method}"
            raise UsageError(f"{path}: {name} is {how}; unpack the zip and give the directory")
        if at + packed > len(view):
            raise LamaeError(f"{path}: {name} would end behind the end of the zip; download it again")
        if from_unix and stat.S_ISLNK(mode >> 16):
            links.append(name)
        elif max(size, packed) < _IN_ZIP64_EXTRA:  # no ECG file is larger; other members are simply not there
            yield name, Member(at, packed, size, crc32, method == _DEFLATED)
    if links:
        logger.warning(
            "%s: %d links are left out, such as %s, and with them any records behind them; zip without --symlinks",
            path,
            len(links),
            links[0],
        )


def _find_directory(view: mmap.mmap, path: Path) -> tuple[int, int]:
    """Offset of the central directory and its number of entries."""
    end = view.rfind(b"PK\5\6", max(0, len(view) - _END.size - _MAX_COMMENT))
    if end < 0:
        raise UsageError(f"{path}: no zip, or one whose end is missing; download it again")
    _, disk, _, _, count, _, offset, _ = _END.unpack_from(view, end)
    locator = end - _END64_LOCATOR.size
    if locator >= 0 and view[locator : locator + 4] == b"PK\6\7":
        _, _, at, _ = _END64_LOCATOR.unpack_from(view, locator)
        if view[at : at + 4] != b"PK\6\6":
            raise LamaeError(f"{path}: the zip64 end record is damaged; download it again")
        _, _, _, _, disk, _, _, count, _, offset = _END64.unpack_from(view, at)
    if disk:
        raise UsageError(f"{path}: one piece of a zip in several; join them (zip -s 0) or give the unpacked directory")
    return offset, count


def _zip64(extra: bytes, size: int, packed: int, at: int) -> tuple[int, int, int]:
    """Size, packed size and offset, filled in where the zip64 extra field (id 1) keeps them, in this order.

    Raises struct.error where it does not.
    """
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        if kind == 1:
            numbers = list(struct.unpack_from(f"<{length // 8}Q", extra, position + 4))
            if len(numbers) < (size, packed, at).count(_IN_ZIP64_EXTRA):
                raise struct.error
            size, packed, at = (numbers.pop(0) if value == _IN_ZIP64_EXTRA else value for value in (size, packed, at))
            return size, packed, at
        position += 4 + length
    raise struct.error
