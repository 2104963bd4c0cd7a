"""Ranks for benchmarks: processes that form a job, started once, pinned to their cores, called at will.

Starting a rank costs seconds of imports, and a comparison of one process with two has to go back and forth between
them; so the ranks stay, and wait without using the processor while others are measured.

Left to itself, this process starts all ranks of a job on this machine. Under a launcher (torchrun, ``lamae submit``,
srun) every process of the launcher runs the same benchmark and starts the rank of its own number, on its own node; what
the ranks answer is shared, so that all processes go the same way.
"""

import _thread
import importlib
import multiprocessing
import os
import pickle
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import TYPE_CHECKING, Any

from lamae.allocator import share_one_arena
from lamae.launch import free_port, usable_cores
from sharding.errors import LamaeError
from sharding.orphan import when_orphaned

if TYPE_CHECKING:
    from lamae.train.distributed import Ranks

TIMEOUT_S = 600.0
LOOPBACK = "127.0.0.1"
LEAVE_GRACE_S = 10.0

Session = dict[str, Any]
"""What a rank keeps from call to call."""


class RankPool:
    """``world_size`` processes with ``threads`` threads each, under the environment that torchrun would give them.

    ``launched``: the processes of the launcher, of which those with a number below ``world_size`` start one rank each;
    None starts them all here. The i-th rank of a machine is pinned to cores ``i * threads .. (i + 1) * threads`` of
    those this process may use, where there are enough and ``pin`` is set. ``use_gpus`` False hides GPUs from the
    ranks. Use as a context manager.
    """

    def __init__(
        self,
        world_size: int,
        *,
        threads: int = 1,
        launched: "Ranks | None" = None,
        pin: bool = True,
        use_gpus: bool = True,
    ) -> None:
        self.world_size = world_size
        self._launched = launched
        cores = sorted(os.sched_getaffinity(0))
        if launched is None:
            port, local_world_size, first_local = free_port(), world_size, 0
            own = list(range(world_size))
        else:
            port = launched.share(free_port(""))
            local_world_size, first_local = min(launched.local_world_size, world_size), launched.local_rank
            own = [launched.rank] if launched.rank < world_size else []
        self.pinned = pin and local_world_size * threads <= len(cores)
        self._connections: dict[int, Connection] = {}
        self._processes: dict[int, Any] = {}
        context = multiprocessing.get_context("spawn")
        for local_rank, rank in enumerate(own, start=first_local):
            environment = {
                "RANK": str(rank),
                "LOCAL_RANK": str(local_rank),
                "WORLD_SIZE": str(world_size),
                "LOCAL_WORLD_SIZE": str(local_world_size),
                "MASTER_ADDR": LOOPBACK if _on_one_machine(launched) else os.environ["MASTER_ADDR"],
                "MASTER_PORT": str(port),
                "GLOO_SOCKET_IFNAME": network_interface(launched),
                "OMP_NUM_THREADS": str(threads),
                "MKL_NUM_THREADS": str(threads),
                **({} if use_gpus else {"CUDA_VISIBLE_DEVICES": ""}),
            }
            ours, theirs = context.Pipe()
            pinned_to = cores[local_rank * threads : (local_rank + 1) * threads] if self.pinned else cores
            process = context.Process(target=_serve, args=(theirs, environment, pinned_to), daemon=True)
            process.start()
            theirs.close()
            self._connections[rank] = ours
            self._processes[rank] = process

    def call(self, function: Callable[..., Any], **arguments: Any) -> list[Any]:
        """``function(session, **arguments)`` on every rank at once; the results in rank order.

        ``function`` belongs to a module, and ``session`` is the rank's own dict. Raises LamaeError with the rank's
        traceback where it failed, died or did not answer.
        """
        for rank, connection in self._connections.items():
            try:
                connection.send((function.__module__, function.__qualname__, arguments))
            except OSError:  # its end is told by what it does not answer
                self._processes[rank].join()
        answers = {rank: self._receive(rank) for rank in self._connections}
        if self._launched is not None:
            answers = {rank: answer for own in self._launched.gather(answers) for rank, answer in own.items()}
        for rank in range(self.world_size):
            problem, _ = answers[rank]
            if problem:
                raise LamaeError(f"rank {rank} of {self.world_size}: {problem}")
        return [answers[rank][1] for rank in range(self.world_size)]

    def _receive(self, rank: int) -> tuple[str, Any]:
        """What went wrong, or nothing, and the value."""
        process, connection = self._processes[rank], self._connections[rank]
        ready = wait([connection, process.sentinel], timeout=TIMEOUT_S)
        if not ready:
            return f"no answer in {TIMEOUT_S:.0f} s", None
        try:
            answer: tuple[str, Any] = pickle.loads(connection.recv_bytes())
        except (EOFError, OSError):
            process.join()
            return f"the process ended with {process.exitcode}", None
        return answer

    def __enter__(self) -> "RankPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the ranks; none of them holds anything worth a clean end."""
        for rank, process in self._processes.items():
            self._connections[rank].close()
            process.kill()
            process.join()


def join_launched() -> "Ranks | None":
    """The processes of the launcher that started this one, joined to each other; None where it is alone."""
    from lamae.train import distributed

    if distributed.find_place(os.environ).world_size == 1:
        return None
    return distributed.start(timeout_s=2 * TIMEOUT_S, num_threads=1, use_gpus=False)


def network_interface(launched: "Ranks | None") -> str:
    """The interface by which ranks on CPUs reach each other; empty leaves the choice to gloo."""
    return "lo" if _on_one_machine(launched) else os.environ.get("GLOO_SOCKET_IFNAME", "")


def _on_one_machine(launched: "Ranks | None") -> bool:
    return launched is None or launched.world_size == launched.local_world_size


def end_with(parent: int) -> None:
    """End this process soon after ``parent`` is gone, and what it measures with it: it would disturb the next one.

    Temporary folders are removed on the way.
    """

    def leave() -> None:
        _thread.interrupt_main()
        time.sleep(LEAVE_GRACE_S)
        os._exit(1)

    when_orphaned(parent, leave)


def threads_per_rank(*, on_gpus: bool, local_world_size: int) -> int:
    """One on a CPU, so that ranks don't compete; where GPUs compute, this rank's part of the cores."""
    return max(usable_cores() // local_world_size, 1) if on_gpus else 1


def _serve(connection: Connection, environment: dict[str, str], cores: list[int]) -> None:
    """A rank: carries out calls until the other end closes. Runs before anything heavy is imported."""
    for name in [name for name in os.environ if name.startswith("TORCHELASTIC_")]:
        del os.environ[name]  # torchrun's own store is not where this job meets
    os.environ.update(environment)
    os.sched_setaffinity(0, cores)
    share_one_arena()
    when_orphaned(os.getppid(), lambda: os._exit(1))
    session: Session = {}
    while True:
        try:
            module, name, arguments = connection.recv()
        except EOFError:
            return
        try:
            value = getattr(importlib.import_module(module), name)(session, **arguments)
            answer = ("", value)
        except Exception:
            answer = (traceback.format_exc(), None)
        connection.send_bytes(pickle.dumps(answer))  # by value: send would hand tensors over in shared memory
