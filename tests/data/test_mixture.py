"""Several shard sets in one pretraining: exact counts, the same batches however they are cut, every record as it is."""

from contextlib import ExitStack

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lamae.base.errors import UsageError
from lamae.data.config import DataConfig, SignalConfig
from lamae.data.loader import RingLoader
from lamae.data.mixture import Mixture
from lamae.data.reader import RecordReader
from lamae.data.transforms import MixtureTransform, SignalTransform
from lamae.sharding.format import ShardSet
from tests.shardsets import random_adc, write_shard_set

# name: (records, samples, rate): 10 s, 4 s and 25 s
SETS = {"a": (23, 1000, 100.0), "b": (31, 2000, 500.0), "c": (11, 5000, 200.0)}


@pytest.fixture(scope="module")
def opened(tmp_path_factory) -> dict[str, ShardSet]:
    folder = tmp_path_factory.mktemp("mixture")
    return {
        name: ShardSet.open(
            write_shard_set(
                folder / name,
                random_adc(count, length, seed=place),
                rate_hz=rate,
                shard_size=8,
                splits=["val"] * 3 + ["train"] * (count - 3),
            )
        )
        for place, (name, (count, length, rate)) in enumerate(SETS.items())
    }


def load(mixture, num_batches, *, world_size=1, samples_consumed=0, **options):
    """Per sample of the stream: (row, epoch, set, the samples of the record)."""
    config = DataConfig(path="", prefetch=2, **options)
    rows, found = mixture.rows_of_split("train"), []
    with ExitStack() as stack:
        ranks = [
            stack.enter_context(
                RingLoader(
                    mixture,
                    rows,
                    config=config,
                    seed=3,
                    global_batch_size=12,
                    rank=rank,
                    world_size=world_size,
                    samples_consumed=samples_consumed,
                    num_batches=num_batches,
                )
            )
            for rank in range(world_size)
        ]
        for parts in zip(*ranks, strict=True):
            for part in parts:
                for place in range(len(part)):
                    number = int(part.set_of[place])
                    length = mixture.sets[number].num_samples
                    adc = part.adc[place].flatten()[: 12 * length].reshape(12, length)
                    found.append((int(part.row[place]), int(part.epoch[place]), number, adc.numpy().copy()))
    return found


@settings(deadline=None, max_examples=12)
@given(
    st.lists(st.sampled_from("abc"), min_size=2, max_size=3, unique=True),
    st.sampled_from([[], [1.0, 2.0, 0.5]]),
    st.sampled_from([1, 2, 3]),
    st.integers(1, 4),
    st.integers(0, 9),
    st.sampled_from(["global", "window"]),
)
def test_batches_are_the_same_at_any_world_size_thread_count_and_restart(
    opened, names, weights, world_size, threads, begin, order
):
    mixture = Mixture([opened[name] for name in names])
    options = {"weights": weights[: len(names)], "order": order}
    whole = load(mixture, 14, **options)
    rest = load(mixture, 14 - begin, world_size=world_size, samples_consumed=12 * begin, threads=threads, **options)
    assert [entry[:3] for entry in rest] == [entry[:3] for entry in whole[12 * begin :]]
    for row, _, number, adc in rest:
        own = row - mixture.first_rows[number]
        np.testing.assert_array_equal(adc, mixture.sets[number].read(own))


def test_every_record_is_heard_as_its_own_set_alone_would_give_it(opened):
    mixture = Mixture([opened["a"], opened["b"], opened["c"]])
    config = SignalConfig(rate_hz=100, seconds=10.0)
    transform = MixtureTransform(config, mixture)
    rows = np.array([60, 2, 30, 55, 0, 22, 23, 40])
    signal = transform(RecordReader(mixture).read(rows), seed=1, train=False)
    assert signal.x_BLT.shape == (8, 12, 1000)
    assert signal.row.tolist() == rows.tolist()
    for place, row in enumerate(rows):
        number = int(mixture.set_of(np.array([row]))[0])
        shard_set = mixture.sets[number]
        alone = SignalTransform(config, source_rate_hz=shard_set.rate_hz, num_samples=shard_set.num_samples)
        own = alone(RecordReader(shard_set).read([row - mixture.first_rows[number]]), seed=1, train=False)
        torch.testing.assert_close(signal.x_BLT[place], own.x_BLT[0], atol=1e-5, rtol=0)
        assert torch.equal(signal.valid_BLT[place], own.valid_BLT[0])
    short = signal.valid_BLT[rows.tolist().index(30)]  # of b: four seconds
    assert short[:, :400].all()
    assert not short[:, 400:].any()


