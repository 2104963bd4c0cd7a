"""``embeddings.zarr``: what a frozen model makes of each record of a shard set, row by row.

record        float32 [N, D]    the model's own pooled embedding
mean          float32 [N, D]    plain mean over the visible leads' tokens: one read-out common to all methods
lead_weights  float32 [N, 12]   share of each lead in the pooling
lead          float16 [N, 12, D]  per-lead latents, on request
embedded      bool [N]          false for rows of other splits
subject       int32 [N]         groups records of one subject; a number within this shard set, no id
split         uint8 [N]         as in the shard set
pretrained    uint8 [N]         1 where the subject was in pretraining, 0 where not, 2 where that is not known
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr

from lamae import config as run_config
from lamae.data.transforms import Signal
from lamae.evaluate import store
from lamae.evaluate.inference import load_for_inference, read_signals
from lamae.model import PretrainModel
from lamae.train.checkpoint import LoadedModel
from lamae.train.subjects import hash_subjects
from sharding.errors import LamaeError, UsageError
from sharding.format import ShardSet
from sharding.leads import LEADS, NUM_LEADS
from sharding.progress import Progress, ignore

KIND = "embeddings"
NOT_PRETRAINED, PRETRAINED, UNKNOWN = 0, 1, 2
READOUTS = ("record", "mean")
BLOCK_ROWS = 4096


@dataclass(frozen=True)
class Embeddings:
    """An embeddings store in memory, one read-out of it; see the module's docstring for the columns."""

    x_ND: np.ndarray
    embedded_N: np.ndarray
    subject_N: np.ndarray
    split_N: np.ndarray
    pretrained_N: np.ndarray
    index_hash: str
    name: str


