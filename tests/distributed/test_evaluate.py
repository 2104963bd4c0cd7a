"""Fine-tuning and embedding on two ranks give what one gives."""

import dataclasses

import numpy as np
import pytest

from lamae.data.config import SignalConfig
from lamae.data.transforms import SignalTransform
from lamae.evaluate import store
from lamae.evaluate.embeddings.embed import read_embeddings
from lamae.evaluate.embeddings.inference import read_signals
from lamae.evaluate.finetune.finetune import RESULT_NAME
from lamae.evaluate.finetune.options import FinetuneOptions
from lamae.sharding.format import ShardSet
from tests.distributed.evaluating import run_embed, run_finetune
from tests.evaluate.conftest import waves
from tests.shardsets import write_shard_set


@pytest.fixture
def data(tmp_path):
    shards = write_shard_set(
        tmp_path / "shards",
        waves(50, 500),
        splits=["train"] * 24 + ["val"] * 11 + ["test"] * 15,
        rate_hz=100.0,
    )
    shard_set = ShardSet.open(shards)
    store.write(
        tmp_path / "labels.zarr",
        kind="labels",
        columns={
            "label": (np.arange(50)[:, None] % 2).astype(np.uint8),
            "labelled": np.ones(50, dtype=bool),
            "split": shard_set.column("split"),
        },
        attributes={
            "index_sha256": shard_set.index_hash,
            "codes": ["FAST"],
            "descriptions": {},
            "protocol": "waves",
        },
    )
    return shards, tmp_path / "labels.zarr"


@pytest.mark.parametrize(("zero_stage", "stop_at"), [(1, 0), (2, 6), (3, 6)])
def test_two_ranks_learn_and_score_as_one_stopped_or_not(two_ranks, data, tmp_path, zero_stage, stop_at):
    shards, labels = data
    options = FinetuneOptions(steps=12, global_batch_size=8, micro_batch_size=2, evaluate_every=4, lr=1e-2)
    alone, step = run_finetune(shards, labels, tmp_path / "alone", options)
    options = dataclasses.replace(options, zero_stage=zero_stage)
    arguments = {"shards": shards, "labels": labels, "out": tmp_path / "both", "options": options, "stop_at": stop_at}
    (first, first_step), (second, second_step) = two_ranks.run(
        "tests.distributed.evaluating", "run_finetune", **arguments
    )
    np.testing.assert_array_equal(first, second)
    np.testing.assert_allclose(first, alone, atol=1e-4)
    assert step == first_step == second_step
    assert (tmp_path / "both" / RESULT_NAME).is_file()


def test_two_ranks_share_the_blocks_of_one_store(two_ranks, data, tmp_path):
    shards, _ = data
    run_embed(shards, tmp_path / "alone.zarr", rows_per_block=8)
    two_ranks.run(
        "tests.distributed.evaluating", "run_embed", shards=shards, out=tmp_path / "both.zarr", rows_per_block=8
    )
    both, alone = (read_embeddings(tmp_path / name) for name in ("both.zarr", "alone.zarr"))
    assert both.embedded_N.all()
    np.testing.assert_allclose(both.x_ND, alone.x_ND, atol=1e-6)


def test_ranks_beyond_the_records_of_a_split_have_nothing_to_score(data):
    shard_set = ShardSet.open(data[0])
    transform = SignalTransform(SignalConfig(rate_hz=100), source_rate_hz=100, num_samples=shard_set.num_samples)
    rows = np.arange(5)
    shares = [
        [signal.row.tolist() for signal in read_signals(shard_set, rows[rank::7], transform=transform, batch_size=2)]
        for rank in range(7)
    ]
    assert shares == [[[0]], [[1]], [[2]], [[3]], [[4]], [], []]
