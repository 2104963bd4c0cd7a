"""Ranks for benchmarks: processes that form a job, started once, pinned to their cores, called at will.

Starting a rank costs seconds of imports, and a comparison of one process with two has to go back and forth between
them; so the ranks stay, and wait without using the processor while others are measured.

Left to itself, this process starts all ranks of a job on this machine. Under a launcher (torchrun, ``lamae submit``,
srun) every process of the launcher runs the same benchmark and starts the rank of its own number, on its own node; what
the ranks answer is shared, so that all processes go the same way.
"""

import contextlib
import importlib
import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe, wait
from typing import TYPE_CHECKING, Any

from lamae.base import processes
from lamae.base.allocator import share_one_arena
from lamae.base.errors import LamaeError
from lamae.base.place import LOOPBACK, Place, find_place
from lamae.base.processes import free_port, usable_cores

if TYPE_CHECKING:  # imports torch, which takes a second; the ranks need it, and what starts them does not
    from lamae.train.ranks.distributed import Ranks

TIMEOUT_S, A_DAY_S = 600.0, 86_400.0
# Of a rank's collectives: it has to notice a peer that is gone before nobody waits for it any more.
COLLECTIVE_TIMEOUT_S = 300.0
# After one rank has failed, the others can only notice it or hang.
FAILED_GRACE_S = 10.0

Session = dict[str, Any]
"""What a rank keeps from call to call."""
Answer = tuple[str, Any]
"""What went wrong, or nothing, and the value."""


class RankPool:
    """``world_size`` processes with ``threads`` threads each (None leaves that to them), under the environment that
    torchrun would give them.

    ``launched``: the processes of the launcher, of which those with a number below ``world_size`` start one rank each;
    None starts them all here. The i-th rank of a machine is pinned to cores ``i * threads .. (i + 1) * threads`` of
    those this process may use, where there are enough and ``pin`` is set. ``use_gpus`` False hides GPUs from the
    ranks; ``orphaned`` is what they get where this process dies. Use as a context manager.
    """

    def __init__(
        self,
        world_size: int,
        *,
        threads: int | None = 1,
        launched: "Ranks | None" = None,
        pin: bool = True,
        use_gpus: bool = True,
        timeout_s: float = TIMEOUT_S,
        orphaned: signal.Signals = signal.SIGKILL,
    ) -> None:
        self.world_size = world_size
        self.pinned = False
        self._threads, self._launched, self._pin, self._use_gpus = threads, launched, pin, use_gpus
        self._timeout_s, self._orphaned = timeout_s, orphaned
        self._connections: dict[int, Connection] = {}
        self._processes: dict[int, processes.Process] = {}
        self._start()

    def call(self, function: Callable[..., Any], /, **arguments: Any) -> list[Any]:
        """``function(session, **arguments)`` on every rank at once; the results in rank order.

        ``function`` belongs to a module, and ``session`` is the rank's own dict. Raises LamaeError with the rank's
        traceback where one failed, died or did not answer; the pool is closed then, for its ranks are out of step.
        """
        for connection in self._connections.values():
            with contextlib.suppress(OSError):  # its end shows in what it does not answer
                connection.send((function.__module__, function.__qualname__, arguments))
        answers = self._collect()
        if self._launched is not None:
            answers = {rank: answer for own in self._launched.gather(answers) for rank, answer in own.items()}
        for rank, (problem, _) in answers.items():
            if problem:
                self.close()
                raise LamaeError(f"rank {rank} of {self.world_size}: {problem}")
        if len(answers) < self.world_size:
            raise LamaeError(f"the {self.world_size} ranks of this job have ended")
        return [answers[rank][1] for rank in range(self.world_size)]

    def close(self) -> None:
        """End the ranks; none of them holds anything worth a clean end."""
        for connection in self._connections.values():
            connection.close()
        processes.stop(self._processes.values(), first=signal.SIGKILL)
        self._connections, self._processes = {}, {}

    def _start(self) -> None:
        launched, threads, world_size = self._launched, self._threads or 0, self.world_size
        cores = sorted(os.sched_getaffinity(0))
        if launched is None:
            port, local_world_size, first_local, own = free_port(), world_size, 0, list(range(world_size))
        else:
            port, first_local = launched.decide(lambda: free_port("")), launched.local_rank
            first_here = launched.rank - launched.local_rank
            local_world_size = max(min(launched.local_world_size, world_size - first_here), 0)
            own = [launched.rank] if launched.rank < world_size else []
        self.pinned = self._pin and local_world_size * threads <= len(cores)
        address = LOOPBACK if _on_one_machine(launched) else os.environ["MASTER_ADDR"]
        environment = {"PYTHONPATH": os.pathsep.join(sys.path)}
        if threads:
            environment |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        if interface := network_interface(launched):
            environment["GLOO_SOCKET_IFNAME"] = interface
        if not self._use_gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ""
        for local_rank, rank in enumerate(own, start=first_local):
            place = Place(rank, local_rank, world_size, local_world_size, address, port)
            pinned_to = cores[local_rank * threads : (local_rank + 1) * threads] if self.pinned else cores
            self._connections[rank], theirs = Pipe()
            with theirs:
                command = ["-m", __name__, str(theirs.fileno()), *map(str, pinned_to)]
                self._processes[rank] = processes.start(
                    command,
                    environment | place.environment(),
                    orphaned=self._orphaned,
                    own_session=True,  # Ctrl-C is for the owner, who ends its ranks
                    pass_fds=[theirs.fileno()],
                )

    def _collect(self) -> dict[int, Answer]:
        """What the ranks started here answer, in the order in which they do."""
        answers: dict[int, Answer] = {}
        deadline = time.monotonic() + self._timeout_s
        while missing := [rank for rank in self._connections if rank not in answers]:
            ready = wait([self._connections[rank] for rank in missing], timeout=max(deadline - time.monotonic(), 0))
            for rank in missing:
                if not ready:
                    answers[rank] = "no answer in time", None
                elif self._connections[rank] in ready:
                    answers[rank] = self._read(rank)
                if rank in answers and answers[rank][0]:
                    deadline = min(deadline, time.monotonic() + FAILED_GRACE_S)
        return answers

    def _read(self, rank: int) -> Answer:
        try:
            answer: Answer = pickle.loads(self._connections[rank].recv_bytes())
        except (EOFError, OSError):
            return f"the process ended with {self._processes[rank].wait()}", None
        return answer

    def __enter__(self) -> "RankPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def call_apart(function: Callable[..., Any], /, *, timeout_s: float = A_DAY_S, **arguments: Any) -> Any:
    """``function(session, **arguments)`` in a process of its own. Raises LamaeError, whose last line says why, where it
    failed, died or took longer than ``timeout_s``.

    Where this process dies it is interrupted, so that it removes its temporary folders and disturbs nobody.
    """
    with RankPool(1, threads=None, pin=False, timeout_s=timeout_s, orphaned=signal.SIGINT) as pool:
        return pool.call(function, **arguments)[0]


