"""The ring loader: the same batches at any world size, thread count and restart."""

import os
import threading
import time
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lamae.data.loader as loader_module
from lamae.base.errors import UsageError
from lamae.data.config import DataConfig
from lamae.data.loader import RingLoader
from lamae.data.order import GlobalOrder
from lamae.data.reader import RecordReader
from lamae.sharding.format import NO_SAMPLE, ShardSet
from tests.data.loading import NUM_RECORDS, NUM_SAMPLES, load
from tests.shardsets import write_shard_set


def test_batches_hold_the_records_of_the_order(shard_set, adc):
    epoch, row, samples = load(shard_set, 10)
    expected_epoch, expected_row = GlobalOrder(NUM_RECORDS, seed=5).take(0, 120)
    np.testing.assert_array_equal(epoch, expected_epoch)
    np.testing.assert_array_equal(row, expected_row)
    np.testing.assert_array_equal(samples, adc[row])


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_the_stream_is_the_same_however_it_is_loaded(shard_set, adc, data):
    """World size, threads, prefetch, a restart at any position and a change of global batch size change nothing."""
    num_records = data.draw(st.sampled_from([1, 2, 7, 53]) | st.integers(1, NUM_RECORDS), label="records")
    order = data.draw(st.sampled_from(["global", "window"]), label="order")
    seed = data.draw(st.integers(0, 2**31), label="seed")
    position, parts = 0, []
    for _ in range(data.draw(st.integers(1, 3), label="runs")):
        world_size = data.draw(st.integers(1, 4), label="world size")
        global_batch_size = world_size * data.draw(st.integers(1, 9), label="records per rank")
        num_batches = data.draw(st.integers(1, 4), label="batches")
        parts.append(
            load(
                shard_set,
                num_batches,
                num_records=num_records,
                order=order,
                seed=seed,
                world_size=world_size,
                global_batch_size=global_batch_size,
                samples_consumed=position,
                threads=data.draw(st.integers(1, 3), label="threads"),
                prefetch=data.draw(st.integers(1, 3), label="prefetch"),
            )
        )
        position += num_batches * global_batch_size
    epoch, row, samples = (np.concatenate(values) for values in zip(*parts, strict=True))
    shards = shard_set.column("shard")[:num_records]
    reference = GlobalOrder(num_records, seed=seed, mode=order, shards=shards, window_shards=2)
    expected_epoch, expected_row = reference.take(0, position)
    np.testing.assert_array_equal(epoch, expected_epoch)
    np.testing.assert_array_equal(row, expected_row)
    np.testing.assert_array_equal(samples, adc[row])


def test_rows_of_a_split_are_what_is_loaded(shard_set):
    rows = np.array([3, 50, 17])
    with RingLoader(
        shard_set, rows, config=DataConfig(path=""), seed=0, global_batch_size=6, rank=0, world_size=1, num_batches=2
    ) as loader:
        for batch in loader:
            assert sorted(batch.row.tolist()) == [3, 3, 17, 17, 50, 50]


def test_index_values_travel_with_the_records(tmp_path, adc):
    adc = adc[:6].copy()
    adc[1, 2, 5] = NO_SAMPLE
    adc[2, 7] = NO_SAMPLE
    gain = np.linspace(100, 900, 72).reshape(6, 12)
    shard_set = ShardSet.open(write_shard_set(tmp_path / "set", adc, gain=gain, baseline=-7))
    batch = RecordReader(shard_set).read(np.array([2, 1, 0]), epoch=4)
    np.testing.assert_array_equal(batch.adc, adc[[2, 1, 0]])
    assert batch.epoch.tolist() == [4, 4, 4]
    assert not batch.lead_mask[0, 7]
    assert batch.lead_mask.sum() == 35
    np.testing.assert_allclose(batch.gain[1], gain[1], rtol=1e-6)
    assert batch.gain[0, 7] == 1
    assert (batch.baseline == -7).all()
    # A lead that is missing as a whole is in the mask; only gaps in usable leads need looking for.
    assert batch.may_miss_samples.tolist() == [False, True, False]


