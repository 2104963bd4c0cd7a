"""Ranks for benchmarks: processes of this machine that form a job, started once, pinned to their cores, called at will.

Starting a rank costs seconds of imports, and a comparison of one process with two has to go back and forth between
them; so the ranks stay, and wait without using the processor while others are measured.
"""

import importlib
import multiprocessing
import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any

from sharding.errors import LamaeError

TIMEOUT_S = 600.0

Session = dict[str, Any]
"""What a rank keeps from call to call."""


class RankPool:
    """``world_size`` processes with ``threads`` threads each, under the environment that torchrun would give them.

    Rank r is pinned to cores ``r * threads .. (r + 1) * threads`` of those this process may use, where there are
    enough. Use as a context manager.
    """

    def __init__(self, world_size: int, *, threads: int = 1) -> None:
        from lamae.launch import free_port

        context = multiprocessing.get_context("spawn")
        cores = sorted(os.sched_getaffinity(0))
        port = free_port()
        self.world_size = world_size
        self.pinned = world_size * threads <= len(cores)
        self._connections: list[Connection] = []
        self._processes = []
        for rank in range(world_size):
            ours, theirs = context.Pipe()
            pinned_to = cores[rank * threads : (rank + 1) * threads] if self.pinned else cores
            environment = _environment(rank, world_size, port=port, threads=threads)
            process = context.Process(target=_serve, args=(theirs, environment, pinned_to), daemon=True)
            process.start()
            theirs.close()
            self._connections.append(ours)
            self._processes.append(process)

    def call(self, function: Callable[..., Any], **arguments: Any) -> list[Any]:
        """``function(session, **arguments)`` on every rank at once; the results in rank order.

        ``function`` belongs to a module, and ``session`` is the rank's own dict. Raises LamaeError with the rank's
        traceback where it failed, died or did not answer.
        """
        for connection in self._connections:
            connection.send((function.__module__, function.__qualname__, arguments))
        return [self._receive(rank) for rank in range(self.world_size)]

    def _receive(self, rank: int) -> Any:
        process, connection = self._processes[rank], self._connections[rank]
        ready = wait([connection, process.sentinel], timeout=TIMEOUT_S)
        try:
            problem, value = connection.recv() if connection in ready else (f"no answer in {TIMEOUT_S:.0f} s", None)
        except EOFError:
            process.join()
            problem, value = f"the process ended with {process.exitcode}", None
        if problem:
            raise LamaeError(f"rank {rank} of {self.world_size}: {problem}")
        return value

    def __enter__(self) -> "RankPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the ranks; none of them holds anything worth a clean end."""
        for process, connection in zip(self._processes, self._connections, strict=True):
            connection.close()
            process.kill()
            process.join()


def _environment(rank: int, world_size: int, *, port: int, threads: int) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
    }


def _serve(connection: Connection, environment: dict[str, str], cores: list[int]) -> None:
    """A rank: carries out calls until the other end closes. Runs before anything heavy is imported."""
    os.environ.update(environment)
    os.sched_setaffinity(0, cores)
    session: Session = {}
    while True:
        try:
            module, name, arguments = connection.recv()
        except EOFError:
            return
        try:
            value = getattr(importlib.import_module(module), name)(session, **arguments)
            connection.send(("", value))
        except Exception:
            connection.send((traceback.format_exc(), None))
