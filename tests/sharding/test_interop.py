"""The tars are plain: webdataset and tar(1) read them and give what the index gives."""

import json
import re
import subprocess

import numpy as np
import pytest
import webdataset

from lamae.sharding.format import ShardSet
from lamae.sharding.pack import PackOptions, pack
from tests.documented import ROOT
from tests.sharding.wfdbtree import write_mimic_tree


@pytest.fixture
def shard_set(tmp_path):
    write_mimic_tree(tmp_path / "source", num_subjects=4, num_samples=300)
    pack(tmp_path / "source", tmp_path / "out", options=PackOptions(shard_size=4))
    return ShardSet.open(tmp_path / "out")


def through_webdataset(shard_set) -> dict[str, dict]:
    urls = [str(path) for path in sorted((shard_set.root / "shards").iterdir())]
    dataset = webdataset.WebDataset(urls, shardshuffle=False, handler=webdataset.warn_and_continue)
    return {sample["__key__"]: sample for sample in dataset.decode()}


def test_webdataset_gives_the_same_samples_and_calibration(shard_set):
    samples = through_webdataset(shard_set)
    assert list(samples) == shard_set.keys
    for row, key in enumerate(shard_set.keys):
        np.testing.assert_array_equal(samples[key]["npy"], shard_set.read(row))
        assert samples[key]["npy"].dtype == np.int16
        described = samples[key]["json"]
        assert described["gain"] == shard_set.column("gain")[row].tolist()
        assert described["baseline"] == shard_set.column("baseline")[row].tolist()
        assert described["lead_mask"] == shard_set.column("lead_mask")[row]
        assert described["subject"] == shard_set.column("subject")[row]


def test_tar_lists_and_unpacks_them(shard_set, tmp_path):
    tar = shard_set.shard_path(0)
    listed = subprocess.run(["tar", "tvf", tar], capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split()[-1] for line in listed] == [f"{k}.{e}" for k in shard_set.keys[:4] for e in ("npy", "json")]
    assert all("0/0" in line and "1970-01-01" in line for line in listed)
    subprocess.run(["tar", "xf", tar, "-C", tmp_path], check=True)
    key = shard_set.keys[2]
    np.testing.assert_array_equal(np.load(tmp_path / f"{key}.npy"), shard_set.read(2))
    assert json.loads((tmp_path / f"{key}.json").read_text())["key"] == key


def test_damaged_tar_header_hides_records_from_webdataset_but_not_from_the_index(shard_set):
    path = shard_set.shard_path(0)
    header = int(shard_set.column("payload_offset")[1]) - 128 - 512
    data = bytearray(path.read_bytes())
    data[header : header + 512] = bytes(range(256)) * 2
    path.write_bytes(data)
    seen = through_webdataset(shard_set)
    assert set(shard_set.keys[1:4]).isdisjoint(seen)
    for row in range(shard_set.num_records):
        assert shard_set.read(row, verify=True).shape == (12, 300)


def test_the_python_shown_makes_records_to_pack(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/sharding.md").read_text(), flags=re.DOTALL)
    exec(code, found := {})
    (tmp_path / "source").mkdir()
    signal_mv = np.random.default_rng(0).normal(size=(3, 1000, 3)).cumsum(1) * 0.05
    signal_mv[0, :, 1] = np.nan
    signal_mv[1, 500:, 2] = np.nan
    for number, record_mv in enumerate(signal_mv):
        found["write_record"](tmp_path / "source", f"r{number}", record_mv, ["V6", "II", "aVR"], 500, number + 40)
    pack(tmp_path / "source", tmp_path / "out", options=PackOptions())
    shard_set = ShardSet.open(tmp_path / "out")
    assert shard_set.column("subject").tolist() == [40, 41, 42]
    for row, record_mv in enumerate(signal_mv):
        read = shard_set.read(row)
        read_mv = np.where(read == -32768, np.nan, read / shard_set.column("gain")[row][:, None])
        np.testing.assert_allclose(read_mv[[11, 1, 3]].T, record_mv, atol=0.0006)
