"""The trainer as a user starts it: every launcher, exit codes, and a kill without warning."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lamae.base.errors import EXIT_DONE
from lamae.base.processes import free_port
from lamae.train.loop import train
from tests.distributed.launch import ROOT
from tests.runs import assert_same_state, losses, tiny_config, write_config

TRAIN = [sys.executable, "-m", "lamae", "train"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1"]
DEEPSPEED = ["--num_accelerators=2", "--master_addr=127.0.0.1", "--module", "lamae", "train"]
TIMEOUT_S = 200


def environment() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu"}


def run(command: list[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )


@pytest.fixture(scope="module")
def alone(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run by a single rank in this process."""
    run_dir: Path = tmp_path_factory.mktemp("alone")
    train(tiny_config(shards, run_dir, "engine.precision=fp32", "train.steps=12"))
    return run_dir


@pytest.mark.parametrize("launcher", ["torchrun", "deepspeed"])
def test_two_ranks_of_a_launcher_train_like_one(launcher: str, shards: Path, alone: Path, tmp_path: Path) -> None:
    config = write_config(tiny_config(shards, tmp_path / "run", "engine.precision=fp32"), tmp_path / "run.yaml")
    port = free_port()
    command = {
        "torchrun": [*TORCHRUN, f"--master-port={port}", "-m", "lamae", "train"],
        "deepspeed": [str(Path(sys.executable).with_name("deepspeed")), f"--master_port={port}", *DEEPSPEED],
    }[launcher]
    done = run([*command, str(config), "train.steps=12", "train.stop_at=2"])
    assert done.returncode == EXIT_DONE, done.stdout + done.stderr
    assert "2 ranks x 1 micro-batches x 4 records" in done.stdout + done.stderr
    expected = losses(alone)
    assert losses(tmp_path / "run") == pytest.approx({step: expected[step] for step in (1, 2)}, rel=1e-5)


def test_a_run_killed_twice_ends_like_one_that_was_not(shards: Path, alone: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    overrides = ("engine.precision=fp32", "train.steps=12", "checkpoint.every=2")
    config = tiny_config(shards, run_dir, *overrides)
    path = write_config(config, tmp_path / "run.yaml")
    for first_step in (1, 4):
        process = subprocess.Popen(
            [*TRAIN, str(path)], cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + TIMEOUT_S
        while process.poll() is None and time.monotonic() < deadline:
            if (run_dir / "metrics.jsonl").exists() and max(losses(run_dir), default=0) > first_step:
                break
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert train(config) == EXIT_DONE
    assert losses(run_dir) == losses(alone)
    assert_same_state(run_dir, alone)


def test_a_configuration_that_cannot_work_exits_with_2_and_one_line(shards: Path, tmp_path: Path) -> None:
    path = write_config(tiny_config(shards, tmp_path / "run"), tmp_path / "run.yaml")
    done = run([*TRAIN, str(path), "engine.zero_stage=0", "engine.precision=bf16"])
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "engine.zero_stage=0 with engine.precision=bf16 is refused" in done.stderr
