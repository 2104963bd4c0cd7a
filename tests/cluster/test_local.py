"""``lamae submit`` on this machine, from the command line to the result."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


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


def test_cancel_wants_to_know_whose(lamae):
    done = lamae("jobs", "--cancel")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