def embed(
    run: Path,
    shards: Path | ShardSet,
    out: Path,
    *,
    batch_size: int = 64,
    split: str = "all",
    rows: np.ndarray | None = None,
    leads: Sequence[int] | None = None,
    per_lead: bool = False,
    device: str = "cpu",
    threads: int | None = None,
    random_weights: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> None:
    """Embed ``split`` of ``shards``, or these ``rows`` of it, with the model of ``run`` and write ``out``.

    Interrupted, the same command goes on where it stopped. ``leads`` (canonical indices) shows the model only these;
    ``random_weights`` takes the same architecture untrained, drawn from ``seed``; ``threads`` is torch's number of CPU
    threads. Raises UsageError when ``out`` exists or the recordings do not fit the model.
    """
    progress = progress or ignore
    shard_set = shards if isinstance(shards, ShardSet) else ShardSet.open(shards)
    store.refuse_existing(out)
    rows = shard_set.rows_of_split(split) if rows is None else np.unique(rows)
    loaded, model, transform = load_for_inference(
        run, shard_set, device=device, random_weights=random_weights, seed=seed
    )
    attributes = {
        "index_sha256": shard_set.index_hash,
        "model": loaded.config.model.kind,
        "config_hash": run_config.config_hash(loaded.config),
        "step": 0 if random_weights else loaded.step,
        "samples_consumed": 0 if random_weights else loaded.samples_consumed,
        "random_weights_seed": seed if random_weights else None,
        "weights_hash": weights_hash(model),
        "leads": [LEADS[lead] for lead in (range(NUM_LEADS) if leads is None else leads)],
        "rows_sha256": hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest(),
        "per_lead": per_lead,
    }
    writer = _Writer(out, shard_set, attributes, None if random_weights else loaded)
    previous_threads = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        for block in range(0, shard_set.num_records, BLOCK_ROWS):
            wanted = rows[(rows >= block) & (rows < block + BLOCK_ROWS)]
            if len(wanted) and not writer.has(wanted):
                signals = read_signals(
                    shard_set, wanted, transform=transform, batch_size=batch_size, device=device, leads=leads
                )
                writer.add(wanted, _embed_all(model, signals, per_lead=per_lead))
            progress("embed", int(np.searchsorted(rows, block + BLOCK_ROWS)), len(rows))
    finally:
        torch.set_num_threads(previous_threads)
    writer.finish()


@torch.inference_mode()
def _embed_all(model: PretrainModel, signals: Iterator[Signal], *, per_lead: bool) -> dict[str, np.ndarray]:
    parts: dict[str, list[np.ndarray]] = {"record": [], "mean": [], "lead_weights": []}
    for signal in signals:
        embedding = model.embed(signal.x_BLT, signal.valid_BLT, signal.lead_mask_BL)
        parts["record"].append(embedding.record_BD.float().cpu().numpy())
        parts["mean"].append(embedding.mean_BD.float().cpu().numpy())
        parts["lead_weights"].append(embedding.lead_weights_BL.float().cpu().numpy())
        if per_lead:
            parts.setdefault("lead", []).append(embedding.lead_BLD.to(torch.float16).cpu().numpy())
    return {name: np.concatenate(values) for name, values in parts.items()}


class _Writer:
    """A store that grows block by block and is taken up again after an interruption.

    A block counts once its ``embedded`` flags are written, which happens last.
    """

    def __init__(self, out: Path, shard_set: ShardSet, attributes: dict[str, Any], loaded: LoadedModel | None) -> None:
        self._out, self._shard_set, self._attributes, self._loaded = out, shard_set, attributes, loaded
        self._group = self._take_up()
        self._embedded = np.zeros(shard_set.num_records, dtype=bool)
        if self._group is not None:
            self._embedded = np.asarray(self._group["embedded"])

    def has(self, rows: np.ndarray) -> bool:
        return bool(self._embedded[rows].all())

    def add(self, rows: np.ndarray, columns: dict[str, np.ndarray]) -> None:
        if self._group is None:
            self._group = self._begin({name: values.shape[1:] for name, values in columns.items()})
        start, stop = int(rows[0]), int(rows[-1]) + 1
        self._embedded[rows] = True
        for name, values in columns.items():
            dense = np.zeros((stop - start, *values.shape[1:]), dtype=values.dtype)
            dense[rows - start] = values
            _array(self._group, name)[start:stop] = dense
        _array(self._group, "embedded")[start:stop] = self._embedded[start:stop]

    def finish(self) -> None:
        if self._group is None:
            raise UsageError(f"{self._shard_set.root}: that split holds no records to embed")
        store.publish(self._out)

    def _take_up(self) -> zarr.Group | None:
        """What an earlier, interrupted call left, if it was asked for the same."""
        try:
            group = zarr.open_group(store.partial_path(self._out), mode="r+")
        except (OSError, ValueError):
            return None
        same = all(group.attrs.get(name) == value for name, value in self._attributes.items())
        return group if same and "embedded" in group else None

    def _begin(self, shapes: dict[str, tuple[int, ...]]) -> zarr.Group:
        N = self._shard_set.num_records
        group = store.create(self._out, kind=KIND, attributes=self._attributes)
        _, subject = np.unique(self._shard_set.column("subject"), return_inverse=True)
        fixed = {
            "subject": subject.astype(np.int32),
            "split": self._shard_set.column("split"),
            "pretrained": pretrained_flags(self._shard_set, self._loaded),
        }
        for name, values in fixed.items():
            store.add_column(group, name, shape=values.shape, dtype=str(values.dtype))[:] = values
        for name, shape in shapes.items():
            dtype = "float16" if name == "lead" else "float32"
            store.add_column(group, name, shape=(N, *shape), dtype=dtype, rows_per_chunk=BLOCK_ROWS)
        store.add_column(group, "embedded", shape=(N,), dtype="bool", rows_per_chunk=BLOCK_ROWS)
        return group


def pretrained_flags(shard_set: ShardSet, loaded: LoadedModel | None) -> np.ndarray:
    """uint8 [N]: PRETRAINED where the record's subject was in the checkpoint's pretraining; None: nobody was."""
    subjects = shard_set.column("subject")
    if loaded is None:
        return np.full(len(subjects), NOT_PRETRAINED, dtype=np.uint8)
    hashes = hash_subjects(subjects, source=str(shard_set.manifest.get("source", "")))
    seen = np.isin(hashes, loaded.subject_hashes)
    return np.where(seen, PRETRAINED, NOT_PRETRAINED).astype(np.uint8)


def _array(group: zarr.Group, name: str) -> zarr.Array:
    array = group[name]
    assert isinstance(array, zarr.Array)
    return array


def weights_hash(model: PretrainModel) -> str:
    """First 16 hex digits of the sha256 over all parameters and buffers: which weights made these embeddings."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + b"\0")
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def read_embeddings(path: Path, *, readout: str = "record") -> Embeddings:
    """Load one read-out of an embeddings store. Raises UsageError or LamaeError as ``store.open_store``."""
    group = store.open_store(path, kind=KIND)
    if readout not in group:
        raise UsageError(f"{path}: has no read-out {readout!r}; it has {', '.join(r for r in READOUTS if r in group)}")
    try:
        return Embeddings(
            x_ND=np.asarray(group[readout], dtype=np.float32),
            embedded_N=np.asarray(group["embedded"]),
            subject_N=np.asarray(group["subject"]),
            split_N=np.asarray(group["split"]),
            pretrained_N=np.asarray(group["pretrained"]),
            index_hash=str(group.attrs["index_sha256"]),
            name=path.name,
        )
    except KeyError as error:
        raise LamaeError(f"{path}: {error} is missing; embed again") from None


def read_lead_weights(path: Path, *, rows: np.ndarray) -> np.ndarray:
    """float32 ``[len(rows), 12]``: what each lead weighs in the pooled embedding of these rows."""
    return np.asarray(store.open_store(path, kind=KIND)["lead_weights"])[rows]
