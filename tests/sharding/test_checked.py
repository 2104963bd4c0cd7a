"""An index that lost or changed a file is refused with the file's name: zarr would read a lost chunk as zeros."""

import json
import shutil

import numpy as np
import pytest

from lamae.base.errors import LamaeError
from lamae.data.reader import RecordReader
from lamae.sharding.checked import file_sums
from lamae.sharding.format import INDEX_NAME, MANIFEST_NAME, ShardSet, manifest_text
from lamae.sharding.pack import PackOptions, pack
from lamae.sharding.verify import verify
from tests.sharding.wfdbtree import write_mimic_tree


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    root = tmp_path_factory.mktemp("checked")
    write_mimic_tree(root / "source", num_subjects=4, num_samples=200)
    pack(root / "source", root / "out", options=PackOptions(shard_size=4))
    return root / "out"


@pytest.fixture
def out(sound, tmp_path):
    return shutil.copytree(sound, tmp_path / "out")


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "a lost chunk": ("split/c/0", lambda path: path.unlink(), "missing"),
    "a lost chunk of two axes": ("gain/c/0/0", lambda path: path.unlink(), "missing"),
    "a flipped bit": ("gain/c/0/0", flip, "changed since it was written"),
    "a flipped bit in metadata": ("lead_mask/zarr.json", flip, "changed since it was written"),
    "lost metadata": ("lead_mask/zarr.json", lambda path: path.unlink(), "missing"),
    "lost metadata of all": ("zarr.json", lambda path: path.unlink(), "missing"),
    "a chunk of another copy": ("gain/c/7/0", lambda path: (path.parent.mkdir(), path.write_bytes(b"x")), "not belong"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_index_is_not_read_and_the_file_is_named(out, name):
    file, damage, what = DAMAGE[name]
    damage(out / INDEX_NAME / file)
    with pytest.raises(LamaeError, match=what) as refused:
        RecordReader(ShardSet.open(out)).read(np.arange(2))
    assert str(out / INDEX_NAME / file) in str(refused.value)
    assert any(f"{out / INDEX_NAME / file}: " in problem for problem in verify(out).problems)


def test_files_that_a_system_puts_there_and_nobody_reads_are_no_damage(out):
    for name in ("index.zarr/.DS_Store", "index.zarr/gain/c/._0", "index.zarr/.nfs0001", "shards/.DS_Store"):
        (out / name).write_bytes(b"x")
    assert verify(out).problems == []
    RecordReader(ShardSet.open(out)).read(np.arange(2))
    assert ".DS_Store" not in file_sums(out / INDEX_NAME)
    for name in (".zarray", "gain/.zattrs", "gain/more"):
        (out / INDEX_NAME / name).write_bytes(b"{}")
        with pytest.raises(LamaeError, match=f"{name}: does not belong there"):
            RecordReader(ShardSet.open(out))
        assert any(f"{name}: does not belong" in problem for problem in verify(out).problems)
        (out / INDEX_NAME / name).unlink()


def test_only_what_is_read_is_hashed(out):
    flip(out / INDEX_NAME / "std_mv/c/0/0")
    assert len(ShardSet.open(out).rows_of_split("all")) == 8
    with pytest.raises(LamaeError, match="std_mv/c/0/0"):
        ShardSet.open(out).column("std_mv")


def test_a_set_whose_manifest_names_no_files_is_hashed_whole(out):
    manifest = {key: value for key, value in ShardSet.open(out).manifest.items() if key != "index_files"}
    (out / MANIFEST_NAME).write_text(manifest_text(manifest))
    assert ShardSet.open(out).keys == sorted(ShardSet.open(out).keys)
    assert verify(out).problems == []
    (out / INDEX_NAME / "split/c/0").unlink()
    with pytest.raises(LamaeError, match="changed since it was written"):
        ShardSet.open(out).rows_of_split("train")
    assert any("changed since" in problem for problem in verify(out).problems)


def test_a_changed_manifest_is_refused(out):
    path = out / MANIFEST_NAME
    text = path.read_text()
    path.write_text(text.replace('"rate_hz": 500.0', '"rate_hz": 100.0'))
    with pytest.raises(LamaeError, match="changed since it was written"):
        ShardSet.open(out)
    for key in ("index_sha256", "shards", "num_records"):
        path.write_text(manifest_text({name: value for name, value in json.loads(text).items() if name != key}))
        with pytest.raises(LamaeError, match=f"has no {key}"):
            verify(out)
