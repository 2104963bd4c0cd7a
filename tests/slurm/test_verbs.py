"""Verbs other than ``train`` on a cluster: their ranks, their restarts, and what is refused."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import zarr

from lamae.base import files
from lamae.cluster.submission import list_attempts, read_reports
from tests.slurm.minicluster import MiniCluster, wait_until
from tests.slurm.runs import CPU_PROFILE, LAMAE, START_S, TRAINING, Run, find_rank, profile_options, run_lamae

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]


@pytest.fixture
def submit_verb(slurm: MiniCluster, tmp_path: Path):
    """``submit_verb(*words, profile=…)`` submits to the test cluster; the text it prints."""

    def submit(*words: str, profile: tuple[str, ...] = ("nodes=2",)) -> str:
        return slurm.run(
            [
                *(*LAMAE, "submit", *words, "--folder", str(tmp_path / "jobs")),
                *("--cluster", CPU_PROFILE, *profile_options(*profile)),
            ],
            env={"XDG_STATE_HOME": str(tmp_path / "state")},
        )

    return submit


def test_embedding_on_two_nodes_goes_on_after_a_signal(
    slurm: MiniCluster, submit_verb, uninterrupted: Run, shards: Path, tmp_path: Path
):
    run_lamae("embed", str(uninterrupted.dir), str(shards), str(tmp_path / "alone.zarr"))
    text = submit_verb("embed", str(uninterrupted.dir), str(shards), str(tmp_path / "embeddings.zarr"))
    [folder] = (tmp_path / "jobs").iterdir()
    assert f"next: lamae jobs {folder}" in text
    os.kill(find_rank(str(tmp_path / "embeddings.zarr"), 1), signal.SIGUSR1)
    wait_until(
        lambda: (decisions(folder) or [{}])[-1].get("action") == "done",
        "an end",
        timeout_s=START_S,
        describe=slurm.logs,
    )
    first = decisions(folder)[0]
    assert (first["action"], "what it has written is kept" in first["reason"]) == ("requeue", True)
    ours, alone = zarr.open_group(tmp_path / "embeddings.zarr"), zarr.open_group(tmp_path / "alone.zarr")
    for column in ("record", "mean", "embedded", "subject"):
        np.testing.assert_array_equal(ours[column][:], alone[column][:])
    slurm.wait_idle()


def decisions(folder: Path) -> list[dict]:
    return [files.try_read_json(attempt / "decision.json") or {} for attempt in list_attempts(folder)]


def test_fine_tuning_on_two_nodes_is_followed_to_its_end(
    slurm: MiniCluster, submit_verb, uninterrupted: Run, source: Path, shards: Path, tmp_path: Path
):
    labels, out = tmp_path / "labels.zarr", tmp_path / "tuned"
    run_lamae("labels", str(shards), str(source / "records_w_diag_icd10.csv"), str(labels), "--min-count", "10")
    options = ["steps=2", "global_batch_size=8", "micro_batch_size=4", "evaluate_every=2"]
    words = ["finetune", str(uninterrupted.dir), str(shards), str(labels), str(out), *options]
    text = submit_verb(*words, "--transductive", "--wait")
    assert "rank 0 ended with 0" in text
    assert text.count("weights and result:") == 1  # one rank speaks
    assert json.loads((out / "finetune.json").read_text())["codes"]
    [attempt] = (tmp_path / "jobs").glob("*/attempts/*")
    assert [[end.code for end in report.ranks] for report in read_reports(attempt)] == [[0], [0]]
    slurm.wait_idle()


def test_a_verb_of_one_process_gets_one_node_and_one_gpu(slurm: MiniCluster, submit_verb, shards: Path, tmp_path: Path):
    words = ["inspect", str(shards), "--save", str(tmp_path / "plot.png")]
    text = submit_verb(*words, "--wait", profile=("nodes=2", "gpus_per_node=2"))
    [job_id] = re.findall(r"job (\d+):", text)
    job = slurm.job(job_id)
    assert (job["NumNodes"], job["TresPerNode"]) == ("1", "gres:gpu:1")
    assert (tmp_path / "plot.png").is_file()
    slurm.wait_idle()


def test_scaling_is_measured_across_the_nodes_of_the_job(slurm: MiniCluster, submit_verb, tmp_path: Path):
    words = [
        "bench",
        "scaling",
        "--quick",
        "--zero",
        "1",
        "--processes",
        "2,4",
        "--json",
        str(tmp_path / "scaling.json"),
    ]
    text = submit_verb(*words, "--wait", profile=("nodes=2", "ranks_per_node=2"))
    assert text.count("weak_2_4_zero1") == 1  # one rank speaks
    result = json.loads((tmp_path / "scaling.json").read_text())
    assert result["ratios"].keys() == {"weak_2_4", "weak_2_4_zero1"}
    assert (result["settings"]["nodes"], result["settings"]["interface"]) == (2, "eth0")
    within, across = (
        result["measurements"][f"zero1_{name}"]["sent_bytes_per_rank"]
        for name in ("2_processes_8_records", "4_processes_16_records")
    )
    # Two ranks are on the first node, four on both; what is sent has headers too.
    assert within["computed"] < within["interfaces"]["lo"] < 1.5 * within["computed"]
    assert within["interfaces"]["eth0"] < 0.1 * within["computed"]
    assert across["interfaces"]["eth0"] > 0.3 * across["computed"]
    assert across["computed"] < sum(across["interfaces"].values()) < 2 * across["computed"]
    slurm.wait_idle()


def test_more_ranks_than_the_job_has_end_it_for_good(slurm: MiniCluster, submit_verb, tmp_path: Path):
    words = ["bench", "scaling", "--quick", "--processes", "1,4", "--folder", str(tmp_path / "jobs"), "--wait"]
    with pytest.raises(AssertionError, match="exit code 2"):
        submit_verb(*words)
    slurm.wait_idle()


def test_what_slurm_refuses_is_one_line_and_leaves_nothing(slurm: MiniCluster, shards: Path, tmp_path: Path):
    command = [
        *(*LAMAE, "submit", "train", *TRAINING, f"run.dir={tmp_path / 'run'}", f"data.path={shards}"),
        *("--cluster", CPU_PROFILE, *profile_options("partition=nowhere")),
    ]
    refused = slurm.popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    _, said = refused.communicate()
    assert refused.returncode == 1
    assert said.startswith("lamae: sbatch refused the job: invalid partition")
    assert said.count("\n") == 1
    assert list((tmp_path / "run" / "jobs").iterdir()) == []
