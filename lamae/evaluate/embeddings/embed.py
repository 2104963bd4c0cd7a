"""``embeddings.zarr``: what a frozen model makes of each record of a shard set, row by row.

record        float32 [N, D]    the model's own pooled embedding
mean          float32 [N, D]    plain mean over the visible leads' tokens: one read-out common to all methods
lead_weights  float32 [N, 12]   share of each lead in the pooling
lead          float16 [N, 12, D]  per-lead latents, on request
embedded      bool [N]          false for rows of other splits, and for those without any of the leads asked for
subject       int32 [N]         groups records of one subject; a number within this shard set, no id
split         uint8 [N]         as in the shard set
pretrained    uint8 [N]         1 where the subject was in pretraining, 0 where not, 2 where that is not known
record_hash   uint64 [N]        of the record's key, where the source has no name: whether two sets share records
"""

import dataclasses
import hashlib
import logging
import math
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr

from lamae.base.errors import LamaeError, UsageError
from lamae.base.leads import LEADS, NUM_LEADS
from lamae.base.lock import Lock
from lamae.base.place import find_place
from lamae.base.progress import Progress, ignore
from lamae.evaluate import store
from lamae.evaluate.embeddings.blocks import BlockWriter, embed_blocks
from lamae.evaluate.embeddings.inference import load_for_inference
from lamae.model import PretrainModel
from lamae.model.config import ModelConfig
from lamae.sharding.format import ShardSet, lead_mask_to_bool
from lamae.train import runconfig
from lamae.train.checkpoint.format import LoadedModel
from lamae.train.checkpoint.subjects import ANY_WFDB, are_comparable, row_subjects
from lamae.train.ranks import distributed
from lamae.train.ranks.distributed import Ranks

KIND = "embeddings"
NOT_PRETRAINED, PRETRAINED, UNKNOWN = 0, 1, 2
READOUTS = ("record", "mean")
# Rows that one rank embeds and writes at a time: a chunk of every column, so that no two ranks write to the same file.
MAX_BLOCK_ROWS, MIN_BLOCK_ROWS, BLOCKS_WANTED = 4096, 256, 256
# What the widest activations of a batch may take: a core's own cache holds them, which is worth a fifth of the time.
BATCH_BYTES = 8 << 20
GPU_BATCH = 256
_NO_HASHES = np.empty(0, dtype=np.uint64)
TIMEOUT_S = 24 * 3600.0  # a rank may wait that long for the others' blocks

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Embeddings:
    """An embeddings store in memory, one read-out of it; see the module's docstring for the columns."""

    x_ND: Any
    """float32 array, or a zarr array that stays on disk."""
    embedded_N: np.ndarray
    subject_N: np.ndarray
    split_N: np.ndarray
    pretrained_N: np.ndarray
    index_hash: str
    name: str
    made_by: str = ""
    """Which weights, shown which leads; empty where another program did."""
    source: str = ""
    """Source of the shard set; empty where that is not known."""
    record_hash_N: np.ndarray = field(default_factory=lambda: _NO_HASHES)
    """Empty where the store has none."""


