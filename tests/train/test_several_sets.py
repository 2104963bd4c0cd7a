"""Pretraining on several shard sets: one run, exact resume, losses per set, patients of every set."""

import json

import numpy as np
import pytest

from lamae.base.errors import UsageError
from lamae.evaluate.embeddings.embed import NOT_PRETRAINED, PRETRAINED, pretrained_flags
from lamae.sharding.format import ShardSet
from lamae.train.checkpoint.format import load_model
from lamae.train.loop import train
from tests.runs import tiny_config
from tests.shardsets import random_adc, write_shard_set

ENDS = ["train"] * 20 + ["val"] * 4


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Two hospitals that both count their patients from 1, with other rates and lengths."""
    folder = tmp_path_factory.mktemp("sets")
    for place, (name, length, rate) in enumerate([("north", 500, 100.0), ("south", 3000, 400.0)]):
        adc = random_adc(24, length, seed=place)
        write_shard_set(folder / name, adc, rate_hz=rate, splits=ENDS, subjects=range(1, 25), source="wfdb")
    return folder / "north", folder / "south"


def losses(run):
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_on_two_sets_resumes_exactly_and_knows_the_patients_of_both(sets, tmp_path):
    def config(name, *overrides):
        both = f"data.path=[{sets[0]},{sets[1]}]"
        common = ("signal.seconds=5", "data.weights=[1,0.5]", "monitor.log_every=1", "train.steps=6")
        return tiny_config(sets[0], tmp_path / name, both, *common, *overrides)

    train(config("whole"))
    train(config("parts", "train.stop_at=4"))
    train(config("parts"))
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    rows = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    found = {key for row in rows for key in json.loads(row) if key.startswith("parts/set/")}
    assert found == {"parts/set/north", "parts/set/south"}

    loaded = load_model(tmp_path / "whole")
    assert [(entry["name"], entry["num_subjects"]) for entry in loaded.sets] == [("north", 20), ("south", 20)]
    assert len(loaded.subject_hashes) == 40
    for path in sets:
        flags = pretrained_flags(ShardSet.open(path), loaded)
        np.testing.assert_array_equal(flags, [PRETRAINED] * 20 + [NOT_PRETRAINED] * 4)

    with pytest.raises(UsageError, match=r"records of data.path: north \(.*, south \(.* -> south \(.*, north"):
        train(config("parts", f"data.path=[{sets[1]},{sets[0]}]", "train.steps=8"))
    with pytest.raises(UsageError, match=r"data.weights: \[1.0, 0.5\] -> \[1.0, 1.0\]"):
        train(config("parts", "data.weights=[1,1]", "train.steps=8"))


def test_patients_under_other_splits_in_another_set_are_said(tmp_path, caplog):
    for name, splits in (("one", ENDS), ("other", ["train"] * 24)):
        adc = random_adc(24, 500, seed=len(name))
        write_shard_set(tmp_path / name, adc, rate_hz=100.0, splits=splits, subjects=range(1, 25), source="ptbxl")
    paths = f"data.path=[{tmp_path / 'one'},{tmp_path / 'other'}]"
    train(tiny_config(tmp_path / "one", tmp_path / "run", paths, "train.steps=1"))
    assert "4 subjects of one set's val split are trained on in another" in caplog.text
