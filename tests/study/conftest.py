"""A study small enough to run whole in seconds: 60 records, models of width 16, two steps."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from omegaconf import OmegaConf

from lamae.evaluate.labels.sources import build_labels
from lamae.sharding.format import ShardSet
from tests.evaluate.conftest import waves
from tests.runs import TINY
from tests.shardsets import write_shard_set

NUM_RECORDS = 60


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A shard set, its labels (FAST is what the waves show, COIN is not in them), and who is how old."""
    return _make_set(tmp_path_factory.mktemp("study"), waves(NUM_RECORDS, 500))


@pytest.fixture(scope="session")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same of another hospital, whose recordings are longer."""
    return _make_set(tmp_path_factory.mktemp("elsewhere"), waves(NUM_RECORDS, 700))


def _make_set(folder: Path, adc: np.ndarray) -> dict[str, Path]:
    shards = write_shard_set(
        folder / "shards",
        adc,
        subjects=[1000 + record // 2 for record in range(NUM_RECORDS)],
        splits=["train"] * 28 + ["val"] * 12 + ["test"] * 20,
        rate_hz=100.0,
    )
    keys = ShardSet.open(shards).keys
    rows = [f"{key},{record % 2},{(record * 7 // 3) % 2}" for record, key in enumerate(keys)]
    (folder / "labels.csv").write_text("\n".join(["key,FAST,COIN", *rows]) + "\n")
    build_labels(shards, folder / "labels.zarr", source="csv", file=folder / "labels.csv", min_count=1)
    return {"shards": shards, "labels": folder / "labels.zarr"}


@pytest.fixture
def write_plan(corpus: dict[str, Path], tmp_path: Path):
    """``write_plan("steps=3")``: a plan file of two methods, two masks and two tasks, with dotted changes."""

    def write(*changes: str, name: str = "plan.yaml") -> Path:
        run = tmp_path / "run.yaml"
        run.write_text(OmegaConf.to_yaml(OmegaConf.create(TINY)))
        values = {
            "run": str(run),
            "seeds": [0, 1],
            "steps": 2,
            "corpus": {"shards": str(corpus["shards"]), "seconds": 5.0},
            "methods": {"lamae": ["model.kind=lamae"], "joint": ["model.kind=joint"]},
            "masks": {"grid": ["mask.kind=grid"], "random": ["mask.kind=random"]},
            "search": {"steps": 1, "learning_rates": [1e-3]},
            "tasks": {
                "splits": {"labels": str(corpus["labels"]), "label_fractions": [0.5, 1.0]},
                "patients": {"labels": str(corpus["labels"]), "protocol": "patients", "folds": 3, "real": True},
            },
            "sweep": {"scope summary": ["model.scope=summary"]},
            "reconstruct": {"whole leads": ["mask.kind=lead"]},
        }
        plan = OmegaConf.create(values)
        for change in changes:
            key, _, value = change.partition("=")
            OmegaConf.update(plan, key, yaml.safe_load(value), merge=False)
        path = tmp_path / name
        path.write_text(OmegaConf.to_yaml(plan))
        return path

    return write
