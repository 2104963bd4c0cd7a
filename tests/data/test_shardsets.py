"""The writer that other tests rely on makes what the format describes."""

import tarfile

import numpy as np
import pytest
import webdataset

from lamae.base.errors import UsageError
from lamae.sharding.format import NO_SAMPLE, ShardSet
from tests.shardsets import random_adc, write_shard_set


def test_records_come_back_by_index_and_by_webdataset(tmp_path):
    adc = random_adc(7, 300)
    adc[2, 5] = NO_SAMPLE
    shard_set = ShardSet.open(write_shard_set(tmp_path / "set", adc, shard_size=3, splits=["train"] * 5 + ["test"] * 2))

    assert shard_set.num_records == 7
    for row in range(7):
        np.testing.assert_array_equal(shard_set.read(row), adc[row])
    np.testing.assert_array_equal(shard_set.rows_of_split("test"), [5, 6])
    assert shard_set.column("lead_mask")[2] == 0xFFF & ~(1 << 5)
    assert shard_set.column("num_missing")[2].tolist() == [0] * 5 + [300] + [0] * 6

    urls = [str(shard_set.shard_path(shard)) for shard in range(3)]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert [sample["__key__"] for sample in samples] == shard_set.keys
    for sample, expected in zip(samples, adc, strict=True):
        np.testing.assert_array_equal(sample["npy"], expected)
    assert all(tarfile.is_tarfile(url) for url in urls)


def test_a_column_that_is_not_there_is_named_with_those_that_are(shard_set):
    with pytest.raises(UsageError, match=r"no column std_vm; there are .*split, std_mv, subject$"):
        shard_set.column("std_vm")
