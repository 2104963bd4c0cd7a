"""The ranks of a job: who this process is, on which device, and the small CPU group on which ranks agree.

Starts under torchrun, the DeepSpeed launcher and srun, which say who is who through environment variables, and
without any launcher, as the only rank.
"""

import atexit
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from lamae.base.allocator import keep_freed_memory
from lamae.base.errors import LamaeError
from lamae.base.place import Place, find_place
from lamae.base.processes import usable_cores

Decision = TypeVar("Decision")

NEVER_S = 365 * 86400.0


@dataclass(frozen=True)
class Ranks:
    """This process among all; collectives here run on the CPU group and never touch the device."""

    rank: int
    local_rank: int
    world_size: int
    local_world_size: int
    device: torch.device
    cpu_group: Any

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def share(self, value: Any) -> Any:
        """Rank 0's ``value``, on every rank. What ranks must agree on is decided once and shared."""
        box = [value]
        if self.world_size > 1:
            dist.broadcast_object_list(box, src=0, group=self.cpu_group)
        return box[0]

    def decide(self, function: Callable[[], Decision]) -> Decision:
        """What rank 0's call of ``function`` gives, on every rank.

        A LamaeError it raises is raised on every rank; of any other exception the others raise the text, as LamaeError.
        """
        outcome: Any = None
        raised: Exception | None = None
        if self.is_main:
            try:
                outcome = function()
            except LamaeError as error:
                outcome = raised = error
            except Exception as error:
                outcome, raised = LamaeError(f"rank 0 failed: {type(error).__name__}: {error}"), error
        outcome = self.share(outcome)
        if raised is not None:
            raise raised
        if isinstance(outcome, LamaeError):
            outcome.all_ranks = True
            raise outcome
        return outcome

    def gather(self, value: Any) -> list[Any]:
        """Every rank's ``value``, in rank order, on every rank."""
        values: list[Any] = [None] * self.world_size
        if self.world_size == 1:
            return [value]
        dist.all_gather_object(values, value, group=self.cpu_group)
        return values

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Mean over ranks of a CPU tensor."""
        if self.world_size > 1:
            dist.all_reduce(values, group=self.cpu_group)
        return values / self.world_size

    def barrier(self) -> None:
        if self.world_size > 1:
            dist.barrier(group=self.cpu_group)


def start(*, timeout_s: float, num_threads: int, use_gpus: bool = True) -> Ranks:
    """Join the job's process group (NCCL on CUDA, gloo otherwise) and set this process's CPU threads.

    ``num_threads`` 0 shares the cores this process may use among the ranks of the machine. ``use_gpus`` False stays on
    the CPU whatever there is.
    """
    place = find_place(os.environ)
    torch.set_num_threads(num_threads or max(usable_cores() // place.local_world_size, 1))

    if place.rank:  # rank 0 speaks for all; the others are heard when something is wrong
        logging.getLogger("lamae").setLevel(logging.WARNING)

    on_cuda = use_gpus and torch.cuda.is_available()
    if not on_cuda:
        keep_freed_memory()
    device = torch.device("cuda", place.local_rank % torch.cuda.device_count()) if on_cuda else torch.device("cpu")
    if on_cuda:
        torch.cuda.set_device(device)
    timeout = timedelta(seconds=timeout_s)
    if not dist.is_initialized():
        _join(place, backend="nccl" if on_cuda else "gloo", timeout=timeout)
        atexit.register(dist.destroy_process_group)
    set_timeout(timeout_s)
    return Ranks(
        rank=place.rank,
        local_rank=place.local_rank,
        world_size=place.world_size,
        local_world_size=place.local_world_size,
        device=device,
        cpu_group=dist.new_group(backend="gloo", timeout=timeout),
    )


def _join(place: Place, *, backend: str, timeout: timedelta) -> None:
    # DeepSpeed insists on this one, also where there is one rank.
    os.environ.setdefault("LOCAL_RANK", str(place.local_rank))
    if place.world_size == 1:
        # No port and no other variables: programs started from this process are free to be jobs of their own.
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, timeout=timeout)
        return
    os.environ |= place.environment()
    dist.init_process_group(backend, timeout=timeout)


def set_timeout(timeout_s: float, *, keep: Any = None) -> None:
    """From now on a collective of any group but ``keep`` may wait so long for a rank, suspended time included.

    Groups made without a timeout have torch's default, not that of ``init_process_group``; DeepSpeed 0.19.8 makes its
    own, a clone of the world group, without one.
    """
    for group in dist.distributed_c10d._world.pg_map:
        if group is not keep:
            dist.distributed_c10d._set_pg_timeout(timedelta(seconds=timeout_s), group)