def test_micro_batches_cut_the_batch_in_order(shard_set):
    batch = RecordReader(shard_set).read(np.arange(6))
    parts = list(batch.micro_batches(3))
    assert [part.row.tolist() for part in parts] == [[0, 1], [2, 3], [4, 5]]
    np.testing.assert_array_equal(torch.cat([part.adc for part in parts]), batch.adc)
    with pytest.raises(ValueError, match="6 records cannot be cut into 4"):
        next(batch.micro_batches(4))


def test_a_buffer_is_not_filled_again_before_copies_from_it_have_ended(shard_set, monkeypatch):
    """As on a GPU: memory is pinned, copies are asynchronous. The device here is torch's ``meta``."""
    events = []

    class Event:
        def record(self):
            events.append("copy begins")

        def synchronize(self):
            events.append("copy has ended")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda _: True)
    arguments = {"seed": 0, "global_batch_size": 4, "rank": 0, "world_size": 1}
    with RingLoader(shard_set, np.arange(NUM_RECORDS), config=DataConfig(path=""), **arguments) as loader:
        for part in next(loader).micro_batches(2):
            moved = part.to("meta")
            assert moved.adc.device.type == "meta"
            assert moved.may_miss_samples.device.type == "cpu"
        next(loader).to("cpu")  # no copy
        next(loader)
    assert events == ["copy begins", "copy begins", "copy has ended", "copy has ended"]


def test_reads_that_come_in_pieces_are_put_together(shard_set, adc, monkeypatch):
    """Network file systems may return less than was asked for."""
    preadv = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: preadv(fd, (buffers[0][:333],), offset))
    _, row, samples = load(shard_set, 2)
    np.testing.assert_array_equal(samples, adc[row])


def test_slow_storage_is_timed_and_named_in_the_log(shard_set, monkeypatch, caplog):
    read = RecordReader.read_into
    monkeypatch.setattr(RecordReader, "read_into", lambda *args, **options: (time.sleep(0.3), read(*args, **options)))
    monkeypatch.setattr(loader_module, "PATIENCE_S", 0.1)
    arguments = {"seed": 0, "global_batch_size": 4, "rank": 0, "world_size": 1, "num_batches": 2}
    with RingLoader(shard_set, np.arange(NUM_RECORDS), config=DataConfig(path="", threads=1), **arguments) as loader:
        assert loader.wait_s == 0
        next(loader)
        assert loader.wait_s > 0.25  # reading began when the loader was made, a little before
    assert f"waiting for records of {shard_set.root}" in caplog.text


def test_reading_begins_before_the_first_batch_is_asked_for(shard_set, monkeypatch):
    began = threading.Event()
    read = RecordReader.read_into
    monkeypatch.setattr(RecordReader, "read_into", lambda *args, **options: (began.set(), read(*args, **options)))
    arguments = {"seed": 0, "global_batch_size": 4, "rank": 0, "world_size": 1}
    with RingLoader(shard_set, np.arange(NUM_RECORDS), config=DataConfig(path=""), **arguments):
        assert began.wait(timeout=30)


@pytest.mark.parametrize("order", ["global", "window"])
def test_the_training_thread_does_not_draw_epochs(shard_set, monkeypatch, order):
    """800,000 records take ten milliseconds and more."""
    threads = []
    draw = GlobalOrder._draw
    monkeypatch.setattr(
        GlobalOrder, "_draw", lambda *args: (threads.append(threading.current_thread().name), draw(*args))[1]
    )
    load(shard_set, 20, order=order)
    assert len(threads) >= 4
    assert all(name.startswith("lamae-") for name in threads)


def test_more_shards_than_files_may_be_open(own_set, adc, monkeypatch):
    def num_open() -> int:
        count = 0
        for fd in os.listdir("/proc/self/fd"):
            with suppress(FileNotFoundError):  # closed meanwhile
                count += os.readlink(f"/proc/self/fd/{fd}").startswith(str(own_set.root))
        return count

    monkeypatch.setattr("lamae.data.reader.MAX_OPEN_SHARDS", 2)
    arguments = {"seed": 0, "global_batch_size": 12, "rank": 0, "world_size": 1, "num_batches": 12}
    with RingLoader(own_set, np.arange(NUM_RECORDS), config=DataConfig(path=""), **arguments) as loader:
        for batch in loader:
            np.testing.assert_array_equal(batch.adc, adc[batch.row])
            assert num_open() <= 2 + 3  # those kept, and those that the threads hold
    assert num_open() == 0


