"""``lamae submit`` on this machine, from the command line to the result."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lamae.cluster.jobs import local_alive
from tests.runs import descendants, losses, suspend, tiny_config, wait_for_step, write_config, write_tiny_shards


@pytest.fixture
def lamae(tmp_path):
    """Runs the command line in an empty directory: ``lamae(*arguments)``."""

    def run(*arguments: str) -> subprocess.CompletedProcess:
        environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state"), "COLUMNS": "200"}
        command = [sys.executable, "-m", "lamae", *arguments]
        # PYTHONPATH: the checkout, where lamae is not installed
        environment["PYTHONPATH"] = os.pathsep.join([str(Path.cwd()), environment.get("PYTHONPATH", "")])
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)

    return run


def test_a_verb_with_options_runs_to_its_end_and_is_listed(lamae, tmp_path):
    done = lamae("submit", "synth", "ecgs", "--records", "3", "--subjects", "2", "--wait")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "ecgs" / "record_list.csv").is_file()
    assert "ended with 0" in done.stdout  # the log was followed
    listed = lamae("jobs").stdout
    assert "synth" in listed
    assert "done" in listed


def test_a_usage_error_of_the_verb_is_the_jobs_exit_code_and_not_retried(lamae, tmp_path):
    done = lamae("submit", "verify", "nowhere", "--wait")
    assert done.returncode == 2
    assert "exit code 2" in done.stderr
    [attempt] = (tmp_path / "lamae-jobs").glob("*/attempts/*")
    assert attempt.name.endswith("-0")


def test_doctor_leaves_nothing_and_is_no_job_of_the_user(lamae, tmp_path):
    done = lamae("doctor", "--set", "ranks_per_node=1", "--out", "runs")
    assert "gradients against plain torch" in done.stdout
    assert "no jobs submitted from here" in lamae("jobs").stdout
    assert [path.name for path in tmp_path.iterdir() if path.name != "state"] == []


def test_cancel_wants_to_know_whose(lamae):
    done = lamae("jobs", "--cancel")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


def test_a_suspended_training_goes_on_when_it_wakes_and_spends_no_restart(lamae, tmp_path):
    run = tmp_path / "run"
    config = tiny_config(write_tiny_shards(tmp_path / "set"), run, "train.steps=100000", "monitor.hang_floor_s=4")
    config.monitor.hang_factor = 1
    path = write_config(config, tmp_path / "run.yaml")
    lamae("submit", "train", str(path), "--set", "ranks_per_node=2", "--set", "stall_s=60")
    [job] = (run / "jobs").iterdir()
    controller = (job / "job_id").read_text().strip()

    class Controller:
        poll = staticmethod(lambda: None if local_alive(job, controller) else 1)

    wait_for_step(Controller, run)
    suspend(descendants(int(controller)), 7)
    wait_for_step(Controller, run, max(losses(run)) + 20)
    assert lamae("jobs", str(run), "--cancel").returncode == 0
    while Controller.poll() is None:
        pass
    [decision] = job.glob("attempts/*/decision.json")
    decided = json.loads(decision.read_text())
    assert (decided["reason"], decided["is_failure"], decided["step"]) == ("cancelled", False, max(losses(run)))
