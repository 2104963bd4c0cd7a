"""Embeddings belong to rows, survive interruption, and say who was in pretraining."""

import dataclasses

import numpy as np
import pytest
import torch

from lamae.base import lock as locks
from lamae.base.errors import LamaeError, UsageError
from lamae.data.reader import RecordReader
from lamae.evaluate import pretrained, store
from lamae.evaluate.embeddings import blocks, inference
from lamae.evaluate.embeddings import embed as embed_module
from lamae.evaluate.embeddings.embed import (
    NOT_PRETRAINED,
    PRETRAINED,
    UNKNOWN,
    embed,
    pretrained_flags,
    read_embeddings,
    write_records,
)
from lamae.sharding.format import ShardSet
from tests.evaluate.conftest import make_loaded, waves
from tests.shardsets import write_shard_set


@pytest.fixture
def few_rows_per_block(monkeypatch):
    monkeypatch.setattr(embed_module, "MIN_BLOCK_ROWS", 16)


def direct(loaded, shard_set, row, *, leads=None):
    """One record's embedding by the shortest way."""
    transform = inference.transform_for(loaded, shard_set)
    signal = transform(RecordReader(shard_set).read(np.array([row])), seed=0, train=False)
    if leads is not None:
        signal = inference.withhold_leads(signal, keep=leads)
    return loaded.model.embed(signal.x_BLT, signal.valid_BLT, signal.lead_mask_BL)


def test_row_i_is_record_i(loaded, shard_set, tmp_path, few_rows_per_block):
    embed(tmp_path, shard_set, tmp_path / "e.zarr", batch_size=7, per_lead=True)
    found = read_embeddings(tmp_path / "e.zarr")
    means = read_embeddings(tmp_path / "e.zarr", readout="mean")
    group = store.open_store(tmp_path / "e.zarr", kind="embeddings")
    for row in (0, 3, 15, 16, 59):
        expected = direct(loaded, shard_set, row)
        np.testing.assert_allclose(found.x_ND[row], expected.record_BD[0], atol=1e-5)
        np.testing.assert_allclose(means.x_ND[row], expected.mean_BD[0], atol=1e-5)
        np.testing.assert_allclose(group["lead_weights"][row], expected.lead_weights_BL[0], atol=1e-5)
        np.testing.assert_allclose(group["lead"][row], expected.lead_BLD[0], atol=1e-2)
    assert group["lead_weights"][3, 8] == 0, "a missing lead weighs nothing"
    assert found.embedded_N.all()
    assert found.index_hash == shard_set.index_hash