def test_closing_midway_leaves_no_threads(shard_set):
    before = threading.active_count()
    loader = RingLoader(
        shard_set, np.arange(NUM_RECORDS), config=DataConfig(path=""), seed=0, global_batch_size=4, rank=0, world_size=1
    )
    next(loader)
    assert threading.active_count() > before
    loader.close()
    loader.close()
    assert threading.active_count() == before
    with pytest.raises(ValueError, match="closed"):
        next(loader)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("order", ["global", "window"])
def test_hints_name_what_this_rank_reads(shard_set, monkeypatch, order, rank):
    hints = []
    monkeypatch.setattr(RecordReader, "advise", lambda _, rows, *, until: hints.append(rows.tolist()))
    monkeypatch.setattr(loader_module, "COLD_READ_S", -1.0)
    config = DataConfig(path="", order=order, window_shards=3)
    arguments = {"seed": 1, "global_batch_size": 6, "rank": rank, "world_size": 2}
    with RingLoader(shard_set, np.arange(NUM_RECORDS), config=config, **arguments) as loader:
        read = [row for batch, _ in zip(loader, range(25), strict=False) for row in batch.row.tolist()]
        loader._adviser.submit(int).result()  # hints are given one after the other: all are now
    hints = [hint for hint in hints if hint]
    hinted = [row for hint in hints for row in hint]
    assert hinted[: len(read)] == read
    # Seven shards make windows of 3, 3 and 1: a hint per window and epoch, or one per batch.
    assert (len(hints) < 12) == (order == "window")


def test_what_the_page_cache_holds_needs_no_hints(shard_set, monkeypatch):
    hints = []
    monkeypatch.setattr(RecordReader, "advise", lambda _, rows, *, until: hints.append(rows))
    monkeypatch.setattr(loader_module, "COLD_READ_S", 60.0)
    load(shard_set, 8)
    assert not hints


def test_hints_sweep_through_the_files(shard_set, monkeypatch):
    asked = []
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, offset, length, advice: asked.append((fd, offset, length)))
    rows = np.random.default_rng(0).permutation(NUM_RECORDS)
    RecordReader(shard_set).advise(rows, until=lambda: len(asked) == 40)
    assert [offset for _, offset, _ in asked] == shard_set.column("payload_offset")[:40].tolist()
    assert {length for _, _, length in asked} == {24 * NUM_SAMPLES}


def test_batches_that_do_not_divide_are_refused(shard_set):
    with pytest.raises(UsageError, match=r"train\.global_batch_size=10 must be a multiple of the world size 4"):
        load(shard_set, 1, world_size=4, global_batch_size=10)


@pytest.mark.parametrize(
    "argument",
    [
        {"global_batch_size": 0},
        {"seed": -1},
        {"seed": 1 << 64},
        {"samples_consumed": -5},
        {"world_size": 0},
        {"rank": 1},
    ],
)
def test_arguments_of_which_no_batch_can_be_made_are_named(shard_set, argument):
    usual = {"seed": 0, "global_batch_size": 8, "rank": 0, "world_size": 1}
    with pytest.raises(UsageError, match=f"{next(iter(argument))}[= ]{next(iter(argument.values()))} "):
        RingLoader(shard_set, np.arange(8), config=DataConfig(), **usual | argument)


def test_an_empty_split_is_refused(shard_set):
    with pytest.raises(UsageError, match=r"data\.split=train"):
        load(shard_set, 1, num_records=0)


def test_batches_beyond_this_machines_memory_are_refused_before_anything_is_read(shard_set, monkeypatch):
    monkeypatch.setattr("os.sysconf", lambda name: {"SC_PHYS_PAGES": 10, "SC_PAGE_SIZE": 4096}[name])
    with pytest.raises(
        UsageError, match=r"train\.global_batch_size=12: 3 batches of 12 records for each .* GB, more than half"
    ):
        load(shard_set, 1)
