"""Two real processes under gloo draw the global batches that one process draws."""

import os

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from lamae.data.config import DataConfig
from lamae.data.loader import RingLoader
from lamae.sharding.format import ShardSet
from tests.shardsets import random_adc, write_shard_set

NUM_RECORDS = 23
WORLD_SIZE = 2
RUNS = [  # (global batch size, batches): one after the other on the same stream, across several epochs
    (6, 5),
    (10, 4),
    (2, 3),
]


def stream(shard_set: ShardSet, *, rank: int, world_size: int, order: str) -> list[torch.Tensor]:
    """Per batch of this rank: int64 ``[B, 3]`` of epoch, row and a checksum of the samples."""
    batches, consumed = [], 0
    for global_batch_size, num_batches in RUNS:
        with RingLoader(
            shard_set,
            np.arange(NUM_RECORDS),
            config=DataConfig(path="", order=order, window_shards=2),
            seed=9,
            global_batch_size=global_batch_size,
            rank=rank,
            world_size=world_size,
            samples_consumed=consumed,
            num_batches=num_batches,
        ) as loader:
            for batch in loader:
                weight = torch.arange(1, batch.adc[0].numel() + 1)
                checksum = (batch.adc.flatten(1).long() * weight).sum(1)
                batches.append(torch.stack([batch.epoch, batch.row, checksum], dim=1))
            consumed = loader.samples_consumed
    return batches


def run_rank(rank: int, folder: str) -> None:
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORLD_SIZE)
    try:
        shard_set = ShardSet.open(f"{folder}/set")
        for order in ("global", "window"):
            gathered = []
            for mine in stream(shard_set, rank=rank, world_size=WORLD_SIZE, order=order):
                parts = [torch.empty_like(mine) for _ in range(WORLD_SIZE)]
                dist.all_gather(parts, mine)
                gathered.append(torch.cat(parts))
            if rank == 0:
                torch.save(gathered, f"{folder}/{order}.pt")
    finally:
        dist.destroy_process_group()


def test_two_processes_draw_the_batches_of_one(tmp_path):
    shard_set = ShardSet.open(write_shard_set(tmp_path / "set", random_adc(NUM_RECORDS, 60), shard_size=4))
    mp.spawn(run_rank, args=(str(tmp_path),), nprocs=WORLD_SIZE)
    for order in ("global", "window"):
        together = torch.load(tmp_path / f"{order}.pt")
        alone = stream(shard_set, rank=0, world_size=1, order=order)
        assert len(together) == len(alone) == sum(num_batches for _, num_batches in RUNS)
        for ours, theirs in zip(together, alone, strict=True):
            assert torch.equal(ours, theirs)
        # 76 samples of 23 records: three whole epochs and a piece, in which nothing comes twice.
        epoch, row, _ = torch.cat(together).unbind(1)
        for one in range(3):
            assert sorted(row[epoch == one].tolist()) == list(range(NUM_RECORDS))
        assert len(set(row[epoch == 3].tolist())) == 76 - 3 * NUM_RECORDS
