"""The data card counts what the index holds, and shows no trace or key when told not to."""

import re

import numpy as np
import pytest

from lamae.data.mixture import Mixture
from lamae.reports.datacard import write_card
from lamae.sharding.format import ShardSet
from lamae.sharding.options import PackOptions
from lamae.sharding.pack import pack
from lamae.sharding.quality import LEAD_FLAGS
from tests.shardsets import random_adc, write_shard_set

IMAGES = re.compile(r'<img src="data:image/(png|svg\+xml);')


@pytest.fixture
def shards(tmp_path):
    lead_mask = np.ones((20, 12), dtype=bool)
    lead_mask[4, 6] = False
    lead_flags = np.zeros((20, 12))
    lead_flags[4, 6] = 1 << LEAD_FLAGS.index("flat")
    lead_flags[9, 2:4] = 1 << LEAD_FLAGS.index("hum")
    path = write_shard_set(
        tmp_path / "shards",
        random_adc(20, 1000),
        keys=[f"secret{row:03d}" for row in range(20)],
        subjects=[row // 2 for row in range(20)],
        splits=["train"] * 14 + ["val"] * 2 + ["test"] * 4,
        lead_mask=lead_mask,
        lead_flags=lead_flags,
    )
    return ShardSet.open(path)


def rows_of(page):
    """First cell of every table row to the other cells."""
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", page)
    cells = [re.findall(r"<td>(.*?)</td>", row) for row in rows]
    return {row[0]: row[1:] for row in cells if row}


def test_counts_are_those_of_the_index(shards, tmp_path):
    write_card(shards, tmp_path / "card.html")
    page = (tmp_path / "card.html").read_text()
    rows = rows_of(page)
    assert rows["train"][:3] == ["14", "70.0%", "7"]
    assert rows["test"][:3] == ["4", "20.0%", "2"]
    (flat,) = [cells for name, cells in rows.items() if name.startswith("flat: ")]
    (hum,) = [cells for name, cells in rows.items() if name.startswith("hum: ")]
    assert flat[1:] == ["1", "1"]
    assert hum[1:] == ["2", "1"]
    assert "nobody is in two of them" in page


def test_examples_show_flagged_records_and_can_be_left_out(shards, tmp_path):
    write_card(shards, tmp_path / "with.html")
    write_card(shards, tmp_path / "without.html", examples=False)
    shown, hidden = (tmp_path / "with.html").read_text(), (tmp_path / "without.html").read_text()
    assert shown.count("data:image/png") == 3, "one without flags, one flat, one with hum"
    assert "data:image/png" not in hidden
    assert "secret" not in hidden
    assert len(IMAGES.findall(hidden)) >= 2
    assert not re.search(r"(src|href)=[\"']?(https?:|//|file:|/)", shown)


def test_a_subject_in_two_splits_is_said(tmp_path):
    path = write_shard_set(
        tmp_path / "shards", random_adc(4, 500), subjects=[1, 1, 2, 3], splits=["train", "test", "val", "test"]
    )
    write_card(path, tmp_path / "card.html", examples=False)
    assert "Warning: 1 subjects are in more than one split" in (tmp_path / "card.html").read_text()


def test_a_packed_source_gives_its_rejects_and_rules(real_data, tmp_path):
    manifest = pack(
        real_data / "challenge2011_seta_subset", tmp_path / "shards", options=PackOptions(limit=12, audit=0)
    )
    write_card(tmp_path / "shards", tmp_path / "card.html", examples=False)
    page = (tmp_path / "card.html").read_text()
    assert f"Data card: {manifest['num_records']} twelve-lead ECGs" in page
    assert "(limit 20 µV)" in page
    assert manifest["index_sha256"] in page


def test_one_card_sets_several_shard_sets_side_by_side(shards, tmp_path):
    other = write_shard_set(tmp_path / "other", random_adc(5, 500), keys=[f"hidden{row}" for row in range(5)])
    write_card(Mixture([shards, ShardSet.open(other)]), tmp_path / "both.html", examples=False)
    page = (tmp_path / "both.html").read_text()
    rows = rows_of(page)
    assert "25 twelve-lead ECGs from 2 shard sets" in page
    assert all(f"<td>{cell}</td>" in page for cell in ("14 (7)", "2 (1)", "4 (2)", "80.0%"))
    (hum,) = [cells for name, cells in rows.items() if name.startswith("hum: ")]
    assert hum == ["5.0%", "–"]
    assert "secret" not in page
    assert "hidden" not in page
