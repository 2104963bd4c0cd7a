"""Verifying a shard set: every flipped byte is found, and said where."""

import hashlib

import numpy as np
import pytest

from lamae.base.errors import LamaeError, UsageError
from lamae.sharding.format import MANIFEST_NAME, ShardSet, manifest_text
from lamae.sharding.pack import PackOptions, pack
from lamae.sharding.verify import verify
from tests.sharding.wfdbtree import write_mimic_tree
from tests.shardsets import random_adc, write_shard_set


@pytest.fixture(scope="module")
def shard_set(tmp_path_factory):
    """A sound shard set of 8 short records in two tars."""
    root = tmp_path_factory.mktemp("verify")
    write_mimic_tree(root / "source", num_subjects=4, num_samples=200)
    pack(root / "source", root / "out", options=PackOptions(shard_size=4))
    return ShardSet.open(root / "out")


def flip(path, offset):
    """Flip one bit of one byte; flipping it again restores the file."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def problems_after_flip(shard_set, path, offset):
    flip(path, offset)
    try:
        return verify(shard_set.root).problems
    except LamaeError as error:
        return [str(error)]
    finally:
        flip(path, offset)


def test_a_sound_set_has_no_problems(shard_set):
    report = verify(shard_set.root)
    assert report.problems == []
    assert (report.num_records, report.num_shards) == (8, 2)
    assert report.num_bytes == sum(path.stat().st_size for path in (shard_set.root / "shards").iterdir())


def test_any_flipped_byte_of_any_file_is_found(shard_set):
    rng = np.random.default_rng(0)
    for path in sorted(path for path in shard_set.root.rglob("*") if path.is_file()):
        size = path.stat().st_size
        for offset in {0, size - 1, *rng.integers(0, size, 5).tolist()}:
            found = problems_after_flip(shard_set, path, offset)
            assert found, f"{path} at {offset}"


def test_damage_in_a_tar_is_named_by_shard_offset_and_key(shard_set):
    row = 5
    path = shard_set.shard_path(1)
    offset = int(shard_set.column("payload_offset")[row])
    key = shard_set.keys[row]
    (samples,) = problems_after_flip(shard_set, path, offset + 17)
    assert samples == f"{path}: record {key}: samples at offset {offset} are damaged (crc32c)"
    for position in (offset - 128 - 512, offset - 20, offset + 12 * 200 * 2 + 600):
        (header,) = problems_after_flip(shard_set, path, position)
        assert f"{path}: record {key}: headers or {key}.json at offset {offset - 640}" in header
    (end,) = problems_after_flip(shard_set, path, path.stat().st_size - 3)
    assert "outside of its records" in end


def test_a_truncated_or_missing_tar_is_named(shard_set):
    path = shard_set.shard_path(0)
    content = path.read_bytes()
    try:
        path.write_bytes(content[:3000])
        assert any("3000 bytes instead of" in problem for problem in verify(shard_set.root).problems)
        path.unlink()
        assert verify(shard_set.root).problems == [f"{path}: No such file or directory"]
    finally:
        path.write_bytes(content)


def test_a_set_without_its_tars_is_damaged(shard_set):
    folder = shard_set.root / "shards"
    folder.rename(shard_set.root / "away")
    try:
        report = verify(shard_set.root)
    finally:
        (shard_set.root / "away").rename(folder)
    assert report.problems == [f"{folder / name}: No such file or directory" for name in ("000000.tar", "000001.tar")]
    assert report.only_shards


def test_a_shard_of_which_every_record_was_rejected_is_sound(tmp_path):
    write_mimic_tree(tmp_path / "source", num_subjects=4, num_samples=200)
    for signals in sorted((tmp_path / "source").rglob("*.dat"))[:4]:
        signals.write_bytes(b"")
    manifest = pack(tmp_path / "source", tmp_path / "out", options=PackOptions(shard_size=4))
    assert (manifest["num_records"], len(manifest["shards"])) == (4, 2)
    assert verify(tmp_path / "out").problems == []


@pytest.mark.parametrize("name", ["num_subjects", "splits", "lead_flags", "masked_leads"])
def test_counts_and_splits_are_those_of_the_index(shard_set, name):
    path = shard_set.root / MANIFEST_NAME
    text = path.read_text()
    said = {"splits": {"train": {"records": 8, "subjects": 4}}}.get(name, -1)
    path.write_text(manifest_text(shard_set.manifest | {name: said}))
    try:
        problems = verify(shard_set.root).problems
    finally:
        path.write_text(text)
    assert len(problems) == 1
    assert f"{path}: {name} is {said}, of the index it is {shard_set.manifest[name]}" in problems[0]


def test_no_file_is_read_but_the_sets_own(shard_set, tmp_path):
    """A manifest that somebody else wrote names a file of ours, by its right digest."""
    ours = tmp_path / "ours.csv"
    ours.write_text("secret")
    digest = hashlib.sha256(b"secret").hexdigest()
    path = shard_set.root / MANIFEST_NAME
    text = path.read_text()
    shards = [{**shard_set.manifest["shards"][0], "name": str(ours), "sha256": digest, "bytes": 6}]
    shards += shard_set.manifest["shards"][1:]
    path.write_text(manifest_text(shard_set.manifest | {"files_sha256": {str(ours): digest}, "shards": shards}))
    try:
        problems = verify(shard_set.root).problems
    finally:
        path.write_text(text)
    assert f"{shard_set.root / ours.name}: missing" in problems
    assert any(problem.startswith(f"{shard_set.shard_path(0)}: ") for problem in problems)
    assert not any(problem.startswith(str(ours)) for problem in problems)


def test_what_is_no_shard_set_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no such directory"):
        verify(tmp_path / "absent")
    with pytest.raises(UsageError, match=r"no dataset\.json"):
        verify(tmp_path)
    lost = write_shard_set(tmp_path / "lost", random_adc(3, 500))
    (lost / "dataset.json").unlink()
    with pytest.raises(UsageError, match=r"dataset\.json is missing.*copy the shard set again"):
        verify(lost)
