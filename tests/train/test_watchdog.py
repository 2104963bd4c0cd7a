"""A hang ends the process with the stacks in the run directory."""

import subprocess
import sys
import time
from pathlib import Path

from lamae.train.config import MonitorConfig
from lamae.train.watchdog import EXIT_HUNG, MIN_STEPS, Watchdog

HANGING = """
import sys, time
from pathlib import Path
from lamae.train.config import MonitorConfig
from lamae.train.watchdog import Watchdog

def wait_for_a_rank_that_never_comes():
    time.sleep(60)

with Watchdog(Path(sys.argv[1]), rank=3, config=MonitorConfig(hang_factor=5, hang_floor_s=0.3)) as watchdog:
    for _ in range(5):
        time.sleep(0.01)
        watchdog.beat()
    wait_for_a_rank_that_never_comes()
"""


def test_a_hang_writes_the_stacks_and_exits_with_an_error(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", HANGING, str(tmp_path)], capture_output=True, timeout=50, check=False)
    assert done.returncode == EXIT_HUNG
    assert "wait_for_a_rank_that_never_comes" in (tmp_path / "hang-rank-00003.txt").read_text()


def test_the_limit_follows_the_median_step_and_never_falls_below_the_floor(tmp_path: Path) -> None:
    watchdog = Watchdog(tmp_path, rank=0, config=MonitorConfig(hang_factor=4, hang_floor_s=0.01))
    assert watchdog.limit_s == float("inf")
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
