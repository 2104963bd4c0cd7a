"""Packing spread over an array gives the bytes that packing in one process gives."""

import filecmp
import re
from pathlib import Path

import pytest

from tests.slurm.minicluster import MiniCluster
from tests.slurm.runs import CPU_PROFILE, LAMAE

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]


def test_array_and_merge_give_the_bytes_of_local_packing(
    slurm: MiniCluster, source: Path, shards: Path, tmp_path: Path
):
    options = ["partition=debug", "cpus_per_node=3", "mem_gb=2", "array_tasks=3", "time_min=10", "save_before_end_s=60"]
    text = slurm.run(
        [
            *(*LAMAE, "submit", "shard", str(source), str(tmp_path / "out"), "--shard-size", "32"),
            *("--cluster", CPU_PROFILE, "--wait", "--folder", str(tmp_path / "jobs")),
            *(word for option in options for word in ("--set", option)),
        ],
        env={"XDG_STATE_HOME": str(tmp_path / "state")},
    )
    assert len(re.findall(r"job \d+:", text)) == 2
    slurm.wait_idle()
    names = sorted(str(path.relative_to(shards)) for path in shards.rglob("*") if path.is_file())
    assert names == sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert filecmp.cmpfiles(shards, tmp_path / "out", names, shallow=False)[1:] == ([], [])
    hosts = {
        word
        for path in (tmp_path / "jobs").glob("*/attempts/*/node-0.json")
        for word in re.findall(r"n\d\b", path.read_text())
    }
    assert len(hosts) > 1
