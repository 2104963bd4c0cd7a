"""What is wrong with a shard set while it is loaded: named, or skipped the same way everywhere."""

import os

import numpy as np
import pytest
import torch

import lamae.data.loader as loader_module
from lamae.base.errors import LamaeError
from lamae.data.config import DataConfig
from lamae.data.loader import RingLoader
from lamae.data.order import GlobalOrder
from tests.data.loading import NUM_RECORDS, load
from tests.shardsets import corrupt


def take(loader, num_batches):
    return [batch.samples_consumed for batch, _ in zip(loader, range(num_batches), strict=False)]


def test_a_corrupt_record_stops_the_training_thread_and_is_named(own_set):
    corrupt(own_set, 20)
    path = own_set.shard_path(2)
    offset = int(own_set.column("payload_offset")[20])
    with pytest.raises(LamaeError, match="corrupt") as caught:
        load(own_set, 5)
    assert str(path) in str(caught.value)
    assert "r0000020" in str(caught.value)
    assert f"offset {offset}" in str(caught.value)


def test_an_error_is_final(own_set):
    """The batch after an unreadable one must not pass for it."""
    corrupt(own_set, 20)
    arguments = {"seed": 0, "global_batch_size": NUM_RECORDS, "rank": 0, "world_size": 1}
    with RingLoader(own_set, np.arange(NUM_RECORDS), config=DataConfig(path=""), **arguments) as loader:
        with pytest.raises(LamaeError, match="corrupt"):
            next(loader)
        with pytest.raises(ValueError, match="closed"):
            next(loader)


def test_without_the_crc_check_a_flipped_bit_goes_unseen(own_set, adc):
    """What ``data.check_crc`` buys."""
    corrupt(own_set, 20)
    config = DataConfig(path="", check_crc=False)
    arguments = {"seed": 0, "global_batch_size": NUM_RECORDS, "rank": 0, "world_size": 1, "num_batches": 1}
    with RingLoader(own_set, np.arange(NUM_RECORDS), config=config, **arguments) as loader:
        batch = next(loader)
        wrong = (batch.adc != torch.from_numpy(adc)[batch.row]).any(-1).any(-1)
        assert batch.row[wrong].tolist() == [20]


@pytest.mark.parametrize("on_corrupt", ["raise", "skip"])
def test_a_truncated_shard_is_named(own_set, on_corrupt):
    path = own_set.shard_path(6)
    path.write_bytes(path.read_bytes()[: int(own_set.column("payload_offset")[50]) + 100])
    with pytest.raises(LamaeError, match=r"000006\.tar.*bytes long"):
        load(own_set, 5, on_corrupt=on_corrupt)


def test_a_missing_shard_is_named(own_set):
    own_set.shard_path(3).unlink()
    with pytest.raises(LamaeError, match=r"000003\.tar.*verify"):
        load(own_set, 5)


@pytest.mark.parametrize("deed", ["replace", "touch", "grow", "remove"])
def test_a_shard_that_changes_under_a_running_job_is_noticed(own_set, monkeypatch, deed):
    monkeypatch.setattr(loader_module, "CHECK_FILES_EVERY_S", 0.0)
    config = DataConfig(path="", on_corrupt="skip", check_crc=False)
    arguments = {"seed": 0, "global_batch_size": NUM_RECORDS, "rank": 0, "world_size": 1}
    with RingLoader(own_set, np.arange(NUM_RECORDS), config=config, **arguments) as loader:
        take(loader, 5)
        path = own_set.shard_path(4)
        if deed == "replace":
            path.with_suffix(".new").write_bytes(path.read_bytes())
            path.with_suffix(".new").replace(path)
        elif deed == "touch":
            os.utime(path, (1, 1))
        elif deed == "grow":
            path.open("ab").write(bytes(512))
        else:
            path.unlink()
        with pytest.raises(LamaeError, match=r"000004\.tar.*changed"):
            take(loader, 10)


def test_a_replaced_shard_is_not_skipped_over(own_set, adc):
    """Its records would all fail their checksums; ``skip`` is for single records."""
    config = DataConfig(path="", on_corrupt="skip")
    arguments = {"seed": 0, "global_batch_size": NUM_RECORDS, "rank": 0, "world_size": 1}
    with RingLoader(own_set, np.arange(NUM_RECORDS), config=config, **arguments) as loader:
        next(loader)
        path = own_set.shard_path(4)
        path.write_bytes(bytes(path.stat().st_size))
        with pytest.raises(LamaeError, match=r"000004\.tar.*changed"):
            take(loader, 10)


def test_skipping_replaces_a_corrupt_record_the_same_way_everywhere(own_set, adc):
    corrupt(own_set, 20, 33)
    epoch, row, samples = load(own_set, 9, on_corrupt="skip")
    assert not {20, 33} & set(row.tolist())
    np.testing.assert_array_equal(samples, adc[row])
    clean_epoch, clean_row = GlobalOrder(NUM_RECORDS, seed=5).take(0, 9 * 12)
    np.testing.assert_array_equal(epoch, clean_epoch)
    assert set(clean_row[row != clean_row].tolist()) == {20, 33}
    np.testing.assert_array_equal(load(own_set, 9, on_corrupt="skip", world_size=4, threads=3)[1], row)
    np.testing.assert_array_equal(load(own_set, 7, on_corrupt="skip", samples_consumed=24)[1], row[24:])


def test_replacements_are_counted(own_set):
    corrupt(own_set, 20, 33)
    config = DataConfig(path="", on_corrupt="skip")
    arguments = {"seed": 0, "global_batch_size": NUM_RECORDS, "rank": 0, "world_size": 1, "num_batches": 3}
    with RingLoader(own_set, np.arange(NUM_RECORDS), config=config, **arguments) as loader:
        assert [batch.num_replaced for batch in loader] == [2, 2, 2]
        assert loader.num_replaced == 6


def test_skipping_gives_up_when_everything_is_corrupt(own_set):
    corrupt(own_set, *range(8))
    with pytest.raises(LamaeError, match="tried in its place"):
        load(own_set, 1, num_records=8, on_corrupt="skip")
