"""What a person is told about one record."""

import numpy as np
import pytest

from lamae.base.errors import UsageError
from lamae.base.leads import LEADS
from lamae.reports.inspect import describe_record, save_record_plot
from lamae.sharding.format import ShardSet
from tests.shardsets import random_adc, write_shard_set


@pytest.fixture
def shards(tmp_path):
    lead_mask = np.ones((2, 12), dtype=bool)
    lead_mask[1, 3] = False
    path = write_shard_set(
        tmp_path / "shards", random_adc(2, 1000), lead_mask=lead_mask, baseline=10, splits=["train", "test"]
    )
    return ShardSet.open(path)


def test_description_states_values_in_millivolt_and_missing_leads(shards):
    title, heads, rows = describe_record(shards, 1)
    assert "r0000001" in title
    assert "split test" in title
    assert "2 s" in title
    assert [row[0] for row in rows] == list(LEADS)
    assert {len(row) for row in rows} == {len(heads)}
    assert rows[3][1] == "missing"
    adc = shards.read(1)[7]
    assert float(rows[7][heads.index("max (mV)")]) == pytest.approx((adc.max() - 10) / 200, abs=6e-4)


def test_plot_is_saved_or_the_path_is_named(shards, tmp_path):
    assert save_record_plot(shards, 0, tmp_path / "new" / "plot.png").stat().st_size > 10_000
    with pytest.raises(UsageError, match=r"plot\.nonsense"):
        save_record_plot(shards, 0, tmp_path / "plot.nonsense")
