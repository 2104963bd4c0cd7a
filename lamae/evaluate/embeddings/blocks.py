"""Embedding block by block: columns of a block from its batches, written while the next block is computed."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
import zarr

from lamae.base.files import sync, writing
from lamae.data.transforms import Signal, SignalTransform
from lamae.evaluate import store
from lamae.evaluate.embeddings.inference import cut, map_signals, one_thread_each
from lamae.model import PretrainModel
from lamae.sharding.format import ShardSet


def embed_blocks(
    model: PretrainModel,
    shard_set: ShardSet,
    blocks: Sequence[np.ndarray],
    *,
    transform: SignalTransform,
    batch_size: int,
    device: str,
    leads: Sequence[int] | None,
    per_lead: bool,
    progress: Callable[[int], None],
) -> Iterator[dict[str, np.ndarray]]:
    """The columns of each block of rows, in their order; ``progress`` hears the last row of every batch."""

    @torch.inference_mode()
    def columns(signal: Signal) -> dict[str, np.ndarray]:
        embedding = model.embed(signal.x_BLT, signal.valid_BLT, signal.lead_mask_BL)
        kept = {"record": embedding.record_BD, "mean": embedding.mean_BD, "lead_weights": embedding.lead_weights_BL}
        if per_lead:
            kept["lead"] = embedding.lead_BLD.to(torch.float16)
        return {name: values.cpu().numpy() for name, values in kept.items()}

    batches = [cut(block, batch_size) for block in blocks]
    with one_thread_each(device) as workers:
        found = map_signals(
            columns,
            shard_set,
            chain.from_iterable(batches),
            transform=transform,
            device=device,
            leads=leads,
            workers=workers,
        )
        for of_block in batches:
            parts = []
            for batch, part in zip(of_block, islice(found, len(of_block)), strict=True):
                parts.append(part)
                progress(int(batch[-1]))
            yield {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


class BlockWriter:
    """Fills a store under construction, a block at a time in a thread of its own; leaving waits for the last one.

    A block counts once its ``embedded`` flags are written.
    """

    def __init__(self, out: Path) -> None:
        self._folder = store.partial_path(out)
        self._group = zarr.open_group(self._folder, mode="r+")
        self._embedded = np.asarray(self._group["embedded"])
        self._thread = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None

    def __enter__(self) -> "BlockWriter":
        return self

    def __exit__(self, *raised: object) -> None:
        self._thread.shutdown()
        self._wait()

    def has(self, rows: np.ndarray) -> bool:
        return bool(self._embedded[rows].all())

    def add(self, rows: np.ndarray, columns: dict[str, np.ndarray]) -> None:
        """Begin to write ``rows`` (ascending, of one block) once the block before is written."""
        self._wait()
        self._pending = self._thread.submit(self._write, rows, columns)

    def _wait(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def _write(self, rows: np.ndarray, columns: dict[str, np.ndarray]) -> None:
        """The columns first, the flags last. Raises LamaeError where the disk does not take them."""
        with writing(self._folder):
            self._write_columns(rows, columns)

    def _write_columns(self, rows: np.ndarray, columns: dict[str, np.ndarray]) -> None:
        start, stop = int(rows[0]), int(rows[-1]) + 1
        for name, values in columns.items():
            dense = np.zeros((stop - start, *values.shape[1:]), dtype=values.dtype)
            dense[rows - start] = values
            array = self._array(name)
            array[start:stop] = dense
            # The flags must not outlive the columns in a power cut.
            for path in (self._folder / name / "c" / str(start // array.chunks[0])).rglob("*"):
                sync(path)
        self._embedded[rows] = True
        self._array("embedded")[start:stop] = self._embedded[start:stop]

    def _array(self, name: str) -> zarr.Array:
        array = self._group[name]
        assert isinstance(array, zarr.Array)
        return array
