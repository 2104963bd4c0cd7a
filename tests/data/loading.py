"""What the ring loader gives, gathered from all ranks."""

from contextlib import ExitStack

import numpy as np
import torch

from lamae.data.config import DataConfig
from lamae.data.loader import RingLoader

NUM_RECORDS = 53
NUM_SAMPLES = 40


def load(shard_set, num_batches, *, num_records=NUM_RECORDS, world_size=1, **arguments):
    """Per global batch, in stream order: (epoch, row, samples) of all ranks one after the other."""
    config = DataConfig(
        path="",
        threads=arguments.pop("threads", 2),
        prefetch=arguments.pop("prefetch", 2),
        order=arguments.pop("order", "global"),
        window_shards=2,
        on_corrupt=arguments.pop("on_corrupt", "raise"),
    )
    arguments = {"seed": 5, "global_batch_size": 12, "samples_consumed": 0, **arguments}
    batches = []
    with ExitStack() as stack:
        ranks = [
            stack.enter_context(
                RingLoader(
                    shard_set,
                    np.arange(num_records),
                    config=config,
                    rank=rank,
                    world_size=world_size,
                    num_batches=num_batches,
                    **arguments,
                )
            )
            for rank in range(world_size)
        ]
        for step, parts in enumerate(zip(*ranks, strict=True), start=1):
            consumed = arguments["samples_consumed"] + step * arguments["global_batch_size"]
            assert {part.samples_consumed for part in parts} == {consumed}
            assert {rank.samples_consumed for rank in ranks} == {consumed}
            batches.append([torch.cat([getattr(part, name) for part in parts]) for name in ("epoch", "row", "adc")])
    assert len(batches) == num_batches
    return [torch.cat(values).numpy() for values in zip(*batches, strict=True)]
