"""The loader's contract and packing's at the scale of MIMIC-IV-ECG, on 1,024 ranks and tasks, without the machines.

The index has 800,035 rows on disk as a real one has; all of them point at one record of a few bytes, and a row is told
by its gain. All ranks' slices come from the order; some ranks, spread over the job, are real loaders that read.
"""

import numpy as np
import pytest
import zarr

from lamae.base.leads import NUM_LEADS
from lamae.cli.data import every_nth
from lamae.cluster import profile
from lamae.cluster.submit import submit
from lamae.data.config import DataConfig
from lamae.data.loader import RingLoader
from lamae.data.order import GlobalOrder
from lamae.sharding.checked import file_sums, sums_digest
from lamae.sharding.format import COLUMNS, INDEX_NAME, MANIFEST_NAME, ShardSet, manifest_text
from lamae.sharding.options import PackOptions
from tests.shardsets import random_adc, write_shard_set

NUM_RECORDS = 800_035
WORLD_SIZE = 1024
GLOBAL_BATCH_SIZE = 4096
REAL_RANKS = (0, 1, 511, 512, 1022, 1023)


@pytest.fixture(scope="module")
def shard_set(tmp_path_factory):
    """One record of two samples, listed 800,035 times; gain = 1 + row (exact in float32 below 2 ** 24)."""
    path = write_shard_set(tmp_path_factory.mktemp("large") / "set", random_adc(1, 2))
    one = ShardSet.open(path)
    columns = {name: np.repeat(one.column(name), NUM_RECORDS, axis=0) for name in COLUMNS}
    rows = np.arange(NUM_RECORDS)
    columns["gain"] = np.repeat(1 + rows[:, None], NUM_LEADS, axis=1).astype(np.float32)
    columns["subject"] = rows // 5
    columns["key"] = np.char.add("s", np.char.zfill(rows.astype(str), 8)).astype("S9").view(np.uint8).reshape(-1, 9)
    group = zarr.open_group(path / INDEX_NAME, mode="w", zarr_format=3)
    for name, values in columns.items():
        group.create_array(name, data=values.astype(COLUMNS[name].dtype), chunks=(1 << 18, *values.shape[1:]))
    sums = file_sums(path / INDEX_NAME)
    manifest = one.manifest | {"num_records": NUM_RECORDS, "index_files": sums, "index_sha256": sums_digest(sums)}
    (path / MANIFEST_NAME).write_text(manifest_text(manifest))
    return ShardSet.open(path)


def slices_of_all_ranks(order: GlobalOrder, position: int) -> np.ndarray:
    """int64 ``[ranks, B]``: what each rank takes of the global batch at ``position``, each asked on its own."""
    size = GLOBAL_BATCH_SIZE // WORLD_SIZE
    starts = position + size * np.arange(WORLD_SIZE)
    return np.stack([order.take(start, start + size)[1] for start in starts.tolist()])


def test_slices_of_all_ranks_are_the_global_batch():
    order = GlobalOrder(NUM_RECORDS, seed=0)
    for position in (0, NUM_RECORDS - 5, 12 * NUM_RECORDS + 4097):
        slices = slices_of_all_ranks(order, position)
        assert slices.shape == (WORLD_SIZE, GLOBAL_BATCH_SIZE // WORLD_SIZE)
        assert slices.ravel().tolist() == order.take(position, position + GLOBAL_BATCH_SIZE)[1].tolist()


def test_an_epoch_of_global_batches_covers_every_record_once():
    order = GlobalOrder(NUM_RECORDS, seed=0)
    num_batches = -(-NUM_RECORDS // GLOBAL_BATCH_SIZE)
    seen = np.zeros(NUM_RECORDS, dtype=np.int64)
    for batch in range(num_batches):
        start = batch * GLOBAL_BATCH_SIZE
        np.add.at(seen, order.take(start, start + GLOBAL_BATCH_SIZE)[1], 1)
    # The last batch reaches into the next epoch: those few come a second time, nothing is left out.
    assert seen.min() == 1
    assert (seen == 2).sum() == num_batches * GLOBAL_BATCH_SIZE - NUM_RECORDS
    assert seen.max() == 2


def test_the_index_of_the_whole_archive_reads_back_in_little_memory(shard_set):
    columns = [shard_set.column(name) for name in COLUMNS]
    assert {len(values) for values in columns} == {NUM_RECORDS}
    assert sum(values.nbytes for values in columns) < 256e6
    assert shard_set.keys[-1] == f"s{NUM_RECORDS - 1:08d}"
    assert len(shard_set.rows_of_split("train")) == NUM_RECORDS


@pytest.mark.parametrize("order", ["global", "window"])
def test_real_loaders_among_1024_ranks_read_their_slices_across_the_end_of_an_epoch(shard_set, order):
    position = 7 * NUM_RECORDS - GLOBAL_BATCH_SIZE // 2
    rows = np.arange(NUM_RECORDS)
    expected = GlobalOrder(NUM_RECORDS, seed=3, mode=order, shards=shard_set.column("shard"))
    for rank in REAL_RANKS:
        with RingLoader(
            shard_set,
            rows,
            config=DataConfig(path="", order=order, threads=1, prefetch=1),
            seed=3,
            global_batch_size=GLOBAL_BATCH_SIZE,
            rank=rank,
            world_size=WORLD_SIZE,
            samples_consumed=position,
            num_batches=1,
        ) as loader:
            batch = next(loader)
            start = position + rank * 4
            epoch, index = expected.take(start, start + 4)
            assert batch.row.tolist() == index.tolist()
            assert batch.epoch.tolist() == epoch.tolist() == [6 if rank < 512 else 7] * 4
            assert (batch.gain[:, 0] - 1).tolist() == index.tolist()
            assert loader.samples_consumed == position + GLOBAL_BATCH_SIZE


@pytest.mark.parametrize("num_tasks", [1, 16, 782, 1024])
def test_an_array_of_any_length_packs_every_part_once(num_tasks):
    """What each task of the submitted array would pack of the whole archive, in shards of the default size."""
    num_parts = -(-NUM_RECORDS // PackOptions().shard_size)
    chosen = profile.load("configs/cluster/cpu-partition.yaml", [f"array_tasks={num_tasks}"])
    array, _ = submit("shard", ["mimic", "shards"], profile=chosen, dry_run=True)
    assert f"#SBATCH --array=0-{num_tasks - 1}%{num_tasks}" in array.script.splitlines()
    shares = [list(every_nth(f"{task}/{num_tasks}", count=num_parts)) for task in range(num_tasks)]
    assert sorted(part for share in shares for part in share) == list(range(num_parts))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