def join_launched() -> "Ranks | None":
    """The processes of the launcher that started this one, joined to each other; None where it is alone."""
    if find_place(os.environ).world_size == 1:
        return None
    from lamae.train.ranks import distributed

    return distributed.start(timeout_s=2 * TIMEOUT_S, num_threads=1, use_gpus=False)


def network_interface(launched: "Ranks | None") -> str:
    """The interface by which ranks on CPUs reach other machines; empty leaves the choice to gloo."""
    return "lo" if _on_one_machine(launched) else os.environ.get("GLOO_SOCKET_IFNAME", "")


def _on_one_machine(launched: "Ranks | None") -> bool:
    return launched is None or launched.world_size == launched.local_world_size


def threads_per_rank(*, on_gpus: bool, local_world_size: int) -> int:
    """One on a CPU, so that ranks don't compete; where GPUs compute, this rank's part of the cores."""
    return max(usable_cores() // local_world_size, 1) if on_gpus else 1


def _serve(connection: Connection, cores: list[int]) -> None:
    """A rank: carries out calls until the other end closes or one fails. Runs before anything heavy is imported."""
    for name in [name for name in os.environ if name.startswith("TORCHELASTIC_")]:
        del os.environ[name]  # torchrun's own store is not where this job meets
    os.sched_setaffinity(0, cores)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs deaf to it
    share_one_arena()
    session: Session = {}
    while True:
        try:
            module, name, arguments = connection.recv()
        except EOFError:
            return
        try:
            answer: Answer = ("", getattr(importlib.import_module(module), name)(session, **arguments))
        except Exception:
            answer = (traceback.format_exc(), None)
        connection.send_bytes(pickle.dumps(answer))  # by value: send would hand tensors over in shared memory
        if answer[0]:
            os._exit(1)  # whoever waits for this rank in a collective sees its connections close


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])), [int(core) for core in sys.argv[2:]])
