"""Columns that belong to a shard set but live outside it: ``labels.zarr``, ``embeddings.zarr``.

A store is a zarr v3 group whose row i is record i of one shard set. Its attributes hold the index hash of that shard
set, so two stores (or a store and a shard set) can prove that their rows mean the same records. Stores carry no record
or subject ids. They are written beside their final place and renamed, so a path that exists is complete; asked for
again, the same store is left as it is, and another one in its place is refused.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from lamae.sharding.errors import LamaeError, UsageError

STORE_VERSION = 1
ROWS_PER_CHUNK = 16384


def partial_path(out: Path) -> Path:
    """Where a store is written until it is complete."""
    return out.with_name(f".{out.name}.partial")


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
    found = dict(open_store(out, kind=kind).attrs)
    wanted = json.loads(json.dumps(dict(attributes)))
    differing = [name for name in wanted if found.get(name) != wanted[name]]
    if differing:
        raise UsageError(
            f"{out}: exists and is another one (it differs in {', '.join(differing)}); remove it or choose another name"
        )
    return True


def create(out: Path, *, kind: str, attributes: Mapping[str, Any]) -> zarr.Group:
    """An empty store to be filled and then put in place by ``publish``."""
    refuse_existing(out)
    partial = partial_path(out)
    if partial.exists():
        shutil.rmtree(partial)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        return zarr.create_group(
            store=partial, attributes={"kind": kind, "store_version": STORE_VERSION, **attributes}, zarr_format=3
        )
    except OSError as error:
        raise UsageError(f"{out}: cannot be written ({error.strerror or error})") from None


def add_column(
    group: zarr.Group, name: str, *, shape: tuple[int, ...], dtype: str, rows_per_chunk: int = ROWS_PER_CHUNK
) -> zarr.Array:
    """A column of ``shape[0]`` rows in a store under construction, chunked by rows."""
    chunks = (max(1, min(shape[0], rows_per_chunk)), *(max(1, size) for size in shape[1:]))
    return group.create_array(name=name, shape=shape, dtype=dtype, chunks=chunks)


def publish(out: Path) -> None:
    """Give the finished store its name."""
    os.rename(partial_path(out), out)


def write(out: Path, *, kind: str, columns: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> bool:
    """Write a whole store at once; False where the very same one was there already.

    Raises UsageError when ``out`` exists and is not the same.
    """
    if is_finished(out, kind=kind, attributes=attributes):
        group = open_store(out, kind=kind)
        differing = [
            n for n, values in columns.items() if n not in group or not np.array_equal(np.asarray(group[n]), values)
        ]
        if differing:
            raise UsageError(
                f"{out}: exists with other contents ({', '.join(differing)}); remove it or choose another name"
            )
        return False
    group = create(out, kind=kind, attributes=attributes)
    for name, values in columns.items():
        add_column(group, name, shape=values.shape, dtype=str(values.dtype))[:] = values
    publish(out)
    return True


def open_store(path: Path, *, kind: str) -> zarr.Group:
    """Open a finished store of ``kind`` for reading.

    Raises UsageError when there is none and LamaeError when it is unreadable or from a newer version.
    """
    if not path.exists():
        raise UsageError(f"{path}: no such store; make it with 'lamae {_VERB.get(kind, kind)}'")
    for name, what in _OTHERS.items():
        if (path / name).exists():
            raise UsageError(f"{path}: is {what}, not {kind}; make {kind} from it with 'lamae {_VERB.get(kind, kind)}'")
    try:
        group = zarr.open_group(path, mode="r")
        found, version = group.attrs["kind"], int(str(group.attrs["store_version"]))
    except (KeyError, ValueError, OSError) as error:
        raise LamaeError(f"{path}: not readable as a store of {kind} ({error})") from None
    if found != kind:
        raise UsageError(f"{path}: holds {found}, not {kind}")
    if version > STORE_VERSION:
        raise LamaeError(f"{path}: store version {version} is newer than {STORE_VERSION}; upgrade lamae")
    return group


_VERB = {"labels": "labels", "embeddings": "embed"}
# What is easily given instead, by a file in it.
_OTHERS = {"dataset.json": "a shard set", "config.yaml": "a run directory", "checkpoint.json": "a checkpoint"}


def require_same_rows(first: Path, first_hash: str, second: Path, second_hash: str) -> None:
    """Raises UsageError unless both index hashes are the same, i.e. row i means the same record in both."""
    if first_hash != second_hash:
        raise UsageError(
            f"{first} and {second} belong to different shard sets (index {first_hash[:12]} and {second_hash[:12]}); "
            "make both from the same one"
        )
