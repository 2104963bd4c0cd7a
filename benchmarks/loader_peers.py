"""Other ways to batches ``[64, 12, 5000]``, each set up as its own documentation does it, without our index.

A stream is a context manager that gives an endless iterator of batches. All but the tutorial give int16 as recorded, so
that no peer pays for a conversion that ours leaves to the device. Peers that are not installed are left out.
"""

import contextlib
import importlib.util
import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lamae.base.leads import NUM_LEADS
from lamae.sharding.format import ShardSet

Stream = AbstractContextManager[Iterator[Any]]
OpenStream = Callable[[], Stream]

BUFFER = 512
"""Records of WebDataset's shuffle buffer; ours shuffles all of them."""


@contextlib.contextmanager
def endless(make_loader: Callable[[], Iterable[Any]]) -> Iterator[Iterator[Any]]:
    """Go through a loader again and again; its worker processes end with the context."""
    loader = make_loader()
    batches = (batch for _ in itertools.count() for batch in loader)
    try:
        yield batches
    finally:
        batches.close()  # lets go of the loader's iterator, and that of its workers


def webdataset_tutorial(shard_set: ShardSet, *, batch_size: int, workers: int, convert: bool = True) -> Iterable[Any]:
    """shuffle, decode, to_tuple, map, batched, as WebDataset's introductions have it, on an endless stream of shards.

    They all prepare samples in the workers, so float32 millivolt come out; ``convert=False`` leaves that step away.
    """
    import webdataset

    dataset = webdataset.WebDataset(_tars(shard_set), resampled=True).shuffle(BUFFER).decode().to_tuple("npy", "json")
    if convert:
        dataset = dataset.map(_to_millivolt)
    return webdataset.WebLoader(dataset.batched(batch_size), batch_size=None, **_workers(workers))


def _to_millivolt(sample: tuple[np.ndarray, dict[str, Any]]) -> tuple[torch.Tensor, dict[str, Any]]:
    adc, about = sample
    signal = torch.from_numpy(adc).float()
    signal -= torch.tensor(about["baseline"])[:, None]
    signal /= torch.tensor(about["gain"])[:, None]
    return signal, about


def webdataset_tuned(shard_set: ShardSet, *, batch_size: int, workers: int) -> Iterable[Any]:
    """WebDataset with what costs it most taken out: no generic decoder, no JSON (so no gain), one stack per batch."""
    import webdataset

    num_bytes = 2 * NUM_LEADS * shard_set.num_samples

    def samples(item: dict[str, Any]) -> np.ndarray:
        return np.frombuffer(item["npy"], "<i2", offset=len(item["npy"]) - num_bytes).reshape(NUM_LEADS, -1)

    dataset = (
        webdataset.WebDataset(_tars(shard_set), resampled=True, select_files=lambda name: name.endswith(".npy"))
        .shuffle(BUFFER)
        .map(samples)
        .batched(batch_size, collation_fn=lambda records: torch.from_numpy(np.stack(records)))
    )
    return webdataset.WebLoader(dataset, batch_size=None, **_workers(workers))


class WfdbRecords(torch.utils.data.Dataset[torch.Tensor]):
    """The dataset most projects start with: one ``wfdb.rdrecord`` per item."""

    def __init__(self, source: Path) -> None:
        self._paths = sorted(str(path.with_suffix("")) for path in source.rglob("*.hea"))

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, item: int) -> torch.Tensor:
        import wfdb

        return torch.from_numpy(wfdb.rdrecord(self._paths[item], physical=False).d_signal.T.astype(np.int16))


def wfdb_dataset(source: Path, *, batch_size: int, workers: int) -> Iterable[Any]:
    dataset = WfdbRecords(source)
    return torch.utils.data.DataLoader(
        dataset, batch_size=batch_size, shuffle=True, drop_last=True, **_workers(workers)
    )


def mosaic_streaming(folder: Path, *, batch_size: int, workers: int) -> Iterable[Any]:
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    clean_stale_shared_memory()
    dataset = StreamingDataset(local=str(folder), shuffle=True, batch_size=batch_size)
    return torch.utils.data.DataLoader(dataset, batch_size=batch_size, drop_last=True, **_workers(workers))


def write_mosaic(shard_set: ShardSet, folder: Path) -> None:
    from streaming import MDSWriter

    columns = {"adc": f"ndarray:int16:{NUM_LEADS},{shard_set.num_samples}"}
    with MDSWriter(out=str(folder), columns=columns, progress_bar=False) as writer:
        for row in range(shard_set.num_records):
            writer.write({"adc": shard_set.read(row)})


def litdata_streaming(folder: Path, *, batch_size: int, workers: int) -> Iterable[Any]:
    from litdata import StreamingDataLoader, StreamingDataset

    dataset = StreamingDataset(str(folder), shuffle=True, drop_last=True)
    return StreamingDataLoader(dataset, batch_size=batch_size, num_workers=workers, drop_last=True)


def write_litdata(shard_set: ShardSet, folder: Path) -> None:
    import litdata

    litdata.optimize(
        fn=partial(_litdata_item, shard_set),
        inputs=list(range(shard_set.num_records)),
        output_dir=str(folder),
        chunk_bytes="64MB",
        num_workers=1,
        verbose=False,
    )


def _litdata_item(shard_set: ShardSet, row: int) -> np.ndarray:
    return shard_set.read(row)


def peers(source: Path, shard_set: ShardSet, scratch: Path) -> dict[str, Callable[..., Iterable[Any]]]:
    """Every peer that is installed, by name, its data written in its own format below ``scratch``."""
    found: dict[str, Callable[..., Iterable[Any]]] = {
        "webdataset_tutorial": partial(webdataset_tutorial, shard_set),
        "webdataset_tutorial_int16": partial(webdataset_tutorial, shard_set, convert=False),
        "webdataset_tuned": partial(webdataset_tuned, shard_set),
        "wfdb_dataset": partial(wfdb_dataset, source),
    }
    if importlib.util.find_spec("streaming"):
        write_mosaic(shard_set, scratch / "mosaic")
        found["mosaicml_streaming"] = partial(mosaic_streaming, scratch / "mosaic")
    if importlib.util.find_spec("litdata"):
        write_litdata(shard_set, scratch / "litdata")
        found["litdata"] = partial(litdata_streaming, scratch / "litdata")
    return found


def _workers(num: int) -> dict[str, Any]:
    """Worker processes by fork: cheap to start, and litdata sets another way for the whole process when imported."""
    return {"num_workers": num, "multiprocessing_context": "fork" if num else None}


def _tars(shard_set: ShardSet) -> list[str]:
    return [str(shard_set.shard_path(int(shard))) for shard in np.unique(shard_set.column("shard"))]
