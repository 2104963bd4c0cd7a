"""The loader benchmark times what it says, and the peers read the same records."""

import contextlib
from functools import partial

import numpy as np
import pytest

from lamae.benchmarks.loader import BATCH_SIZE, Candidate, time_streams
from lamae.benchmarks.loader_peers import endless, webdataset_tuned, webdataset_tutorial
from lamae.sharding.format import ShardSet
from tests.shardsets import random_adc, write_shard_set


def test_warm_up_is_not_counted_and_every_stream_is_closed():
    taken, closed = [], []

    @contextlib.contextmanager
    def stream():
        yield (taken.append(1) for _ in range(100))
        closed.append(len(taken))

    timings = time_streams({"one": Candidate(stream, warmup_batches=3, timed_batches=5)}, repeats=2)
    assert closed == [8, 16]
    assert timings["one"].items == 5 * BATCH_SIZE
    assert len(timings["one"].seconds) == 2


AS_RECORDED = partial(webdataset_tutorial, convert=False)


@pytest.mark.parametrize("pipeline", [webdataset_tutorial, AS_RECORDED, webdataset_tuned])
def test_webdataset_pipelines_give_the_records_of_the_set(tmp_path, pipeline):
    adc = random_adc(12, 50)
    shard_set = ShardSet.open(write_shard_set(tmp_path / "set", adc, shard_size=4, gain=200.0, baseline=4))
    expected = (adc - np.float32(4)) / np.float32(200) if pipeline is webdataset_tutorial else adc
    with endless(partial(pipeline, shard_set, batch_size=8, workers=0)) as batches:
        for _ in range(3):
            batch = next(batches)
            samples = np.asarray(batch[0] if isinstance(batch, (list, tuple)) else batch)
            assert samples.shape == (8, 12, 50)
            assert samples.dtype == expected.dtype
            assert all((expected == record).all(axis=(1, 2)).any() for record in samples)
