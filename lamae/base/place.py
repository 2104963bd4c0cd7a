"""Who a process is among those that a launcher started, and the environment that says so. Imports nothing heavy."""

from collections.abc import Mapping
from dataclasses import dataclass

from lamae.base.errors import LamaeError, UsageError

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Place:
    """What a launcher says about this process."""

    rank: int
    local_rank: int
    world_size: int
    local_world_size: int
    address: str
    """Where rank 0 listens, at ``port``."""
    port: int

    def environment(self) -> dict[str, str]:
        """The variables that say so, as torchrun sets them."""
        return {
            "RANK": str(self.rank),
            "LOCAL_RANK": str(self.local_rank),
            "WORLD_SIZE": str(self.world_size),
            "LOCAL_WORLD_SIZE": str(self.local_world_size),
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(self.port),
        }


def find_place(environ: Mapping[str, str]) -> Place:
    """Read the variables of torchrun and DeepSpeed, else those of srun, else be alone.

    Raises UsageError when a launcher says only half.
    """
    if "RANK" in environ and "WORLD_SIZE" in environ:
        rank, world_size = int(environ["RANK"]), int(environ["WORLD_SIZE"])
        local_rank = int(environ.get("LOCAL_RANK", rank))
        local_world_size = int(environ.get("LOCAL_WORLD_SIZE", environ.get("LOCAL_SIZE", world_size)))
    elif int(environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:  # of srun alone: a batch script has SLURM_NTASKS too
        rank, world_size = int(environ["SLURM_PROCID"]), int(environ["SLURM_STEP_NUM_TASKS"])
        local_rank = int(environ["SLURM_LOCALID"])
        # "4(x2),3": tasks per node; this node's count is the first entry wherever nodes are alike.
        local_world_size = int(environ["SLURM_STEP_TASKS_PER_NODE"].split("(")[0].split(",")[0])
    else:
        return Place(0, 0, 1, 1, LOOPBACK, 0)
    if world_size > 1 and not ("MASTER_ADDR" in environ and "MASTER_PORT" in environ):
        raise UsageError(
            f"{world_size} ranks, but MASTER_ADDR and MASTER_PORT are not set: "
            "start with torchrun or 'lamae submit', or set both"
        )
    return Place(
        rank,
        local_rank,
        world_size,
        local_world_size,
        environ.get("MASTER_ADDR", LOOPBACK),
        int(environ.get("MASTER_PORT", 0)),
    )


def prints_error(error: LamaeError, environ: Mapping[str, str]) -> bool:
    """Whether this process prints ``error``.

    Local rank 0 of each machine prints a UsageError, since a path may be missing on one machine only; rank 0 an error
    of ``all_ranks``; the rank that met it any other.
    """
    rank = int(environ.get("RANK", environ.get("SLURM_PROCID", 0)))
    local_rank = int(environ.get("LOCAL_RANK", environ.get("SLURM_LOCALID", rank)))
    if error.all_ranks:
        return rank == 0
    return local_rank == 0 or not isinstance(error, UsageError)
