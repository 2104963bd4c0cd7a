"""A probe that follows a run: fixed records, the test split left alone, and an entry point that names what it needs."""

import numpy as np
import pytest
import torch

from lamae.base.errors import UsageError
from lamae.base.rowfile import read_rows
from lamae.evaluate import store
from lamae.evaluate.online import OnlineProbe
from lamae.model import build_model
from lamae.sharding.format import ShardSet
from tests.runs import tiny_config, write_config
from tests.shardsets import write_shard_set

NUM = 60


@pytest.fixture
def data(tmp_path):
    """A loud wave or a quiet one, each with a little noise of its own, and labels that say which is which."""
    loud = np.arange(NUM) % 2 == 0
    wave = np.sin(np.arange(500) / 5) * np.where(loud, 900, 100)[:, None, None]
    adc = (wave + np.random.default_rng(0).normal(0, 5, size=(NUM, 12, 500))).astype(np.int16)
    splits = ["train"] * 30 + ["val"] * 20 + ["test"] * 10
    shards = write_shard_set(tmp_path / "shards", adc, rate_hz=100.0, splits=splits)
    shard_set = ShardSet.open(shards)
    store.write(
        tmp_path / "labels.zarr",
        kind="labels",
        columns={
            "label": np.stack([loud, np.zeros(NUM)], 1).astype(np.uint8),
            "labelled": np.ones(NUM, dtype=bool),
            "split": shard_set.column("split"),
        },
        attributes={
            "index_sha256": shard_set.index_hash, "codes": ["LOUD", "NEVER"], "descriptions": {}, "protocol": "",
        },
    )  # fmt: skip
    return shards, tmp_path / "labels.zarr"


def test_what_embeddings_hold_is_found_and_what_they_do_not_is_not(data, tmp_path, monkeypatch):
    shards, labels = data
    config = tiny_config(shards, tmp_path / "run")
    probe = OnlineProbe(config, labels, num_records=24)
    torch.manual_seed(0)
    model = build_model(config.model, config.mask, num_samples=500).eval()
    first = probe(model)
    assert first.keys() == {"macro_auroc"}
    assert first["macro_auroc"] > 0.9
    assert probe(model) == first
    rows = np.concatenate(list(probe._rows.values()))
    assert len(probe._rows["train"]) == 24
    assert len(probe._rows["val"]) == 12
    assert rows.max() < 50, "a test record was touched"
    truth = probe._y["val"].copy()
    probe._y["val"] = truth[np.random.default_rng(1).permutation(len(truth))]
    assert probe(model)["macro_auroc"] < 0.9
    with torch.no_grad():
        next(model.parameters()).fill_(torch.nan)
    assert np.isnan(probe(model)["macro_auroc"]), "a model that diverged has no AUROC, not one half"


def test_a_run_tells_the_probe(data, tmp_path, lamae):
    shards, labels = data
    config = write_config(tiny_config(shards, tmp_path / "run"), tmp_path / "run.yaml")
    probing = ("monitor.probe_every=2", f"monitor.probe_labels={labels}", "monitor.probe_records=16")
    code, _, errors = lamae("train", config, "train.steps=4", *probing)
    assert code == 0, errors
    told = {row["step"]: row.get("probe/macro_auroc") for row in read_rows(tmp_path / "run" / "metrics.jsonl")}
    assert [told[1], told[3]] == [None, None]
    assert all(0 <= told[step] <= 1 for step in (2, 4))


def test_what_is_missing_or_foreign_is_named(data, tmp_path, lamae):
    shards, labels = data
    config = write_config(tiny_config(shards, tmp_path / "run"), tmp_path / "run.yaml")
    code, _, errors = lamae("train", config, "monitor.probe_every=2")
    assert code == 2
    assert "monitor.probe_every=2 needs monitor.probe_labels=LABELS.zarr" in errors
    other = write_shard_set(tmp_path / "other", np.ones((8, 12, 500), np.int16), rate_hz=100.0)
    with pytest.raises(UsageError, match="belong to different shard sets"):
        OnlineProbe(tiny_config(other, tmp_path / "run"), labels, num_records=8)
    with pytest.raises(UsageError, match=r"no code has both classes in 2 train and 1 val records"):
        OnlineProbe(tiny_config(shards, tmp_path / "run"), labels, num_records=2)
    assert torch.is_grad_enabled()
