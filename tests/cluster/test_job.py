"""The node's own program, on this machine: ranks that end well, are stopped, crash, hang or never learn."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lamae.base import files
from lamae.cluster.policy import DONE, REQUEUE, STOP
from lamae.cluster.profile import Profile
from lamae.cluster.submission import Submission, list_attempts
from tests.runs import descendants, suspend

# A rank that behaves as its file PLAN/RANK says, one line per start: an exit code, a signal to die of, or "wait".
RANK = """
import os, pathlib, signal, sys, time
plan, run = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
rank = os.environ["RANK"]
lines = (plan / rank).read_text().split()
(plan / rank).write_text("\\n".join(lines[1:]))
stops = []
signal.signal(signal.SIGUSR2, lambda number, frame: stops.append(number))
(plan / f"started-{rank}").touch()
todo = lines[0]
if todo.endswith("+"):  # gets further first
    (run / "checkpoints" / f"step-{len(lines):08d}").mkdir(parents=True)
    todo = todo[:-1]
while todo == "wait":
    time.sleep(0.05)
    if stops:
        sys.exit(75)
if int(todo) < 0:
    os.kill(os.getpid(), -int(todo))
sys.exit(int(todo))
"""

JOB = "import sys; from cluster import job; job.FAILED_GRACE_S = 1.0; job.NodeJob(sys.argv[1])()"


@pytest.fixture
def job(tmp_path):
    """Starts a local job of two ranks: ``job(rank 0's plan, rank 1's plan)`` gives its process and folder."""
    started = []

    def start(*plans: str, max_restarts: int = 3, stall_s: int = 0) -> tuple[subprocess.Popen, Path]:
        folder, run = tmp_path / "job", tmp_path / "run"
        (folder / "plan").mkdir(parents=True)
        (folder / "rank.py").write_text(RANK)
        for rank, plan in enumerate(plans):
            (folder / "plan" / str(rank)).write_text(plan)
        argv = [str(folder / "rank.py"), str(folder / "plan"), str(run)]
        profile = Profile(
            kind="local", ranks_per_node=len(plans), max_restarts=max_restarts, backoff_s=0, stall_s=stall_s
        )
        Submission("train", argv, profile, run_dir=str(run)).write(folder)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
        process = subprocess.Popen([sys.executable, "-c", JOB, str(folder)], env=environment)
        started.append(process)
        return process, folder

    yield start
    for process in started:
        process.kill()
        process.wait()


def decisions(folder: Path) -> list[dict]:
    return [json.loads((attempt / "decision.json").read_text()) for attempt in list_attempts(folder)]


def test_ranks_that_end_well(job):
    process, folder = job("0", "0")
    assert process.wait(30) == 0
    assert [entry["action"] for entry in decisions(folder)] == [DONE]


def test_a_killed_rank_ends_the_hanging_one_and_the_job_goes_on_with_a_fresh_port(job):
    process, folder = job("wait 0", "-9+ 0")
    assert process.wait(30) == 0
    assert [entry["action"] for entry in decisions(folder)] == [REQUEUE, DONE]
    first = json.loads((list_attempts(folder)[0] / "node-0.json").read_text())["ranks"]
    assert [(end["code"], end["killed_by_us"]) for end in first] == [(-6, True), (-9, False)]
    ports = {(files.try_read_json(attempt / "rendezvous.json") or {})["port"] for attempt in list_attempts(folder)}
    assert len(ports) == 2


def test_a_checkpoint_below_a_damaged_one_is_progress(job, tmp_path):
    damaged = tmp_path / "run" / "checkpoints" / "step-00000008"
    damaged.mkdir(parents=True)
    os.utime(damaged, (1, 1))
    process, folder = job("75+ 0", "75 0")
    assert process.wait(30) == 0
    first, last = decisions(folder)
    assert (first["action"], first["is_failure"], first["step"], last["action"]) == (REQUEUE, False, 2, DONE)


def test_ranks_do_not_outlive_the_program_that_started_them(job):
    process, folder = job("wait", "wait")
    started = [folder / "plan" / f"started-{rank}" for rank in (0, 1)]
    while not all(path.exists() for path in started):
        assert process.poll() is None
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 2
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline


def test_a_rank_that_is_stopped_before_it_listens_takes_the_others_along(job):
    process, folder = job("wait 0", "-10 0")
    assert process.wait(30) == 0
    assert [entry["action"] for entry in decisions(folder)] == [REQUEUE, DONE]


def test_a_stalled_run_is_ended_with_its_stacks_and_restarted(job):
    process, folder = job("wait+ 0", "wait 0", stall_s=1)
    assert process.wait(30) == 0
    assert [entry["action"] for entry in decisions(folder)] == [REQUEUE, DONE]


def test_a_job_that_was_suspended_for_longer_than_a_stall_goes_on(job):
    process, folder = job("wait+ 0", "wait 0", stall_s=2)
    started = [folder / "plan" / f"started-{rank}" for rank in (0, 1)]
    while not all(path.exists() for path in started):
        assert process.poll() is None
    suspend(descendants(process.pid), 4)
    time.sleep(0.5)  # for the watcher to have looked
    process.send_signal(signal.SIGUSR2)
    assert process.wait(30) == 0
    assert [(entry["action"], entry["is_failure"]) for entry in decisions(folder)] == [(REQUEUE, False), (DONE, False)]


def test_a_hang_that_the_watchdog_ends_before_any_checkpoint_is_restarted(job):
    process, folder = job("76 0", "wait 0")
    assert process.wait(30) == 0
    assert [entry["action"] for entry in decisions(folder)] == [REQUEUE, DONE]


def test_restarts_are_bounded(job):
    process, folder = job("-9 -9 -9", "0 0 0", max_restarts=2)
    assert process.wait(30) == 1
    assert [entry["action"] for entry in decisions(folder)] == [REQUEUE, REQUEUE, STOP]


def test_usage_errors_and_errors_of_the_code_are_not_tried_again(job):
    process, folder = job("2", "wait")
    assert process.wait(30) == 2
    assert [entry["action"] for entry in decisions(folder)] == [STOP]


def test_a_cancelled_job_is_not_started_again(job):
    process, folder = job("wait+ 0", "wait 0")
    started = [folder / "plan" / f"started-{rank}" for rank in (0, 1)]
    while not all(path.exists() for path in started):
        assert process.poll() is None
    (folder / "cancelled").touch()
    process.send_signal(signal.SIGUSR2)
    assert process.wait(30) == 1
    assert [(entry["action"], entry["reason"]) for entry in decisions(folder)] == [(STOP, "cancelled")]


def test_a_stop_request_reaches_every_rank(job):
    process, folder = job("wait+ 0", "wait 0")
    started = [folder / "plan" / f"started-{rank}" for rank in (0, 1)]
    while not all(path.exists() for path in started):
        assert process.poll() is None
    process.send_signal(signal.SIGUSR2)
    assert process.wait(30) == 0
    assert [entry["action"] for entry in decisions(folder)] == [REQUEUE, DONE]
