"""Training runs on the test cluster: what they are, what can be waited for, and what is to be found afterwards."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lamae.base import files
from lamae.base.rowfile import read_rows
from lamae.base.rundirectory import RunDirectory
from lamae.cluster.submission import list_attempts
from tests.slurm.minicluster import MiniCluster, wait_until

LAMAE = (sys.executable, "-m", "lamae")
CPU_PROFILE = "configs/cluster/cpu-partition.yaml"
STEPS = 100
TRAINING = [
    "configs/pretrain/tiny.yaml",
    *(f"train.steps={STEPS}", "train.num_threads=1", "train.global_batch_size=8", "train.micro_batch_size=4"),
    *("model.width=64", "model.depth=2", "model.latent_depth=1", "model.decoder_width=32"),
    *("engine.precision=fp32", "checkpoint.every=5", "monitor.log_every=1", "monitor.figures_every=0"),
]
PROFILE = [
    *("partition=debug", "cpus_per_node=2", "mem_gb=4", "backoff_s=1", "time_min=30", "save_before_end_s=119"),
    *("environment.OMP_NUM_THREADS=1", "environment.PYTHONDONTWRITEBYTECODE=1"),
]
# Generous: on a busy machine the trainer may take half a minute to start. Tests wait for events, not for time.
START_S, END_S = 240, 420


def profile_options(*further: str) -> list[str]:
    """Options of the command line that fit the profile to the test cluster."""
    return [option for value in (*PROFILE, *further) for option in ("--set", value)]


def run_lamae(*arguments: str) -> None:
    done = subprocess.run([*LAMAE, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@dataclasses.dataclass
class Run:
    """A training run that was submitted to the cluster."""

    cluster: MiniCluster
    dir: Path

    @property
    def folder(self) -> Path:
        """Of the newest job of the run."""
        return max((self.dir / "jobs").iterdir())

    @property
    def job_id(self) -> str:
        """Slurm's number, another one once the job has been submitted anew."""
        return (self.folder / "job_id").read_text().strip()

    def wait_for_step(self, step: int) -> None:
        """Until a checkpoint of that step or a later one is published."""
        wait_until(
            lambda: RunDirectory(self.dir).newest_step() >= step,
            f"step {step}",
            timeout_s=START_S,
            poll_s=0.05,
            describe=self.describe,
        )

    @contextlib.contextmanager
    def paused_at(self, step: int) -> Iterator[None]:
        """Hold both ranks still soon after that step: what is done to the run meanwhile cannot come too late."""
        self.wait_for_step(step)
        pids = [self.rank_pid(rank) for rank in (0, 1)]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def wait_for_log(self, text: str) -> None:
        """Until the logs of both nodes say so."""
        logs = [self.folder / "logs" / f"{self.job_id}_{node}_log.out" for node in (0, 1)]
        wait_until(
            lambda: all(text in log.read_text() for log in logs), text, timeout_s=START_S, describe=self.describe
        )

    def wait_for_restart(self, restart: int = 1) -> None:
        wait_until(
            lambda: int(self.cluster.job(self.job_id).get("Restarts", 0)) >= restart,
            f"restart {restart}",
            timeout_s=END_S,
            describe=self.describe,
        )

    def wait_done(self) -> None:
        """Until the job has ended well and nothing of it is left on any node."""
        wait_until(self.last_decision, "an end", timeout_s=END_S, describe=self.describe)
        assert self.last_decision()["action"] == "done", self.describe()
        self.cluster.wait_idle()

    def last_decision(self) -> dict[str, Any]:
        """The decision that ended the job; empty while it goes on."""
        attempts = list_attempts(self.folder)
        decision = (files.try_read_json(attempts[-1] / "decision.json") if attempts else None) or {}
        return {} if decision.get("action") == "requeue" else decision

    def decisions(self) -> list[dict[str, Any]]:
        """What was decided after each attempt; empty where Slurm itself ended the attempt."""
        return [files.try_read_json(attempt / "decision.json") or {} for attempt in list_attempts(self.folder)]

    def curve(self) -> list[tuple[int, int, float]]:
        """Step, samples and loss of every step, as in metrics.jsonl."""
        return [(row["step"], row["samples"], row["loss"]) for row in read_rows(self.dir / "metrics.jsonl")]

    def rank_pid(self, rank: int) -> int:
        """Process id, on this machine, of a rank of the run."""
        return find_rank(f"{self.folder}/config.yaml", rank)

    def describe(self) -> str:
        logs = [f"== {path}\n{path.read_text()[-3000:]}" for path in sorted(self.folder.glob("logs/*.out"))]
        return "\n".join([*logs, str(self.cluster.job(self.job_id)), self.cluster.logs()])


def find_rank(argument: str, rank: int) -> int:
    """Process id, on this machine, of the rank that was started with that argument; waits for it to start."""

    def find() -> int | None:
        for process in Path("/proc").iterdir():
            if process.name.isdigit():
                try:
                    arguments = (process / "cmdline").read_bytes().split(b"\0")
                    environment = (process / "environ").read_bytes().split(b"\0")
                except OSError:
                    continue
                if argument.encode() in arguments and f"RANK={rank}".encode() in environment:
                    return int(process.name)
        return None

    pid: int = wait_until(find, f"rank {rank} of {argument}", timeout_s=START_S, poll_s=0.05)
    return pid


Submit = Callable[..., Run]
