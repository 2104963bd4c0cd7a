"""Columns that belong to a shard set but live outside it: ``labels.zarr``, ``embeddings.zarr``.

A store is a zarr v3 group whose row i is record i of one shard set. Its attributes hold the index hash of that shard
set, so two stores (or a store and a shard set) can prove that their rows mean the same records. Stores carry no record
or subject ids. They are written beside their final place and renamed, so a path that exists is complete; asked for
again, the same store is left as it is, and another one in its place is refused. ``files_sha256`` among the attributes
holds the sha256 of every other file and of the attributes: what is read is what was written.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from lamae.base import files
from lamae.base.errors import LamaeError, UsageError
from lamae.base.files import named, new_directory, put_in_place, writing
from lamae.base.lock import Lock
from lamae.base.outputs import refuse_other
from lamae.sharding.checked import ATTRIBUTES, CheckedGroup, file_sums

if TYPE_CHECKING:  # slow to import, and embedding writes no labels
    from scipy.sparse import csr_array


STORE_VERSION = 2
SUMS_NAME = "files_sha256"
ROWS_PER_CHUNK = 16384
LARGE_BYTES = 64 << 20
"""Columns above are kept sparse, or left on disk, by readers that can work so."""


def partial_path(out: Path) -> Path:
    """Where something that can be gone on with is written until it is complete, under ``lock``."""
    return named(out).with_name(f".{named(out).name}.partial")


def lock(out: Path) -> Lock:
    """What keeps a second process from ``partial_path`` once ``take_lock`` has taken it."""
    return Lock(named(out).with_name(f".{named(out).name}.lock"), what=out)


def take_lock(lock: Lock, out: Path) -> Path:
    """Wait for the lock; returns ``partial_path``.

    Raises LamaeError where another process stays there, UsageError where nothing can be written beside ``out``.
    """
    with writing(out, UsageError):
        out.parent.mkdir(parents=True, exist_ok=True)
        lock.take()
    return partial_path(out)


def refuse_existing(out: Path) -> None:
    """Raises UsageError when ``out`` exists: a finished store is never overwritten."""
    if out.exists():
        raise UsageError(f"{out}: exists; remove it or choose another name")


def is_finished(out: Path, *, kind: str, attributes: Mapping[str, Any]) -> bool:
    """Whether ``out`` is there already, made with exactly these attributes.

    Raises UsageError when something else is in its place, naming what differs, and LamaeError as ``open_store``.
    """
    if not out.exists():
        return False
    found = open_store(out, kind=kind).attrs
    refuse_other({name: found.get(name) for name in attributes}, attributes, f"{out}: exists and is another one")
    return True


def create(folder: Path, *, kind: str, attributes: Mapping[str, Any]) -> zarr.Group:
    """An empty store to be filled and sealed."""
    content = {"kind": kind, "store_version": STORE_VERSION, **attributes}
    return zarr.create_group(store=folder, attributes=content, zarr_format=3)


def add_column(
    group: zarr.Group, name: str, *, shape: tuple[int, ...], dtype: str, rows_per_chunk: int = ROWS_PER_CHUNK
) -> zarr.Array:
    """A column of ``shape[0]`` rows in a store under construction, chunked by rows."""
    chunks = (max(1, min(shape[0], rows_per_chunk)), *(max(1, size) for size in shape[1:]))
    return group.create_array(name=name, shape=shape, dtype=dtype, chunks=chunks)


def seal(folder: Path) -> None:
    """Note the sha256 of every file of a store that is complete among its attributes."""
    for leftover in folder.rglob("*.partial"):  # of a chunk whose writing was killed
        leftover.unlink()
    content = json.loads((folder / ATTRIBUTES).read_text())
    content["attributes"][SUMS_NAME] = sums = file_sums(folder)
    sums[ATTRIBUTES] = _digest(content["attributes"])
    (folder / ATTRIBUTES).write_text(json.dumps(content, indent=1))


def publish(out: Path, *, kind: str, attributes: Mapping[str, Any]) -> None:
    """Seal what is at ``partial_path`` and give it its name, unless the same store has it by now.

    Raises UsageError where another one has.
    """
    folder = partial_path(out)
    seal(folder)
    try:
        put_in_place(folder, out)
    except FileExistsError:
        is_finished(out, kind=kind, attributes=attributes)
        shutil.rmtree(folder, ignore_errors=True)


def write(
    out: Path, *, kind: str, columns: "Mapping[str, np.ndarray | csr_array]", attributes: Mapping[str, Any]
) -> bool:
    """Write a whole store, dense and a chunk at a time; False where the same one was there already, or is by now.

    Raises UsageError when ``out`` exists and is not the same, or cannot be written.
    """
    if is_finished(out, kind=kind, attributes=attributes):
        found = open_store(out, kind=kind)
        differing = [
            name for name, values in columns.items() if name not in found or not _same(found.open(name), values)
        ]
        if differing:
            raise UsageError(
                f"{out}: exists with other contents ({', '.join(differing)}); remove it or choose another name"
            )
        return False
    with writing(out, UsageError):
        try:
            with new_directory(out) as folder:
                group = create(folder, kind=kind, attributes=attributes)
                for name, values in columns.items():
                    array = add_column(group, name, shape=values.shape, dtype=str(values.dtype))
                    for rows in blocks(values.shape[0]):
                        array[rows] = dense(values[rows])
                seal(folder)
        except FileExistsError:
            return write(out, kind=kind, columns=columns, attributes=attributes)
    return True


def blocks(num_rows: int) -> Iterator[slice]:
    """Slices of rows that are a chunk each."""
    return (slice(start, start + ROWS_PER_CHUNK) for start in range(0, num_rows, ROWS_PER_CHUNK))


def sparse(array: Any) -> "csr_array":
    """A column of 0 and 1 on disk, of which the places of the ones alone are kept."""
    from scipy.sparse import csr_array, vstack

    return vstack([csr_array(array[rows]) for rows in blocks(array.shape[0])], format="csr")


def stack(first: "np.ndarray | csr_array", second: "np.ndarray | csr_array") -> "np.ndarray | csr_array":
    """One below the other; dense where both are."""
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return np.concatenate([first, second])
    from scipy.sparse import csr_array, vstack

    return vstack([csr_array(first), csr_array(second)], format="csr")


def dense(values: "np.ndarray | csr_array") -> np.ndarray:
    return values if isinstance(values, np.ndarray) else values.toarray()


def _same(found: Any, values: "np.ndarray | csr_array") -> bool:
    """Whether a column on disk has these values."""
    return found.shape == values.shape and all(
        np.array_equal(found[rows], dense(values[rows])) for rows in blocks(found.shape[0])
    )


class Store(CheckedGroup):
    """A finished store, open for reading."""

    def __init__(self, path: Path, sums: Mapping[str, str], attributes: dict[str, Any], *, remedy: str) -> None:
        super().__init__(path, sums, remedy=remedy)
        self.attrs = attributes


def open_store(path: Path, *, kind: str) -> Store:
    """Open a finished store of ``kind`` for reading.

    Raises UsageError when there is none and LamaeError when a file of it was lost or changed, or when it is from a
    newer version or from one without checksums.
    """
    remedy = f"remove it and make it again with 'lamae {_VERB.get(kind, kind)}'"
    if not path.exists():
        raise UsageError(f"{path}: no such store; make it with 'lamae {_VERB.get(kind, kind)}'")
    for name, what in _OTHERS.items():
        if (path / name).exists():
            raise UsageError(f"{path}: is {what}, not {kind}; make {kind} from it with 'lamae {_VERB.get(kind, kind)}'")
    if not (path / ATTRIBUTES).exists() and not any(path.glob(f"*/{ATTRIBUTES}")):
        raise UsageError(f"{path}: is there, and is no store of {kind}")
    try:
        attributes = dict(json.loads((path / ATTRIBUTES).read_text())["attributes"])
        version = int(attributes["store_version"])
    except (KeyError, ValueError, TypeError, OSError) as error:
        raise LamaeError(f"{path / ATTRIBUTES}: not readable as a store of {kind} ({error}); {remedy}") from None
    files.check_version(path, "store version", version, STORE_VERSION)
    sums = attributes.get(SUMS_NAME)
    if version < STORE_VERSION or not isinstance(sums, dict):
        raise LamaeError(f"{path}: has no checksums: it is from an older lamae, or was changed; {remedy}")
    if sums.get(ATTRIBUTES) != _digest(attributes):
        raise LamaeError(f"{path / ATTRIBUTES}: changed since it was written (sha256); {remedy}")
    if attributes["kind"] != kind:
        raise UsageError(f"{path}: holds {attributes['kind']}, not {kind}")
    return Store(path, sums, attributes, remedy=remedy)


def _digest(attributes: dict[str, Any]) -> str:
    """sha256 over attributes, the files' own among them."""
    sums = {name: sha256 for name, sha256 in attributes[SUMS_NAME].items() if name != ATTRIBUTES}
    return files.json_sha256(attributes | {SUMS_NAME: sums})


_VERB = {"labels": "labels", "embeddings": "embed"}
# Common mistakes, recognised by a file inside.
_OTHERS = {"dataset.json": "a shard set", "config.yaml": "a run directory", "checkpoint.json": "a checkpoint"}


def require_same_rows(first: Path, first_hash: str, second: Path, second_hash: str) -> None:
    """Raises UsageError unless both index hashes are the same, i.e. row i means the same record in both."""
    if first_hash != second_hash:
        raise UsageError(
            f"{first} and {second} belong to different shard sets (index {first_hash[:12]} and {second_hash[:12]}); "
            "make both from the same one"
        )