def embed(
    run: Path,
    shards: Path | ShardSet,
    out: Path,
    *,
    batch_size: int | None = None,
    split: str = "all",
    rows: np.ndarray | None = None,
    leads: Sequence[int] | None = None,
    per_lead: bool = False,
    device: str = "cpu",
    random_weights: bool = False,
    seed: int = 0,
    progress: Progress = ignore,
) -> bool:
    """Embed ``split`` of ``shards``, or these ``rows`` of it, with the model of ``run`` and write ``out``.

    False where the very same embeddings were there already. Interrupted, the same command goes on where it stopped, on
    any number of ranks; under a launcher the ranks share the blocks. ``leads`` (canonical indices) shows the model only
    these, and passes over records that have none of them; ``random_weights`` takes the same architecture untrained,
    drawn from ``seed``; ``batch_size`` by default fits the cache. Raises UsageError when ``out`` exists and is not the
    same, the recordings do not fit the model or there is nothing to embed.
    """
    ranks = _ranks(device)
    progress = progress if ranks.is_main else ignore
    device = str(ranks.device)
    shard_set = ShardSet.open(shards)
    block_rows = _block_rows(shard_set.num_records)
    rows = shard_set.rows_of_split(split) if rows is None else np.unique(rows)
    chosen = list(range(NUM_LEADS) if leads is None else leads)
    num_asked, names = len(rows), [LEADS[lead] for lead in chosen]
    rows = rows[has_any_lead(shard_set, chosen)[rows]]
    loaded, model, transform = load_for_inference(
        run, shard_set, device=device, random_weights=random_weights, seed=seed
    )
    attributes = {
        **_origin(shard_set),
        **_made_from(loaded, model, random_seed=seed if random_weights else None),
        "leads": names,
        "rows_sha256": rows_hash(rows),
        "per_lead": per_lead,
        "rows_per_block": block_rows,
    }
    if ranks.decide(lambda: _is_finished(out, attributes)):
        return False
    if not len(rows):
        raise UsageError(f"{shard_set.root}: none of the {num_asked} records to embed has any of {', '.join(names)}")
    D = loaded.config.model.width
    shapes: dict[str, tuple[int, ...]] = {"record": (D,), "mean": (D,), "lead_weights": (NUM_LEADS,)}
    shapes |= {"lead": (NUM_LEADS, D)} if per_lead else {}
    begin = (shard_set, attributes, None if random_weights else loaded, shapes)
    with store.lock(out) as lock:
        if not ranks.decide(lambda: _begin(out, lock, *begin)):
            return False
        blocks = np.split(rows, np.flatnonzero(np.diff(rows // block_rows)) + 1)[ranks.rank :: ranks.world_size]
        problem, num_done, began = None, 0, time.monotonic()
        try:
            with BlockWriter(out) as writer:
                missing = [block for block in blocks if not writer.has(block)]
                found = embed_blocks(
                    model,
                    shard_set,
                    missing,
                    transform=transform,
                    batch_size=batch_size or _batch_size(loaded.config.model, transform.num_samples, device),
                    device=device,
                    leads=leads,
                    per_lead=per_lead,
                    progress=lambda row: progress("embed", int(np.searchsorted(rows, row)) + 1, len(rows)),
                )
                for block, columns in zip(missing, found, strict=True):
                    _require_finite(run, columns)
                    writer.add(block, columns)
                    num_done += len(block)
        except LamaeError as error:
            problem = error
        # A rank that fails is waited for like any other: what the others have embedded is kept for the next start.
        _report(ranks.gather((problem, num_done)), seconds=time.monotonic() - began)
        ranks.decide(lambda: store.publish(out, kind=KIND, attributes=attributes))
    return True


def _made_from(loaded: LoadedModel, model: PretrainModel, *, random_seed: int | None) -> dict[str, Any]:
    """Which weights embed: those of the checkpoint, or its architecture's drawn from a seed."""
    return {
        "model": loaded.config.model.kind,
        "config_hash": runconfig.config_hash(loaded.config),
        "step": loaded.step if random_seed is None else 0,
        "samples_consumed": loaded.samples_consumed if random_seed is None else 0,
        "random_weights_seed": random_seed,
        "weights_hash": weights_hash(model),
    }


def _require_finite(run: Path, columns: Mapping[str, np.ndarray]) -> None:
    """Raises LamaeError where the embeddings of a block hold anything that is not a number."""
    finite_N = np.logical_and.reduce([np.isfinite(of).reshape(len(of), -1).all(1) for of in columns.values()])
    if not finite_N.all():
        raise LamaeError(
            f"{run}: the embeddings of {(~finite_N).sum()} of {len(finite_N)} records are not finite; most likely its "
            "weights are not, or have diverged: take an earlier checkpoint ('lamae checkpoints' lists them)"
        )


def _report(of_ranks: list[tuple[LamaeError | None, int]], *, seconds: float) -> None:
    """Log how fast the ranks were. Raises what one of them did."""
    for problem, _ in of_ranks:
        if problem is not None:
            raise problem
    num_records = sum(number for _, number in of_ranks)
    log.info("%d records in %.1f s: %.0f records/s", num_records, seconds, num_records / seconds)


def _block_rows(num_records: int) -> int:
    """A function of the shard set alone, so that any number of ranks can go on with what another one began."""
    return min(MAX_BLOCK_ROWS, max(MIN_BLOCK_ROWS, -(-num_records // BLOCKS_WANTED)))


def _ranks(device: str) -> Ranks:
    """This process among those of a launcher, or alone without any process group."""
    if find_place(os.environ).world_size == 1:
        return Ranks(0, 0, 1, 1, torch.device(device), None)
    ranks = distributed.start(timeout_s=TIMEOUT_S, num_threads=0)
    return ranks if device != "cpu" else dataclasses.replace(ranks, device=torch.device("cpu"))


def _batch_size(model: ModelConfig, num_samples: int, device: str) -> int:
    if torch.device(device).type != "cpu":
        return GPU_BATCH
    widest = 4 * model.width * max(3, model.mlp_ratio) * NUM_LEADS * (1 + num_samples // model.patch_size)
    return math.ceil(BATCH_BYTES / widest)


def _begin(
    out: Path,
    lock: Lock,
    shard_set: ShardSet,
    attributes: dict[str, Any],
    loaded: LoadedModel | None,
    shapes: dict[str, tuple[int, ...]],
) -> bool:
    """Take up what an earlier, interrupted call left if it was asked for the same; else make an empty store.

    False where another process has finished it since we looked.
    """
    folder = store.take_lock(lock, out)
    if _is_finished(out, attributes):
        return False
    if _is_same(folder, attributes):
        return True
    N = shard_set.num_records
    group = store.create(folder, kind=KIND, attributes=attributes)
    fixed = _fixed_columns(shard_set, pretrained_flags(shard_set, loaded))
    for name, values in fixed.items():
        store.add_column(group, name, shape=values.shape, dtype=str(values.dtype))[:] = values
    for name, shape in shapes.items():
        dtype = "float16" if name == "lead" else "float32"
        store.add_column(group, name, shape=(N, *shape), dtype=dtype, rows_per_chunk=attributes["rows_per_block"])
    store.add_column(group, "embedded", shape=(N,), dtype="bool", rows_per_chunk=attributes["rows_per_block"])
    return True


def _is_finished(out: Path, attributes: dict[str, Any]) -> bool:
    """As ``store.is_finished``; how many rows a block had says nothing of what is in them."""
    made = {name: value for name, value in attributes.items() if name != "rows_per_block"}
    return store.is_finished(out, kind=KIND, attributes=made)


def _is_same(folder: Path, attributes: dict[str, Any]) -> bool:
    """Whether an unfinished store was begun with these attributes; anything else there is removed."""
    try:
        group = zarr.open_group(folder, mode="r")
        wanted = {"store_version": store.STORE_VERSION, **attributes}
        if "embedded" in group and all(group.attrs.get(name) == value for name, value in wanted.items()):
            return True
    except (OSError, ValueError):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    return False


def write_records(
    out: Path,
    shard_set: ShardSet,
    record_ND: np.ndarray,
    *,
    embedded_N: np.ndarray,
    pretrained_N: np.ndarray,
    attributes: Mapping[str, Any],
) -> bool:
    """Write an embeddings store of one read-out, ``record``, that no model of ours made; False as ``store.write``."""
    columns = {"record": record_ND, "embedded": embedded_N, **_fixed_columns(shard_set, pretrained_N)}
    return store.write(out, kind=KIND, columns=columns, attributes={**_origin(shard_set), **attributes})


def _origin(shard_set: ShardSet) -> dict[str, Any]:
    return {"index_sha256": shard_set.index_hash, "source": shard_set.manifest["source"]}


def _fixed_columns(shard_set: ShardSet, pretrained_N: np.ndarray) -> dict[str, np.ndarray]:
    """What a store says of the rows of any model."""
    columns = {"subject": subject_numbers(shard_set), "split": shard_set.column("split"), "pretrained": pretrained_N}
    if shard_set.manifest["source"] == ANY_WFDB:
        digests = (hashlib.sha256(key.encode()).digest()[:8] for key in shard_set.record_keys)
        columns["record_hash"] = np.frombuffer(b"".join(digests), dtype="<u8")
    return columns


def has_any_lead(shard_set: ShardSet, leads: Sequence[int] | None) -> np.ndarray:
    """bool [N]: whether a record has any of these leads (canonical indices; None: all)."""
    has_NL = lead_mask_to_bool(shard_set.column("lead_mask"))
    return np.asarray(has_NL[:, list(range(NUM_LEADS) if leads is None else leads)].any(1))


def subject_numbers(shard_set: ShardSet) -> np.ndarray:
    """int32 [N]: the same number for records of the same subject; it says nothing outside the shard set."""
    _, subject = np.unique(shard_set.column("subject"), return_inverse=True)
    return subject.astype(np.int32)


def pretrained_flags(shard_set: ShardSet, loaded: LoadedModel | None) -> np.ndarray:
    """uint8 [N]: PRETRAINED where the record's subject was in the checkpoint's pretraining; None: nobody was.

    UNKNOWN where hashes cannot tell: see ``lamae.train.checkpoint.subjects.are_comparable``; of an export, everywhere.
    """
    subjects = shard_set.column("subject")
    if loaded is None:
        return np.full(len(subjects), NOT_PRETRAINED, dtype=np.uint8)
    if loaded.sets is None:
        return np.full(len(subjects), UNKNOWN, dtype=np.uint8)
    hashes = row_subjects(shard_set, np.arange(len(subjects)))
    seen = np.isin(hashes, loaded.subject_hashes)
    comparable = are_comparable(shard_set, loaded.sets)
    return np.where(seen, PRETRAINED, np.where(comparable, NOT_PRETRAINED, UNKNOWN)).astype(np.uint8)


def weights_hash(model: PretrainModel) -> str:
    """First 16 hex digits of the sha256 over all parameters and buffers: which weights made these embeddings."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + b"\0")
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def rows_hash(rows: np.ndarray) -> str:
    """sha256 over row numbers: one name for "exactly these records of the shard set"."""
    return hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()


def read_embeddings(path: Path, *, readout: str = "record", may_stay: bool = False) -> Embeddings:
    """Load one read-out of an embeddings store; a large one that ``may_stay`` on disk does.

    Raises UsageError or LamaeError as ``store.open_store``, and LamaeError where values are not finite.
    """
    group = store.open_store(path, kind=KIND)
    if readout not in group:
        raise UsageError(f"{path}: has no read-out {readout!r}; it has {', '.join(r for r in READOUTS if r in group)}")
    try:
        x_ND = group.open(readout)
        if not may_stay or x_ND.nbytes <= store.LARGE_BYTES:
            x_ND = np.asarray(x_ND, dtype=np.float32)
        unusable = sum(int((~np.isfinite(x_ND[rows]).all(1)).sum()) for rows in store.blocks(x_ND.shape[0]))
        if unusable:
            raise LamaeError(
                f"{path}: the embeddings of {unusable} of {x_ND.shape[0]} records are not finite; remove it and embed "
                "with weights that are"
            )
        return Embeddings(
            x_ND=x_ND,
            embedded_N=np.asarray(group["embedded"]),
            subject_N=np.asarray(group["subject"]),
            split_N=np.asarray(group["split"]),
            pretrained_N=np.asarray(group["pretrained"]),
            index_hash=str(group.attrs["index_sha256"]),
            name=path.name,
            source=str(group.attrs.get("source", "")),
            made_by=_made_by(group.attrs),
            record_hash_N=group["record_hash"] if "record_hash" in group else _NO_HASHES,  # noqa: SIM401
        )
    except KeyError as error:
        raise LamaeError(f"{path}: {error} is missing; embed again") from None


def read_lead_weights(path: Path, *, rows: np.ndarray) -> np.ndarray:
    """float32 ``[len(rows), 12]``: what each lead weighs in the pooled embedding of these rows."""
    return store.open_store(path, kind=KIND)["lead_weights"][rows]


def _made_by(attributes: Any) -> str:
    if "weights_hash" in attributes:
        return f"{attributes['weights_hash']} {attributes['leads']}"
    return str(attributes.get("made_by", ""))
