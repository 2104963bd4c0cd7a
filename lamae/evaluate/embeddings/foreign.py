"""Anyone's embeddings into an embeddings store, so that every model is probed by the identical protocol.

Accepted, always with one row per record and a key per row as the shard set knows it:

    NAME.npy  float [N, D]   with NAME.keys.txt (one key per line) or NAME.keys.npy (strings) beside it
    NAME.npz                 with arrays "embeddings" and "keys"
    NAME.zarr                a group with arrays "embeddings" and "keys"
"""

import logging
from pathlib import Path

import numpy as np
import zarr

from lamae.base.errors import UsageError
from lamae.evaluate import store
from lamae.evaluate.embeddings.embed import UNKNOWN, write_records
from lamae.sharding.format import ShardSet
from lamae.sharding.keys import RecordNames

log = logging.getLogger(__name__)


def import_embeddings(
    source: Path, shards: Path | ShardSet, out: Path, *, model: str | None = None, allow_missing: bool = False
) -> int:
    """Write ``out`` from foreign embeddings; how many records of the shard set have one.

    ``model`` names what made them: stores of two shard sets are taken together only where it is the same.
    What the model was pretrained on is not known, and every report on it says so. Raises UsageError when the source is
    unreadable, holds repeated keys or values that are not finite in float32, or lacks records and ``allow_missing`` is
    false.
    """
    shard_set = ShardSet.open(shards)
    store.refuse_existing(out)
    x_MD, keys = read_foreign(source)
    row_by_key = shard_set.row_by_key
    names = RecordNames(row_by_key)
    places = np.array([-1 if (found := names.find(key)) is None else row_by_key[found] for key in keys])
    matched = places >= 0
    if not matched.any():
        raise UsageError(
            f"{source}: none of its {len(keys)} keys is in {shard_set.root} "
            f"(there: {shard_set.keys[0]!r}, here: {keys[0]!r})"
        )
    if not matched.all():
        unknown = keys[int(np.argmin(matched))]
        log.warning("%s: %d of its %d rows are of no record of %s (first: %r) and left out",
                    source, (~matched).sum(), len(keys), shard_set.root, unknown)  # fmt: skip
    rows, counts = np.unique(places[matched], return_counts=True)
    if len(rows) < matched.sum():
        raise UsageError(
            f"{source}: {int(matched.sum()) - len(rows)} keys are repeated (first: "
            f"{shard_set.keys[rows[np.argmax(counts > 1)]]!r}); keep one row of each record"
        )
    missing = shard_set.num_records - len(rows)
    if missing and not allow_missing:
        raise UsageError(
            f"{source}: {missing} of {shard_set.num_records} records of {shard_set.root} have no embedding there; give "
            "--allow-missing to go on (labelled ones among them still stop a probe)"
        )
    record = np.zeros((shard_set.num_records, x_MD.shape[1]), dtype=np.float32)
    record[places[matched]] = x_MD[matched]
    embedded = np.zeros(shard_set.num_records, dtype=bool)
    embedded[rows] = True
    write_records(
        out,
        shard_set,
        record,
        embedded_N=embedded,
        pretrained_N=np.full(shard_set.num_records, UNKNOWN, dtype=np.uint8),
        attributes={"model": model or source.stem, "imported": True, "made_by": f"imported {model}" if model else ""},
    )
    return len(rows)


def read_foreign(source: Path) -> tuple[np.ndarray, list[str]]:
    """(float32 [M, D], M keys). Raises UsageError naming what is wrong with ``source``."""
    if source.suffix not in (".npy", ".npz", ".zarr"):
        raise UsageError(f"{source}: is neither .npy, .npz nor .zarr")
    if not source.exists():
        raise UsageError(f"{source}: no such file")
    try:
        values, keys = _read_zarr(source) if source.suffix == ".zarr" else _read_numpy(source)
        names = [key.decode() if isinstance(key, bytes) else str(key) for key in keys.reshape(-1).tolist()]
    except UsageError:
        raise
    except Exception as error:  # damaged bytes trip a codec or anything in numpy's and zarr's own parsing
        remedy = "; save keys with dtype=str and numbers with dtype=float32" if "allow_pickle" in str(error) else ""
        raise UsageError(f"{source}: not readable as embeddings ({error or type(error).__name__}){remedy}") from None
    if np.issubdtype(keys.dtype, np.floating) and keys.dtype.itemsize < 8:
        raise UsageError(f"{source}: its keys are {keys.dtype}, which cannot hold long ids; save them with dtype=str")
    if values.ndim != 2 or len(values) != len(names) or not values.size:
        raise UsageError(
            f"{source}: {list(values.shape)} values for {len(names)} keys; one row of numbers per key is needed"
        )
    if not np.issubdtype(values.dtype, np.floating):
        raise UsageError(f"{source}: holds {values.dtype}, not floating-point numbers")
    with np.errstate(over="ignore"):
        x_MD = values.astype(np.float32)
    unusable = ~np.isfinite(x_MD).all(1)
    if unusable.any():
        raise UsageError(
            f"{source}: holds values that are not finite, or too large for float32, in {unusable.sum()} rows (first: "
            f"{names[int(np.argmax(unusable))]!r})"
        )
    zeros = ~x_MD.any(1)
    if zeros.any():
        log.warning(
            "%s: %d rows hold only zeros (first: %r); is it whole?", source, zeros.sum(), names[int(np.argmax(zeros))]
        )
    return x_MD, names


def _read_numpy(source: Path) -> tuple[np.ndarray, np.ndarray]:
    found = np.load(source, allow_pickle=False)
    if isinstance(found, np.ndarray):
        return found, _keys_beside(source)
    with found as arrays:
        _require(source, arrays.files)
        return arrays["embeddings"], arrays["keys"]


def _read_zarr(source: Path) -> tuple[np.ndarray, np.ndarray]:
    group = zarr.open_group(source, mode="r")
    _require(source, list(group.array_keys()))
    return _whole(source, group["embeddings"]), _whole(source, group["keys"])


def _require(source: Path, names: list[str]) -> None:
    if not {"embeddings", "keys"} <= set(names):
        raise UsageError(f"{source}: needs arrays embeddings and keys; it has {', '.join(names) or 'none'}")


def _whole(source: Path, array: zarr.Array | zarr.Group) -> np.ndarray:
    """All of an array. Raises UsageError where a file of it is not there: zarr would read its fill value."""
    assert isinstance(array, zarr.Array)
    grid = [-(-size // step) for size, step in zip(array.shape, array.shards or array.chunks, strict=True)]
    for place in np.ndindex(*grid):
        file = source / array.path / array.metadata.encode_chunk_key(place)
        if not file.is_file():
            raise UsageError(f"{file}: missing, and zarr would read zeros; copy it again, or write empty chunks too")
    return np.asarray(array)


def _keys_beside(source: Path) -> np.ndarray:
    text, array = source.with_suffix(".keys.txt"), source.with_suffix(".keys.npy")
    if text.is_file():
        return np.array(text.read_text(encoding="utf-8-sig").split())
    if array.is_file():
        return np.asarray(np.load(array, allow_pickle=False))
    raise UsageError(f"{source}: needs {text.name} or {array.name} beside it, with one key per row")
