"""Two processes that make the same at the same moment: one makes it, the other finds it, and it can be read."""

import multiprocessing
from pathlib import Path

import numpy as np
import torch

from lamae.base.errors import LamaeError
from lamae.evaluate import pretrained, store
from lamae.evaluate.embeddings.embed import embed, read_embeddings
from lamae.evaluate.export.export import export
from lamae.sharding.format import ShardSet
from tests.evaluate.conftest import make_loaded, waves
from tests.shardsets import write_shard_set

COLUMNS = {"label": np.tile(np.eye(20, dtype=np.uint8), (500, 1)), "labelled": np.ones(10_000, dtype=bool)}


def write_labels(out: Path, _: object) -> bool:
    return store.write(out, kind="labels", columns=COLUMNS, attributes={"index_sha256": "x", "codes": ["A"]})


def write_embeddings(out: Path, shard_set: ShardSet) -> bool:
    torch.set_num_threads(1)
    return embed(out, shard_set, out)


def write_export(out: Path, _: object) -> bool:
    try:
        export(out, out)
    except LamaeError as error:
        if "exists" not in str(error) and "another process has made it meanwhile" not in str(error):
            raise
        return False
    return True


TIMES = {write_labels: 30, write_embeddings: 5, write_export: 8}


def again_and_again(root, barrier, queue):
    """Runs in a process of its own; puts what each writer gave each time, or the error."""
    shard_set = ShardSet.open(root / "shards")
    loaded = make_loaded(shard_set)
    pretrained.load_model = lambda run, device="cpu": loaded
    export.__globals__["load_model"] = pretrained.load_model
    try:
        for write, times in TIMES.items():
            for number in range(times):
                barrier.wait(60)
                queue.put((f"{write.__name__}-{number}", write(root / f"{write.__name__}-{number}", shard_set)))
    except BaseException as error:  # the parent must hear of anything
        queue.put((repr(error), None))
        barrier.abort()
        raise


def test_one_makes_it_and_the_other_finds_it(tmp_path):
    write_shard_set(tmp_path / "shards", waves(20, 500), rate_hz=100.0)
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(2), context.Queue()
    processes = [
        context.Process(target=again_and_again, args=(tmp_path, barrier, queue), daemon=True) for _ in range(2)
    ]
    for process in processes:
        process.start()
    names = [f"{write.__name__}-{number}" for write, times in TIMES.items() for number in range(times)]
    found = []
    while len(found) < 2 * len(names) and (not found or found[-1][1] is not None):
        found.append(queue.get(timeout=90))
    for process in processes:
        process.join(30)
    assert sorted(found, key=str) == sorted(((name, made) for name in names for made in (False, True)), key=str)
    for name in names:
        if name.startswith("write_labels"):
            labels = store.open_store(tmp_path / name, kind="labels")
            np.testing.assert_array_equal(labels["label"], COLUMNS["label"])
        if name.startswith("write_embeddings"):
            assert read_embeddings(tmp_path / name).embedded_N.all()
    assert {path.name for path in tmp_path.iterdir()} == {"shards", *names}
