"""Benchmarks as processes: under a launcher their ranks are the launcher's, and nothing outlives who asked for it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.ranks import RankPool
from sharding.errors import LamaeError

ROOT = Path(__file__).parents[2]


def test_scaling_under_torchrun_is_that_of_its_ranks(tmp_path):
    out = tmp_path / "scaling.json"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1"]
    words = ["bench", "scaling", "--quick", "--zero", "1", "--mode", "weak,strong", "--json", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    done = subprocess.run(
        [*launcher, "-m", "lamae", *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("weak_1_2_zero1") == 1  # one rank speaks
    result = json.loads(out.read_text())
    assert (result["settings"]["processes"], result["settings"]["nodes"]) == ([1, 2], 1)
    assert result["settings"]["interface"] == "lo"
    together = result["measurements"]["zero1_2_processes_8_records"]
    assert together["sent_bytes_per_rank"]["collectives"] == pytest.approx(
        together["sent_bytes_per_rank"]["computed"], rel=0.01
    )
    assert together["phase_s"]["communication"] > 0
    assert sum(together["phase_s"].values()) == pytest.approx(together["step_s"], rel=0.5)


def test_a_killed_benchmark_takes_its_processes_and_folders_along(tmp_path):
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-m", "lamae", "bench", "all", "--quick"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    until = time.monotonic() + 60
    while not list(tmp_path.glob("lamae-bench-*/source")) and time.monotonic() < until:
        time.sleep(0.05)
    assert list(tmp_path.glob("lamae-bench-*/source"))
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)  # returns once everything that it started has let go of the pipe too
    assert list(tmp_path.glob("lamae-bench-*")) == []


def end_abruptly(session):
    os._exit(3)


def refuse(session):
    raise ValueError("no such thing")


def test_a_rank_that_fails_or_dies_is_told_with_its_number():
    with RankPool(2) as pool:
        with pytest.raises(LamaeError, match=r"rank 0 of 2: (.|\n)*no such thing"):
            pool.call(refuse)
        with pytest.raises(LamaeError, match="rank 0 of 2: the process ended with 3"):
            pool.call(end_abruptly)
        with pytest.raises(LamaeError, match="the process ended with 3"):
            pool.call(refuse)
