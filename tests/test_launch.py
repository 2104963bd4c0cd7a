"""Several ranks started from one process: it does not leave before they have saved."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lamae.train.checkpoint import list_checkpoints
from tests.runs import losses, tiny_config, write_config, write_tiny_shards

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = """
import signal, sys
from pathlib import Path
from lamae.launch import train_locally
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started these tests with it ignored
sys.exit(train_locally(sys.argv[1], [], num_processes=2, log_path=Path(sys.argv[2])))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_ends_it_with_every_step_saved(number: signal.Signals, tmp_path: Path) -> None:
    shards = write_tiny_shards(tmp_path / "set")
    run = tmp_path / "run"
    config = write_config(tiny_config(shards, run, "train.steps=100000"), tmp_path / "run.yaml")
    parent = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(config), str(tmp_path / "log")],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and parent.poll() is None:
        if (run / "metrics.jsonl").exists() and max(losses(run), default=0) > 5:
            break
        time.sleep(0.01)
    os.killpg(parent.pid, number)
    parent.wait(timeout=100)
    with pytest.raises(ProcessLookupError):  # nobody of the group is left behind
        os.killpg(parent.pid, 0)
    assert [info.step for info in list_checkpoints(run / "checkpoints")] == [max(losses(run))]
    assert parent.returncode == (128 + number if number == signal.SIGTERM else -signal.SIGINT)
