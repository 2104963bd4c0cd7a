"""One real Slurm cluster, one shard set and one uninterrupted run for all tests of this folder."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.slurm import minicluster
from tests.slurm.minicluster import MiniCluster
from tests.slurm.runs import CPU_PROFILE, LAMAE, TRAINING, Run, Submit, profile_options, run_lamae


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MiniCluster]:
    """Three nodes n1, n2, n3. Skips where no cluster can be started; in CI that is a failure."""
    reason = minicluster.missing()
    if reason:
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    with MiniCluster(tmp_path_factory.mktemp("slurm") / "cluster") as cluster:
        yield cluster


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small synthetic MIMIC-IV-ECG tree."""
    path = tmp_path_factory.mktemp("source") / "mimic"
    run_lamae("synth", str(path), "--records", "160", "--subjects", "60", "--seed", "1")
    return path


@pytest.fixture(scope="session")
def shards(source: Path) -> Path:
    path = source.with_name("shards")
    run_lamae("shard", str(source), str(path), "--shard-size", "32")
    return path


@pytest.fixture(scope="session")
def submit_session(slurm: MiniCluster, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Submit:
    home = tmp_path_factory.mktemp("runs")

    def submit(name: str, *training: str, profile: tuple[str, ...] = ("nodes=2",)) -> Run:
        run_dir = home / name
        text = slurm.run(
            [
                *(*LAMAE, "submit", "train", *TRAINING, *training),
                *(f"run.dir={run_dir}", f"data.path={shards}"),
                *("--cluster", CPU_PROFILE, *profile_options(*profile)),
            ],
            env={"XDG_STATE_HOME": str(home / "state")},
        )
        run = Run(slurm, run_dir)
        assert f"job {run.job_id}: " in text
        return run

    return submit


@pytest.fixture
def submit(submit_session: Submit, slurm: MiniCluster) -> Iterator[Submit]:
    """Submit a run of two nodes; what is left of it is cancelled when the test ends, however it ends."""
    runs: list[Run] = []

    def submit(*arguments: Any, **options: Any) -> Run:
        runs.append(submit_session(*arguments, **options))
        return runs[-1]

    yield submit
    for run in runs:
        slurm.run(["scancel", run.job_id], check=False)
    slurm.wait_idle(timeout_s=120)


@pytest.fixture(scope="session")
def uninterrupted(submit_session: Submit) -> Run:
    """The run every other one must equal."""
    run = submit_session("uninterrupted")
    run.wait_done()
    return run
