"""Zarr groups of which every file's sha256 is known: what is read is what was written, or refused with the file's name.

zarr 3.1 reads a chunk that is not there as the array's fill value, without a word, and notices a changed byte only
where decompression happens to trip over it. So the files of an array are compared with their sha256 before it is read:
only that array's, for most readers need few columns of many.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lamae.base.errors import LamaeError
from lamae.base.files import file_sha256
from lamae.sharding.walk import is_hidden

ATTRIBUTES = "zarr.json"
"""Metadata of a group or array; that of the group itself holds its attributes."""


def file_sums(root: Path) -> dict[str, str]:
    """sha256 of every file below ``root`` by its path from there, sorted as paths are."""
    return {name: file_sha256(root / name) for name in _files_below(root) if not _is_stray(name)}


def sums_digest(sums: Mapping[str, str]) -> str:
    """One sha256 over the names and contents of all files: the index hash of a shard set."""
    digest = hashlib.sha256()
    for name in sorted(sums, key=_parts):
        digest.update(name.encode() + b"\0" + bytes.fromhex(sums[name]))
    return digest.hexdigest()


class CheckedGroup:
    """A zarr group for reading. ``sums`` are its files' sha256 as ``file_sums`` gave them when it was complete.

    Raises LamaeError, here where a file is missing or one too many, on reading where one was changed; ``remedy`` says
    what to do then.
    """

    def __init__(self, root: Path, sums: Mapping[str, str], *, remedy: str) -> None:
        self.root, self._sums, self._remedy = root, sums, remedy
        self._refuse(_missing_or_extra(root, sums))

    def __contains__(self, name: str) -> bool:
        return f"{name}/{ATTRIBUTES}" in self._sums

    @property
    def names(self) -> list[str]:
        """Of its arrays, sorted."""
        return sorted(file.removesuffix(f"/{ATTRIBUTES}") for file in self._sums if file.endswith(f"/{ATTRIBUTES}"))

    def __getitem__(self, name: str) -> np.ndarray:
        """All of an array. Raises LamaeError as ``open``."""
        return np.asarray(self.open(name))

    def open(self, name: str) -> Any:
        """A zarr array, to be read by slices: checked whole, here.

        Raises LamaeError where there is none of that name, or one of its files was changed.
        """
        import zarr  # slow to import, and packing's workers never read an index

        if name not in self:
            raise LamaeError(f"{self.root}: has no {name}; {self._remedy}")
        self._refuse(_changed(self.root, {file: s for file, s in self._sums.items() if file.startswith(f"{name}/")}))
        return zarr.open_array(self.root / name, mode="r")

    def _refuse(self, problems: Iterator[str]) -> None:
        for problem in problems:
            raise LamaeError(f"{problem}; {self._remedy}")


def problems(root: Path, sums: Mapping[str, str]) -> list[str]:
    """Everything about the files below ``root`` that is not as ``sums`` has it, one sentence a file."""
    found = list(_missing_or_extra(root, sums))
    there = {name: sha256 for name, sha256 in sums.items() if (root / name).is_file()}
    return found + list(_changed(root, there))


def _missing_or_extra(root: Path, sums: Mapping[str, str]) -> Iterator[str]:
    if not root.is_dir():
        yield f"{root}: missing"
        return
    there = set(_files_below(root))
    for name in sorted(sums.keys() ^ there):
        if name in sums or not _is_stray(name):
            yield f"{root / name}: " + ("missing" if name in sums else "does not belong there")


def _changed(root: Path, sums: Mapping[str, str]) -> Iterator[str]:
    for name, sha256 in sums.items():
        try:
            if file_sha256(root / name) != sha256:
                yield f"{root / name}: changed since it was written (sha256)"
        except OSError as error:
            yield f"{root / name}: {error.strerror}"


def _files_below(root: Path) -> list[str]:
    """By directory listings alone: a thousand ranks that open an index at once read no file's metadata."""
    walked = ((Path(folder).relative_to(root), files) for folder, _, files in os.walk(root))
    return sorted(((place / name).as_posix() for place, files in walked for name in files), key=_parts)


def _is_stray(name: str) -> bool:
    """Whether it is a system's file, which nobody reads: .DS_Store, ._x, .nfs0001. zarr reads .zarray and such."""
    return is_hidden(name) and not name.rpartition("/")[2].startswith(".z")


def _parts(name: str) -> list[str]:
    return name.split("/")