def test_hints_of_a_mixture_name_what_is_read_window_by_window(opened, monkeypatch):
    mixture, hints = Mixture([opened["a"], opened["b"]]), []
    monkeypatch.setattr(RecordReader, "advise", lambda _, rows, *, until: hints.append(rows.tolist()))
    config = DataConfig(path="", order="window", window_shards=1)
    arguments = {"seed": 1, "global_batch_size": 6, "rank": 0, "world_size": 1}
    with RingLoader(mixture, mixture.rows_of_split("train"), config=config, **arguments) as loader:
        read = [row for batch, _ in zip(loader, range(25), strict=False) for row in batch.row.tolist()]
        loader._adviser.submit(int).result()  # hints are given one after the other: all are now
    hinted = [row for hint in hints for row in hint]
    assert hinted[: len(read)] == read
    assert len([hint for hint in hints if hint]) < 25, "fewer hints than batches: each sweeps through a window"


def test_a_list_of_sets_without_brackets_is_explained():
    with pytest.raises(UsageError, match=r"no such directory; several shard sets are written data.path=\[a,b\]"):
        Mixture.open(["a,b"])


def test_a_scaling_that_destroys_amplitude_is_warned_of_once(opened, caplog):
    MixtureTransform(SignalConfig(rate_hz=100, seconds=4, scaling="lead_zscore"), Mixture([opened["a"], opened["b"]]))
    assert [message.partition(",")[0] for message in caplog.messages] == [
        "signal.scaling=lead_zscore destroys amplitude"
    ]


def test_a_mixture_of_one_set_is_that_set(opened):
    mixture = Mixture.of(opened["a"])
    assert mixture.keys == opened["a"].keys
    assert mixture.index_hash == opened["a"].index_hash
    assert RecordReader(opened["a"]).read(np.arange(3)).set_of is None


def test_what_cannot_be_mixed_is_refused_by_name(opened, tmp_path):
    with pytest.raises(UsageError, match="hold the same records"):
        Mixture([opened["a"], opened["a"]])
    mixture = Mixture([opened["a"], opened["b"]])
    with pytest.raises(UsageError, match=r"several lengths \(.*a 10 s, .*b 4 s\); choose the model's with signal.sec"):
        MixtureTransform(SignalConfig(rate_hz=100), mixture)
    with pytest.raises(UsageError, match=r"signal.seconds=11 is longer than any record"):
        MixtureTransform(SignalConfig(rate_hz=100, seconds=11), mixture)
    with pytest.raises(UsageError, match=r"/b: signal.rate_hz=200 .*; take signal.rate_hz=100 or 50, or pack"):
        MixtureTransform(SignalConfig(rate_hz=200, seconds=4), Mixture([opened["c"], opened["b"]]))
    empty = ShardSet.open(write_shard_set(tmp_path / "empty", random_adc(2, 40), splits=["val", "val"]))
    with pytest.raises(UsageError, match=r"empty: no records in data.split=train"):
        load(Mixture([opened["a"], empty]), 1)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"path": []}, "data.path"),
        ({"path": {"a": 1}}, "data.path"),
        ({"path": ["a", 3]}, "data.path"),
        ({"path": ["a", "b"], "weights": [1.0]}, "data.weights must be 2 numbers"),
        ({"path": ["a", "b"], "weights": [1.0, 0.0]}, "data.weights must be positive"),
        ({"path": ["a", "b"], "weights": [1.0, -1.0]}, "data.weights must be positive"),
        ({"path": ["a", "b"], "weights": [1.0, float("nan")]}, "data.weights must be positive"),
    ],
)
def test_weights_and_paths_that_mean_nothing_are_refused(changes, named):
    with pytest.raises(ValueError, match=named):
        DataConfig(**changes).check()


def test_no_two_sets_have_one_name_whatever_their_directories_are_called(tmp_path):
    sets = {
        place: ShardSet.open(write_shard_set(tmp_path / place, random_adc(2, 50, seed=seed)))
        for seed, place in enumerate(("p/a", "b", "q/a", "a-1"))
    }
    assert Mixture([sets[place] for place in ("p/a", "b", "q/a")]).names == ["a-1", "b", "a-3"]
    assert Mixture([sets[place] for place in ("p/a", "q/a", "a-1")]).names == ["a-2", "a-3", "a-1"]
