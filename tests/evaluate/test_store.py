"""Labels and embeddings that lost or changed a file are refused, the file named; nobody's store is replaced."""

import json

import numpy as np
import pytest

from lamae.base.errors import LamaeError, UsageError
from lamae.evaluate import store
from lamae.evaluate.embeddings.embed import read_embeddings, write_records
from lamae.evaluate.labels.store import read_labels


@pytest.fixture
def labels(shard_set, tmp_path):
    N = shard_set.num_records
    label_NC = np.zeros((N, 3), dtype=np.uint8)
    label_NC[N // 2 :, 0] = 1
    columns = {"label": label_NC, "labelled": np.ones(N, dtype=bool), "split": shard_set.column("split")}
    attributes = {
        "index_sha256": shard_set.index_hash,
        "codes": ["I21", "I25", "I48"],
        "descriptions": {},
        "protocol": "",
    }
    assert store.write(tmp_path / "labels.zarr", kind="labels", columns=columns, attributes=attributes)
    return tmp_path / "labels.zarr"


@pytest.fixture
def embeddings(shard_set, tmp_path):
    out = tmp_path / "embeddings.zarr"
    values = np.random.default_rng(0).normal(size=(shard_set.num_records, 4)).astype(np.float32)
    flags = np.ones(shard_set.num_records)
    write_records(
        out,
        shard_set,
        values,
        embedded_N=flags.astype(bool),
        pretrained_N=flags.astype(np.uint8),
        attributes={"model": "other"},
    )
    return out


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("file", ["label/c/0/0", "label/zarr.json", "labelled/c/0", "split/c/0", "zarr.json"])
@pytest.mark.parametrize("damage", [flip, lambda path: path.unlink()], ids=["flipped bit", "lost"])
def test_damaged_labels_are_refused(labels, file, damage):
    damage(labels / file)
    with pytest.raises(LamaeError, match=str(labels / file)) as refused:
        read_labels(labels)
    assert "lamae labels" in str(refused.value)


@pytest.mark.parametrize("file", ["record/c/0/0", "embedded/c/0", "pretrained/c/0", "zarr.json"])
@pytest.mark.parametrize("damage", [flip, lambda path: path.unlink()], ids=["flipped bit", "lost"])
def test_damaged_embeddings_are_refused(embeddings, file, damage):
    damage(embeddings / file)
    with pytest.raises(LamaeError, match=str(embeddings / file)):
        read_embeddings(embeddings)


def test_another_code_or_an_unwritten_chunk_does_not_slip_in(labels):
    text = (labels / "zarr.json").read_text()
    (labels / "zarr.json").write_text(text.replace('"I48"', '"I47"'))
    with pytest.raises(LamaeError, match=r"zarr\.json: changed"):
        read_labels(labels)
    (labels / "zarr.json").write_text(text)
    (labels / "label/c/1").mkdir()
    (labels / "label/c/1/0").write_bytes((labels / "label/c/0/0").read_bytes())
    with pytest.raises(LamaeError, match="label/c/1/0: does not belong there"):
        read_labels(labels)


def test_what_a_system_puts_into_a_store_is_no_damage(labels, embeddings):
    for folder in (labels, embeddings):
        (folder / ".DS_Store").write_bytes(b"x")
    assert read_labels(labels).codes == ["I21", "I25", "I48"]
    read_embeddings(embeddings)
    (labels / "label/.zarray").write_text("{}")
    with pytest.raises(LamaeError, match=r"label/\.zarray: does not belong there"):
        read_labels(labels)


def test_a_store_from_before_there_were_checksums_is_made_again(labels):
    content = json.loads((labels / "zarr.json").read_text())
    del content["attributes"]["files_sha256"]
    content["attributes"]["store_version"] = 1
    (labels / "zarr.json").write_text(json.dumps(content))
    with pytest.raises(LamaeError, match=r"no checksums.*make it again with 'lamae labels'"):
        read_labels(labels)


def test_nothing_is_left_where_writing_fails(shard_set, tmp_path):
    with pytest.raises(TypeError):
        store.write(tmp_path / "x.zarr", kind="labels", columns={"label": np.zeros((2, 2))}, attributes={"codes": {1}})
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"):
        store.write(tmp_path / "file" / "x.zarr", kind="labels", columns={}, attributes={})


def test_a_directory_of_other_things_is_not_to_be_removed(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("")
    with pytest.raises(UsageError, match="mine: is there, and is no store of labels"):
        store.open_store(tmp_path / "mine", kind="labels")
