"""``lamae doctor`` examines the nodes of a cluster by a short job."""

from pathlib import Path

import pytest

from tests.slurm.minicluster import MiniCluster
from tests.slurm.runs import CPU_PROFILE, LAMAE, profile_options

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]


def test_doctor_measures_gradients_network_disk_and_loader_on_two_nodes(
    slurm: MiniCluster, shards: Path, tmp_path: Path
):
    table = slurm.run(
        [
            *(*LAMAE, "doctor", "--shards", str(shards), "--out", str(tmp_path)),
            *("--cluster", str(Path(CPU_PROFILE).absolute()), *profile_options("nodes=2")),
        ],
        env={"XDG_STATE_HOME": str(tmp_path / "state"), "COLUMNS": "200"},
        cwd=tmp_path,
    )
    rows = [line for line in table.splitlines() if "│" in line]
    assert any("gradients against plain torch" in row and "pass" in row and "2 ranks" in row for row in rows)
    for host in ("n1", "n2"):
        assert any(f"{host}: loader" in row for row in rows)
    assert not any("fail" in row for row in rows)
    slurm.wait_idle()
