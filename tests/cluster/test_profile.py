"""Cluster profiles: the shipped ones load, wrong ones say what to change."""

import dataclasses
import re
from pathlib import Path

import pytest

from lamae.base.errors import UsageError
from lamae.cluster import profile

SHIPPED = sorted(Path("configs/cluster").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_profiles_load(path):
    assert profile.load(path).kind in profile.KINDS


def test_ranks_follow_gpus():
    assert profile.load("configs/cluster/generic-gpu.yaml").num_local_ranks == 4
    assert profile.load("configs/cluster/generic-gpu.yaml", ["gpus_per_node=0"]).num_local_ranks == 1
    assert profile.load("configs/cluster/generic-gpu.yaml", ["ranks_per_node=2"]).num_local_ranks == 2


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("nodes=4-2", "nodes='4-2' must be a number"),
        ("partitoin=gpu", "unknown key partitoin; did you mean partition?"),
        ("reservation=x", "options of sbatch belong under slurm:"),
        ("time_min=soon", "time_min"),
        ("save_before_end_s=43200", "leaves no time"),
        ("kind=pbs", "kind='pbs'"),
    ],
)
def test_wrong_values_name_key_and_fix(override, words):
    with pytest.raises(UsageError, match=words):
        profile.load("configs/cluster/cpu-partition.yaml", [override])


def test_a_local_profile_has_one_node_and_no_setup():
    with pytest.raises(UsageError, match="one node"):
        profile.load("configs/cluster/local.yaml", ["nodes=2"])
    with pytest.raises(UsageError, match="setup"):
        profile.load("configs/cluster/local.yaml", ["setup=[module load x]"])


def test_every_key_is_in_the_manual():
    table = Path("docs/slurm.md").read_text().split("## The profile")[1].split("\n## ")[0]
    documented = {key for row in table.splitlines() if row.startswith("| `") for key in re.findall(r"`(\w+)`", row)}
    assert {entry.name for entry in dataclasses.fields(profile.Profile)} <= documented


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(UsageError, match="No such file"):
        profile.load(tmp_path / "none.yaml")
