"""A comparison of two small models, from checkpoints to the page, and what it refuses."""

import dataclasses
import json
import re

import numpy as np
import pytest
import torch

from lamae.base.errors import UsageError
from lamae.evaluate import pretrained, store
from lamae.evaluate.compare import RANDOM_WEIGHTS, compare
from lamae.evaluate.embeddings.foreign import import_embeddings
from lamae.evaluate.finetune.finetune import finetune
from lamae.evaluate.finetune.options import FinetuneOptions
from lamae.evaluate.reconstruct.reconstruction import reconstruction_errors
from lamae.model import build_model
from lamae.model.config import MaskConfig
from lamae.reports.compare import add_reconstruction, write_comparison
from lamae.reports.page import Page
from lamae.sharding.format import ShardSet
from tests.evaluate.conftest import make_loaded, waves
from tests.shardsets import write_shard_set


@pytest.fixture
def setting(tmp_path, monkeypatch):
    """120 records of 60 subjects, code I48 set for the fast ones, code E11 at random; two models by name."""
    path = write_shard_set(
        tmp_path / "shards",
        waves(120, 500),
        subjects=[record // 2 for record in range(120)],
        splits=["train"] * 60 + ["val"] * 20 + ["test"] * 40,
        rate_hz=100.0,
    )
    shard_set = ShardSet.open(path)
    models = {"a": make_loaded(shard_set), "b": make_loaded(shard_set, kind="independent")}
    monkeypatch.setattr(pretrained, "load_model", lambda run, device="cpu": models[run.name])
    store.write(
        tmp_path / "labels.zarr",
        kind="labels",
        columns={
            "label": np.stack([np.arange(120) % 2, np.random.default_rng(0).integers(2, size=120)], 1).astype(np.uint8),
            "labelled": np.ones(120, dtype=bool),
            "split": shard_set.column("split"),
        },
        attributes={
            "index_sha256": shard_set.index_hash,
            "codes": ["I48", "E11"],
            "descriptions": {},
            "protocol": "fast or not",
        },
    )
    return shard_set, tmp_path, models


def run_comparison(shard_set, tmp_path, **options):
    return compare(
        {"LAMAE": tmp_path / "a", "Independent": tmp_path / "b"},
        shard_set,
        tmp_path / "labels.zarr",
        tmp_path / "work",
        fractions=(0.2, 1.0),
        num_seeds=2,
        subsets={"12 leads": tuple(range(12)), "I, II": (0, 1)},
        masks={"grid": MaskConfig()},
        **options,
    )


def test_from_checkpoints_to_page(setting):
    shard_set, tmp_path, _ = setting
    np.savez(tmp_path / "x.npz", embeddings=np.random.default_rng(1).normal(size=(120, 4)), keys=shard_set.keys)
    import_embeddings(tmp_path / "x.npz", shard_set, tmp_path / "x.zarr")
    options = FinetuneOptions(steps=2, global_batch_size=8, evaluate_every=2, from_scratch=True)
    finetune(tmp_path / "a", shard_set, tmp_path / "labels.zarr", tmp_path / "scratch", options=options)
    result = run_comparison(
        shard_set, tmp_path, stores={"theirs": tmp_path / "x.zarr"}, finetuned={"supervised": tmp_path / "scratch"}
    )
    assert list(result.probes["record"]) == ["LAMAE", "Independent", RANDOM_WEIGHTS, "theirs"]
    assert list(result.probes["mean"]) == ["LAMAE", "Independent", RANDOM_WEIGHTS]
    whole, two = result.robustness["LAMAE"].values()
    np.testing.assert_array_equal(whole.auroc_C, result.probes["record"]["LAMAE"].auroc_C)
    assert not np.array_equal(whole.probability_NC, two.probability_NC)
    assert result.lead_weights["LAMAE"].shape == (40, 12)

    summary = write_comparison(result, tmp_path / "out")
    page, text = ((tmp_path / "out" / name).read_text() for name in ("compare.html", "compare.md"))
    page = re.sub("</?span[^>]*>", "", page)  # as it is read
    loaded = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert loaded["probe"]["record"]["theirs"]["contamination"] == "unknown"
    assert set(loaded["lead_weights"]["LAMAE"]) == {"all test records", "I48", "E11"}
    differences = [f"LAMAE - {name}" for name in ("Independent", RANDOM_WEIGHTS, "theirs")]
    assert {r: list(of) for r, of in summary["difference"].items()} == {"record": differences, "mean": differences[:2]}
    assert list(summary["few_labels_difference"]) == differences
    assert next(iter(summary["finetuned_difference"])).endswith("LAMAE, frozen")
    value = result.probes["record"]["LAMAE"].macro
    for content in (page, text):
        assert str(value) in content
        for title in (
            "Few labels", "Missing leads", "Reconstruction, mask: grid", "Groups of codes", "AUROC by code",
            "supervised", "limb algebra", "interpolation",
        ):  # fmt: skip
            assert title in content


def test_embeddings_are_made_once_but_again_for_other_weights(setting, monkeypatch):
    shard_set, tmp_path, models = setting
    run_comparison(shard_set, tmp_path)
    made = set((tmp_path / "work").iterdir())
    run_comparison(shard_set, tmp_path)
    assert set((tmp_path / "work").iterdir()) == made
    models["a"] = dataclasses.replace(models["a"], model=make_loaded(shard_set).model)
    with torch.no_grad():
        next(models["a"].model.parameters()).add_(0.1)
    run_comparison(shard_set, tmp_path)
    assert len(set((tmp_path / "work").iterdir()) - made) == 2, "twelve leads and two leads of the changed model"


def test_runs_scored_on_other_samples_or_in_another_unit_have_tables_of_their_own(setting):
    shard_set, tmp_path, models = setting
    for name, section, change in (("b", "model", {"patch_size": 25}), ("c", "signal", {"scaling": "lead_zscore"})):
        config = models["a"].config
        config = dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **change)})
        model = build_model(config.model, config.mask, num_samples=500).eval()
        models[name] = dataclasses.replace(models["a"], config=config, model=model)
    page, rows = Page("page"), shard_set.rows_of_split("test")
    mask = MaskConfig(kind="grid")
    by_run = {name: reconstruction_errors(models[name], shard_set, rows, mask=mask) for name in "abc"}
    add_reconstruction(page, by_run | {"again": by_run["a"]}, title="Grid")
    page.write_markdown(tmp_path / "page.md")
    tables = (tmp_path / "page.md").read_text().split("Grid; ")[1:]
    for number, (names, unit) in enumerate(((("a", "again"), "mV"), (("b",), "mV"), (("c",), "model units"))):
        ratios, errors = tables[2 * number : 2 * number + 2]
        for text in (ratios, errors):
            assert text.startswith(by_run[names[0]].scored_on)
            assert [name for name in ("a", "again", "b", "c") if f": {name} " in text] == list(names)
        assert f"Root mean squared error in {unit} on" in errors
        assert ": interpolation " in errors


def test_contaminated_or_foreign_runs_are_refused(setting):
    shard_set, tmp_path, models = setting
    models["b"] = make_loaded(shard_set, kind="independent", trained_on="all")
    with pytest.raises(UsageError, match="Independent: 20 of 20 test subjects"):
        run_comparison(shard_set, tmp_path)
    other = ShardSet.open(write_shard_set(tmp_path / "other", waves(4, 500, seed=9), rate_hz=100.0))
    with pytest.raises(UsageError, match="different shard sets"):
        run_comparison(other, tmp_path)
