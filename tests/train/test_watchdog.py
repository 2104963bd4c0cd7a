"""A hang ends the process with the stacks in the run directory."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lamae.base.errors import EXIT_HUNG
from lamae.train.config import MonitorConfig
from lamae.train.ranks.watchdog import MIN_STEPS, Watchdog

HANGING = """
import sys, time
from pathlib import Path
from lamae.train.config import MonitorConfig
from lamae.train.ranks.watchdog import Watchdog

def wait_for_a_rank_that_never_comes():
    time.sleep(60)

with Watchdog(Path(sys.argv[1]), rank=3, config=MonitorConfig(hang_factor=5, hang_floor_s=0.3)) as watchdog:
    for _ in range(int(sys.argv[2])):
        time.sleep(0.01)
        watchdog.beat()
    wait_for_a_rank_that_never_comes()
"""


def exit_code_of_a_hang(run_dir: Path, *, after_steps: int) -> int:
    command = [sys.executable, "-c", HANGING, str(run_dir), str(after_steps)]
    return subprocess.run(command, capture_output=True, timeout=50, check=False).returncode


STEPPING = """
import sys, time
from pathlib import Path
from lamae.train.config import MonitorConfig
from lamae.train.ranks.watchdog import Watchdog

with Watchdog(Path(sys.argv[1]), rank=0, config=MonitorConfig(hang_factor=1, hang_floor_s=4.0)) as watchdog:
    for _ in range(10):
        for _ in range(10):
            time.sleep(0.03)
        watchdog.beat()
        print("step", flush=True)
"""


def test_a_process_that_is_stopped_and_goes_on_does_not_hang(tmp_path: Path) -> None:
    command = [sys.executable, "-c", STEPPING, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(4):
            process.stdout.readline()
        time.sleep(0.1)  # within a step
        process.send_signal(signal.SIGSTOP)
        time.sleep(6)  # beyond the limit, which is beyond what a busy machine adds to a step
        process.send_signal(signal.SIGCONT)
        assert process.wait(50) == 0
    assert not list(tmp_path.iterdir())


def test_work_between_steps_has_a_limit_of_its_own_where_ranks_wait_in_it(tmp_path: Path) -> None:
    between = HANGING.replace("hang_floor_s=0.3)", "hang_floor_s=0.3), between_s=0.5")
    between = between.replace("    wait_for", "    with watchdog.paused(): wait_for")
    command = [sys.executable, "-c", between, str(tmp_path), "5"]
    assert subprocess.run(command, capture_output=True, timeout=50, check=False).returncode == EXIT_HUNG


@pytest.mark.parametrize("steps", [0, 5])
def test_a_hang_writes_the_stacks_and_exits_with_a_code_of_its_own(tmp_path: Path, steps: int) -> None:
    assert exit_code_of_a_hang(tmp_path, after_steps=steps) == EXIT_HUNG == 76
    assert "wait_for_a_rank_that_never_comes" in (tmp_path / "hang-rank-00003.txt").read_text()


def test_a_hang_ends_the_process_also_where_the_stacks_cannot_be_written(tmp_path: Path) -> None:
    assert exit_code_of_a_hang(tmp_path / "is-not-there", after_steps=5) == EXIT_HUNG


def test_the_limit_follows_the_median_step_and_never_falls_below_the_floor(tmp_path: Path) -> None:
    watchdog = Watchdog(tmp_path, rank=0, config=MonitorConfig(hang_factor=4, hang_floor_s=0.01))
    assert watchdog.limit_s == 0.01
    for _ in range(MIN_STEPS):
        time.sleep(0.02)
        watchdog.beat()
    assert 0.08 <= watchdog.limit_s < 2
    patient = Watchdog(tmp_path, rank=0, config=MonitorConfig(hang_factor=4, hang_floor_s=100))
    for _ in range(MIN_STEPS):
        patient.beat()
    assert patient.limit_s == 100


def test_pauses_do_not_count(tmp_path: Path) -> None:
    with Watchdog(tmp_path, rank=0, config=MonitorConfig(hang_factor=1, hang_floor_s=0.2)) as watchdog:
        for _ in range(MIN_STEPS):
            watchdog.beat()
        with watchdog.paused():
            time.sleep(0.6)
    assert not list(tmp_path.iterdir())
