"""Anyone's embeddings into an embeddings store, so that every model is probed by the identical protocol.

Accepted, always with one row per record and a key per row as the shard set knows it:

    NAME.npy  float [N, D]   with NAME.keys.txt (one key per line) or NAME.keys.npy (strings) beside it
    NAME.npz                 with arrays "embeddings" and "keys"
    NAME.zarr                a group with arrays "embeddings" and "keys"
"""

from pathlib import Path

import numpy as np
import zarr

from lamae.evaluate import store
from lamae.evaluate.embed import UNKNOWN, write_records
from lamae.sharding.errors import UsageError
from lamae.sharding.format import ShardSet


def import_embeddings(
    source: Path, shards: Path | ShardSet, out: Path, *, name: str | None = None, allow_missing: bool = False
) -> int:
    """Write ``out`` from foreign embeddings; how many records of the shard set have one.

    What the model was pretrained on is not known, and every report on it says so. Raises UsageError when the source is
    unreadable, holds repeated keys or values that are not finite, or lacks records and ``allow_missing`` is false.
    """
    shard_set = shards if isinstance(shards, ShardSet) else ShardSet.open(shards)
    store.refuse_existing(out)
    x_MD, keys = read_foreign(source)
    row_by_key = {key: row for row, key in enumerate(shard_set.keys)}
    places = np.array([row_by_key.get(key, -1) for key in keys])
    matched = places >= 0
    if not matched.any():
        raise UsageError(
            f"{source}: none of its {len(keys)} keys is in {shard_set.root} "
            f"(there: {shard_set.keys[0]!r}, here: {keys[0]!r})"
        )
    missing = shard_set.num_records - int(matched.sum())
    if missing and not allow_missing:
        raise UsageError(
            f"{source}: {missing} of {shard_set.num_records} records of {shard_set.root} have no embedding there; give "
            "--allow-missing to go on (labelled ones among them still stop a probe)"
        )
    record = np.zeros((shard_set.num_records, x_MD.shape[1]), dtype=np.float32)
    record[places[matched]] = x_MD[matched]
    embedded = np.zeros(shard_set.num_records, dtype=bool)
    embedded[places[matched]] = True
    write_records(
        out,
        shard_set,
        record,
        embedded_N=embedded,
        pretrained_N=np.full(shard_set.num_records, UNKNOWN, dtype=np.uint8),
        attributes={"model": name or source.stem, "imported": True},
    )
    return int(matched.sum())


def read_foreign(source: Path) -> tuple[np.ndarray, list[str]]:
    """(float32 [M, D], M keys). Raises UsageError naming what is wrong with ``source``."""
    try:
        if source.suffix == ".npy":
            values, keys = np.load(source, allow_pickle=False), _keys_beside(source)
        elif source.suffix == ".npz":
            with np.load(source, allow_pickle=False) as arrays:
                values, keys = arrays["embeddings"], arrays["keys"]
        elif source.suffix == ".zarr":
            group = zarr.open_group(source, mode="r")
            values, keys = np.asarray(group["embeddings"]), np.asarray(group["keys"])
        else:
            raise UsageError(f"{source}: is neither .npy, .npz nor .zarr")
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{source}: not readable as embeddings ({error})") from None
    names = [key.decode() if isinstance(key, bytes) else str(key) for key in np.asarray(keys).tolist()]
    if values.ndim != 2 or len(values) != len(names):
        raise UsageError(
            f"{source}: {list(values.shape)} values for {len(names)} keys; one row of numbers per key is needed"
        )
    if not np.issubdtype(values.dtype, np.floating) or not np.isfinite(values).all():
        raise UsageError(f"{source}: holds values that are no finite floating-point numbers")
    if len(set(names)) != len(names):
        raise UsageError(f"{source}: {len(names) - len(set(names))} keys are repeated")
    return values.astype(np.float32), names


def _keys_beside(source: Path) -> np.ndarray:
    text, array = source.with_suffix(".keys.txt"), source.with_suffix(".keys.npy")
    if text.is_file():
        return np.array(text.read_text(encoding="utf-8").split())
    if array.is_file():
        return np.asarray(np.load(array, allow_pickle=False))
    raise UsageError(f"{source}: needs {text.name} or {array.name} beside it, with one key per row")
