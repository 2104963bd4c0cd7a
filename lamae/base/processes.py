"""Processes that this one starts, ranks of a job or runs of a study: how they begin and how they end.

They are given their environment whole, end with the process that started them, and are asked to leave before they are
killed. Imports nothing heavy.
"""

import contextlib
import ctypes
import os
import platform
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

from lamae.base import signals
from lamae.base.awake import patiently
from lamae.base.errors import LamaeError
from lamae.base.place import LOOPBACK, Place

Process = subprocess.Popen[bytes]
POLL_S = 0.2
# Ranks that are asked to stop save first; this is how long they may take.
STOP_GRACE_S = 60.0
_KILL_WAIT_S = 5.0
_EPHEMERAL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")  # ip(7): of outgoing connections, and of bind to 0
_PORT_TRIES = 100
_PR_SET_PDEATHSIG = 1  # prctl(2): the signal that a process gets when the thread that started it ends


def start(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    log: Path | None = None,
    orphaned: signal.Signals = signal.SIGKILL,
    own_session: bool = False,
    pass_fds: Collection[int] = (),
) -> Process:
    """Run ``sys.executable`` with ``command`` under this process's environment, changed by ``environment``.

    Output goes to ``log`` (appended) or is inherited. ``orphaned`` is what it gets where this process dies (on Linux).
    In a session of its own it hears signals from this process alone.
    """
    prctl, parent = getattr(ctypes.PyDLL(None), "prctl", None), os.getpid()  # no lock is waited for after the fork

    def die_with_parent() -> None:
        assert prctl is not None
        prctl(_PR_SET_PDEATHSIG, orphaned)
        if os.getppid() != parent:  # it was gone before that
            os.kill(os.getpid(), orphaned)

    with log.open("ab") if log else contextlib.nullcontext() as output:
        return subprocess.Popen(
            [sys.executable, *command],
            env={**os.environ, **environment},
            stdout=output,
            stderr=subprocess.STDOUT if log else None,
            start_new_session=own_session,
            pass_fds=pass_fds,
            preexec_fn=die_with_parent if prctl else None,
        )


def signal_all(processes: Iterable[Process], number: int) -> None:
    """Those that have not ended."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)


def stop(
    processes: Collection[Process], *, grace_s: float = STOP_GRACE_S, first: signal.Signals = signal.SIGTERM
) -> None:
    """Ask all to leave with the signal ``first``, wait for them, and kill what is still there after ``grace_s``."""
    signal_all(processes, first)
    for _ in patiently(grace_s, poll_s=POLL_S):
        if all(process.poll() is not None for process in processes):
            return
    signal_all(processes, signal.SIGKILL)
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):  # one that hangs in the kernel, where no signal reaches it
            process.wait(_KILL_WAIT_S)


def train_locally(
    config_path: str,
    overrides: Sequence[str],
    *,
    num_processes: int,
    log_path: Path | None = None,
    on_poll: Callable[[], None] = lambda: None,
) -> int:
    """Run ``lamae train`` as ``num_processes`` ranks of one group over loopback; the first non-zero exit code, or 0.

    Output goes to ``log_path`` (appended) or is inherited. ``on_poll`` is called a few times a second while ranks
    run. When a rank fails, or this process gets SIGTERM, SIGHUP or Ctrl-C, the ranks are asked to stop, which they do
    after saving, and killed if they do not; SIGTERM and SIGHUP then end this process as SystemExit.
    """
    command, port = ["-m", "lamae", "train", config_path, *overrides], free_port()
    ranks: list[Process] = []
    # Leaving before the ranks have saved would let the next start meet them still at it.
    with signals.leaving_on_request(lambda: stop(ranks)):
        for rank in range(num_processes):
            place = Place(rank, rank, num_processes, num_processes, LOOPBACK, port)
            ranks.append(start(command, place.environment(), log=log_path, orphaned=signal.SIGTERM))
        while True:
            codes = [rank.poll() for rank in ranks]
            failed = [code for code in codes if code not in (None, 0)]
            if failed or all(code == 0 for code in codes):
                return failed[0] if failed else 0
            on_poll()
            time.sleep(POLL_S)


def free_port(address: str = LOOPBACK) -> int:
    """A TCP port that nothing listens on at this moment, on one address of this machine or, given ``""``, on any.

    Where there is one, outside the range from which the kernel numbers outgoing connections: one of those could take
    the port in the seconds before a rank listens on it.
    """
    try:
        least, most = map(int, _EPHEMERAL_PORTS.read_text().split())
    except OSError:
        least, most = 49_152, 65_535
    choices = [port for port in range(10_000, 65_536) if not least <= port <= most]
    for port in random.SystemRandom().sample(choices, min(len(choices), _PORT_TRIES)):
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind((address, port))
            return port
    with socket.socket() as listener:
        listener.bind((address, 0))
        return int(listener.getsockname()[1])


def usable_cores() -> int:
    """Cores that this process may run on: fewer than the machine's in a container or a job."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_name() -> str:
    """Such as "AMD EPYC 9R14": on Linux from the kernel, since Python knows no more than the architecture there."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


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