def test_subjects_are_grouped_without_their_ids(loaded, shard_set, tmp_path):
    embed(tmp_path, shard_set, tmp_path / "e.zarr")
    found = read_embeddings(tmp_path / "e.zarr")
    np.testing.assert_array_equal(found.subject_N, np.arange(60) // 2)
    np.testing.assert_array_equal(found.pretrained_N, [1] * 30 + [0] * 30)
    assert b"1000" not in (tmp_path / "e.zarr" / "zarr.json").read_bytes()


def test_of_subjects_without_an_id_another_pack_of_the_same_records_knows_nothing(shard_set, tmp_path):
    subjects = np.where(np.arange(60) < 20, -1 - np.arange(60), 1000 + np.arange(60))
    splits = ["train"] * 30 + ["test"] * 30

    def pack(name, shard_size):
        path = write_shard_set(
            tmp_path / name, waves(60, 500), subjects=subjects, splits=splits, rate_hz=100.0, shard_size=shard_size
        )
        return ShardSet.open(path)

    one, other = pack("one", 16), pack("other", 20)
    loaded = make_loaded(one)
    np.testing.assert_array_equal(pretrained_flags(one, loaded), [PRETRAINED] * 30 + [NOT_PRETRAINED] * 30)
    np.testing.assert_array_equal(
        pretrained_flags(other, loaded), [UNKNOWN] * 20 + [PRETRAINED] * 10 + [NOT_PRETRAINED] * 30
    )


def test_patients_of_two_collections_that_count_from_one_are_not_confused(shard_set, tmp_path):
    def pack(name, source):
        adc = waves(60, 500, seed=len(name))
        path = write_shard_set(tmp_path / name, adc, subjects=range(1, 61), rate_hz=100.0, source=source)
        return ShardSet.open(path)

    for source, flag in (("wfdb", UNKNOWN), ("ptbxl", PRETRAINED)):
        loaded = make_loaded(pack(f"one-{source}", source))
        assert (pretrained_flags(pack(f"other-{source}", source), loaded)[:40] == flag).all()


@pytest.mark.parametrize("source", ["mimic", None])
def test_subjects_of_another_source_are_not_said_to_be_new(shard_set, tmp_path, source):
    same = write_shard_set(tmp_path / "same", waves(60, 500, seed=1), subjects=range(5000, 5060), rate_hz=100.0)
    loaded = make_loaded(shard_set)
    loaded.sets[0]["source"] = source
    assert (pretrained_flags(ShardSet.open(same), loaded) == UNKNOWN).all()
    assert NOT_PRETRAINED in pretrained_flags(shard_set, loaded), "of its own shard set a checkpoint knows everybody"


def test_a_split_leaves_other_rows_unembedded(loaded, shard_set, tmp_path, few_rows_per_block):
    embed(tmp_path, shard_set, tmp_path / "e.zarr", split="test")
    found = read_embeddings(tmp_path / "e.zarr")
    np.testing.assert_array_equal(np.flatnonzero(found.embedded_N), np.arange(40, 60))
    np.testing.assert_allclose(found.x_ND[45], direct(loaded, shard_set, 45).record_BD[0], atol=1e-5)
    assert not found.x_ND[:40].any()


def test_withheld_leads_do_not_matter(loaded, shard_set, tmp_path):
    embed(tmp_path, shard_set, tmp_path / "e.zarr", leads=[0, 1, 7])
    found = read_embeddings(tmp_path / "e.zarr")
    np.testing.assert_allclose(found.x_ND[5], direct(loaded, shard_set, 5, leads=[0, 1, 7]).record_BD[0], atol=1e-5)
    assert not np.allclose(found.x_ND[5], direct(loaded, shard_set, 5).record_BD[0], atol=1e-3)
    weights = store.open_store(tmp_path / "e.zarr", kind="embeddings")["lead_weights"][:]
    assert not np.delete(weights, [0, 1, 7], axis=1).any()


def test_records_without_any_of_the_leads_are_not_embedded(loaded, shard_set, tmp_path):
    embed(tmp_path, shard_set, tmp_path / "e.zarr", leads=[8])
    assert np.flatnonzero(~read_embeddings(tmp_path / "e.zarr").embedded_N).tolist() == [3]
    embed(tmp_path, shard_set, tmp_path / "two.zarr", leads=[7, 8])
    assert read_embeddings(tmp_path / "two.zarr").embedded_N.all()
    with pytest.raises(UsageError, match="none of the 1 records to embed has any of V3"):
        embed(tmp_path, shard_set, tmp_path / "none.zarr", leads=[8], rows=np.array([3]))


def test_embeddings_that_are_not_finite_are_refused_by_who_would_write_and_who_would_read_them(
    loaded, shard_set, tmp_path, monkeypatch
):
    embed(tmp_path, shard_set, tmp_path / "e.zarr")
    whole = read_embeddings(tmp_path / "e.zarr")
    spoilt = whole.x_ND.copy()
    spoilt[[4, 7], 1] = np.nan, np.inf
    flags = {"embedded_N": whole.embedded_N, "pretrained_N": whole.pretrained_N}
    write_records(tmp_path / "nan.zarr", shard_set, spoilt, **flags, attributes={})
    for large in (store.LARGE_BYTES, 0):
        monkeypatch.setattr(store, "LARGE_BYTES", large)
        with pytest.raises(LamaeError, match=r"nan\.zarr: the embeddings of 2 of 60 records are not finite"):
            read_embeddings(tmp_path / "nan.zarr", may_stay=True)
    with torch.no_grad():
        next(loaded.model.parameters()).fill_(np.nan)
    with pytest.raises(LamaeError, match=r"run: the embeddings of 60 of 60 records are not finite; most likely its"):
        embed(tmp_path / "run", shard_set, tmp_path / "n.zarr")
    assert not (tmp_path / "n.zarr").exists()


def test_random_weights_are_seeded_and_saw_nobody(loaded, shard_set, tmp_path):
    for name, seed in [("a", 0), ("b", 0), ("c", 1)]:
        embed(tmp_path, shard_set, tmp_path / name, random_weights=True, seed=seed)
    a, b, c = (read_embeddings(tmp_path / name) for name in "abc")
    np.testing.assert_array_equal(a.x_ND, b.x_ND)
    assert not np.allclose(a.x_ND, c.x_ND)
    assert not a.pretrained_N.any()
    assert not np.allclose(a.x_ND[5], direct(loaded, shard_set, 5).record_BD[0], atol=1e-3)


def test_interrupted_it_goes_on_and_nothing_unfinished_looks_finished(
    loaded, shard_set, tmp_path, few_rows_per_block, monkeypatch
):
    out = tmp_path / "e.zarr"

    def interrupt(stage, done, total):
        if done > 32:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed(tmp_path, shard_set, out, progress=interrupt)
    assert not out.exists()
    read = []
    original = RecordReader.read
    monkeypatch.setattr(RecordReader, "read", lambda self, rows: (read.extend(rows), original(self, rows))[1])
    embed(tmp_path, shard_set, out)
    assert read == [*range(32, 60)], "the finished blocks are not read again"
    whole = tmp_path / "whole.zarr"
    embed(tmp_path, shard_set, whole)
    np.testing.assert_array_equal(read_embeddings(out).x_ND, read_embeddings(whole).x_ND)


def test_a_finished_store_is_left_as_it_is_and_another_one_refused(loaded, shard_set, tmp_path):
    out = tmp_path / "e.zarr"
    assert embed(tmp_path, shard_set, out, leads=[0, 1])
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert not embed(tmp_path, shard_set, out, leads=[0, 1])
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == times
    with pytest.raises(UsageError, match=r"exists and is another one \(leads: "):
        embed(tmp_path, shard_set, out)
    other = ShardSet.open(write_shard_set(tmp_path / "other", waves(60, 500, seed=3), rate_hz=100.0))
    with pytest.raises(UsageError, match="index_sha256 differs"):
        embed(tmp_path, other, out, leads=[0, 1])
    with pytest.raises(UsageError, match="is a shard set, not embeddings; make embeddings from it with 'lamae embed'"):
        read_embeddings(other.root)


def test_a_finished_store_of_other_blocks_is_the_same_embeddings(loaded, shard_set, tmp_path, monkeypatch):
    monkeypatch.setattr(embed_module, "MIN_BLOCK_ROWS", 16)
    assert embed(tmp_path, shard_set, tmp_path / "e.zarr")
    monkeypatch.setattr(embed_module, "MIN_BLOCK_ROWS", 32)
    assert not embed(tmp_path, shard_set, tmp_path / "e.zarr")


def test_a_full_disk_is_one_line(loaded, shard_set, tmp_path, monkeypatch):
    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(blocks, "sync", full)
    with pytest.raises(LamaeError, match="cannot be written \\(No space left on device\\)"):
        embed(tmp_path, shard_set, tmp_path / "e.zarr")


def test_a_second_process_is_kept_out_and_told_who_is_there(loaded, shard_set, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE_S", 0.2)
    with store.lock(tmp_path / "e.zarr") as lock:
        store.take_lock(lock, tmp_path / "e.zarr")
        with pytest.raises(LamaeError, match=r"e\.zarr: process \d+ on .* is writing there; wait for it, or end it"):
            embed(tmp_path, shard_set, tmp_path / "e.zarr")
    assert embed(tmp_path, shard_set, tmp_path / "e.zarr")
    assert [path.name for path in tmp_path.iterdir()] == ["e.zarr"], "no lock stays behind"


def test_what_another_model_left_unfinished_is_not_taken_up(loaded, shard_set, tmp_path, few_rows_per_block):
    def interrupt(stage, done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed(tmp_path, shard_set, tmp_path / "e.zarr", progress=interrupt)
    with torch.no_grad():
        next(loaded.model.parameters()).add_(0.5)
    embed(tmp_path, shard_set, tmp_path / "e.zarr")
    found = read_embeddings(tmp_path / "e.zarr")
    np.testing.assert_allclose(found.x_ND[0], direct(loaded, shard_set, 0).record_BD[0], atol=1e-5)


def test_recordings_that_do_not_fit_are_refused(loaded, tmp_path):
    short = write_shard_set(tmp_path / "short", waves(4, 400), rate_hz=100.0)
    with pytest.raises(UsageError, match="400 samples at 100 Hz, the model takes 500"):
        embed(tmp_path, short, tmp_path / "e.zarr")
    odd = write_shard_set(tmp_path / "odd", waves(4, 500), rate_hz=150.0)
    with pytest.raises(UsageError, match="--rate 100"):
        embed(tmp_path, odd, tmp_path / "e.zarr")


def test_another_length_is_said_and_another_rate_refused_with_what_to_do(loaded, shard_set, tmp_path, caplog):
    signal = dataclasses.replace(loaded.config.signal, seconds=5.0)
    loaded = dataclasses.replace(loaded, config=dataclasses.replace(loaded.config, signal=signal))
    inference.transform_for(loaded, shard_set)
    assert not caplog.records
    for num_samples, what in ((300, "records of 3 s for a model of 5 s: the rest is 'no sample'"), (900, "middle 5 s")):
        path = write_shard_set(tmp_path / str(num_samples), waves(2, num_samples), rate_hz=100.0)
        inference.transform_for(loaded, ShardSet.open(path))
        assert what in caplog.text
    path = write_shard_set(tmp_path / "rate", waves(2, 1250), rate_hz=250.0)
    with pytest.raises(UsageError, match=r"no whole multiple of the model's 100 Hz; pack .* --rate 100"):
        inference.transform_for(loaded, ShardSet.open(path))


def test_wrong_stores_are_named(loaded, shard_set, tmp_path):
    with pytest.raises(UsageError, match="no such store"):
        read_embeddings(tmp_path / "absent.zarr")
    store.write(tmp_path / "l.zarr", kind="labels", columns={}, attributes={})
    with pytest.raises(UsageError, match="holds labels, not embeddings"):
        read_embeddings(tmp_path / "l.zarr")
    embed(tmp_path, shard_set, tmp_path / "e.zarr")
    with pytest.raises(UsageError, match="'lead'"):
        read_embeddings(tmp_path / "e.zarr", readout="lead")


def test_independent_baseline_embeds_too(shard_set, tmp_path, monkeypatch):
    loaded = make_loaded(shard_set, kind="independent")
    monkeypatch.setattr(pretrained, "load_model", lambda run, device="cpu": loaded)
    embed(tmp_path, shard_set, tmp_path / "e.zarr")
    np.testing.assert_allclose(
        read_embeddings(tmp_path / "e.zarr").x_ND[9], direct(loaded, shard_set, 9).record_BD[0], atol=1e-5
    )
