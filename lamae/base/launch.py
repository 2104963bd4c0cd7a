"""Start the trainer with several processes on this machine: what torchrun does, without a rendezvous to wait for."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from lamae.base import signals
from lamae.base.awake import patiently
from lamae.base.errors import LamaeError

POLL_S = 0.2
# Ranks that are asked to stop save first; this is how long they may take.
STOP_GRACE_S = 60.0


def train_locally(
    config_path: str,
    overrides: Sequence[str],
    *,
    num_processes: int,
    log_path: Path | None = None,
    on_poll: Callable[[], None] | None = None,
) -> int:
    """Run ``lamae train`` as ``num_processes`` ranks of one group over loopback; the first non-zero exit code, or 0.

    Output goes to ``log_path`` (appended) or is inherited. ``on_poll`` is called a few times a second while ranks
    run. When a rank fails, or this process gets SIGTERM, SIGHUP or Ctrl-C, the ranks are asked to stop, which they do
    after saving, and killed if they do not; SIGTERM and SIGHUP then end this process as SystemExit.
    """
    environment = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(num_processes),
        "LOCAL_WORLD_SIZE": str(num_processes),
    }
    command = [sys.executable, "-m", "lamae", "train", config_path, *overrides]
    log = log_path.open("ab") if log_path is not None else None
    ranks: list[subprocess.Popen[bytes]] = []
    try:
        # Leaving before the ranks have saved would let the next start meet them still at it.
        with signals.leaving_on_request(lambda: _stop(ranks)):
            for rank in range(num_processes):
                ranks.append(
                    subprocess.Popen(
                        command,
                        env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                        stdout=log,
                        stderr=subprocess.STDOUT if log else None,
                    )
                )
            while True:
                codes = [rank.poll() for rank in ranks]
                failed = [code for code in codes if code not in (None, 0)]
                if failed or all(code == 0 for code in codes):
                    return failed[0] if failed else 0
                if on_poll is not None:
                    on_poll()
                time.sleep(POLL_S)
    finally:
        if log is not None:
            log.close()


def free_port(address: str = "127.0.0.1") -> int:
    """A TCP port that nothing listens on at this moment, on one address of this machine or, given ``""``, on any."""
    with socket.socket() as listener:
        listener.bind((address, 0))
        return int(listener.getsockname()[1])


def usable_cores() -> int:
    """Cores that this process may run on: fewer than the machine's in a container or a job."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def last_lines(path: Path, count: int = 5) -> str:
    """The end of a log, for the message of an error; empty when there is no log."""
    try:
        return " | ".join(line.strip() for line in path.read_text(errors="replace").splitlines()[-count:])
    except OSError:
        return ""


def check_exit(code: int, log_path: Path) -> None:
    """Raises LamaeError that names the log and its last lines when training failed."""
    if code != 0:
        raise LamaeError(f"training ended with exit code {code}; see {log_path}: {last_lines(log_path)}")


def _stop(ranks: list[subprocess.Popen[bytes]]) -> None:
    for rank in ranks:
        if rank.poll() is None:
            rank.terminate()
    for _ in patiently(STOP_GRACE_S, poll_s=POLL_S):
        if all(rank.poll() is not None for rank in ranks):
            return
    for rank in ranks:
        rank.kill()
        rank.wait()
