"""What a job asks of a cluster: one YAML file per cluster, ``configs/cluster/NAME.yaml`` or a name."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from lamae.base import settings
from lamae.base.validate import at_least, one_of

KINDS = ("slurm", "local")
LOCAL = "local"
"""The profile of this machine."""

PACKAGED = {"kind": "cluster", "unknown": "options of sbatch belong under slurm:"}


@dataclass
class Profile:
    """Resources, environment and patience of the jobs sent to one cluster."""

    RENAMED: ClassVar = {"exclude_culprits": "exclude_failing_nodes"}

    kind: str = "slurm"
    """``slurm``, or ``local`` to run the same on this machine without a scheduler."""

    partition: str | None = None
    """Partition; None leaves the cluster's default."""

    account: str | None = None
    """Account to charge."""

    qos: str | None = None
    """Quality of service."""

    constraint: str | None = None
    """Node features required, in sbatch's syntax."""

    exclude: str | None = None
    """Nodes never to use, in sbatch's syntax (``n[3-5],n9``)."""

    nodes: str = "1"
    """Number of nodes, or a range such as ``2-4``: the job then starts, and restarts, with as many as are free."""

    gpus_per_node: int = 0
    """GPUs per node; 0 for none."""

    cpus_per_node: int = 0
    """Processor cores per node, shared by its ranks; 0 leaves the cluster's default."""

    ranks_per_node: int = 0
    """Training processes per node; 0 is one per GPU, or one where there are none."""

    mem_gb: float = 0
    """Memory per node; 0 leaves the cluster's default."""

    time_min: int = 60
    """Time limit of one job; a training run that needs longer saves, is requeued and goes on. Others should fit in."""

    save_before_end_s: int = 120
    """How long before the time limit a run is asked to save and leave."""

    setup: list[str] = field(default_factory=list)
    """Shell lines run on the first node before anything else, for example ``module load cuda``."""

    environment: dict[str, str] = field(default_factory=dict)
    """Environment variables of the job."""

    python: str | None = None
    """Command that starts Python on the nodes (a container, say); None is the Python that submits."""

    slurm: dict[str, Any] = field(default_factory=dict)
    """Any further sbatch option by its long name: ``{reservation: ecg, nice: 100, exclusive: true}``."""

    array_tasks: int = 16
    """Largest number of array tasks ``lamae submit shard`` is spread over."""

    max_restarts: int = 5
    """How often a failed job is started again. Preemptions do not count, nor do time limits while a training
    run gets on; to other jobs, which have no checkpoints, a time limit is a failure."""

    backoff_s: int = 30
    """Delay before the first restart after a failure; doubled at each further one, up to an hour."""

    stall_s: int = 1800
    """End and restart a training run that has logged no step and published no checkpoint for so long, starting
    included; the log then shows where each rank was. 0 never does."""

    exclude_failing_nodes: bool = True
    """After a failure that points at one node, restart without that node wherever enough others are usable."""

    def check(self) -> None:
        """Raises ValueError naming the key to change."""
        one_of(self, kind=KINDS)
        _, high = self.node_range()
        if self.kind == "local" and high != 1:
            raise ValueError(f"nodes={self.nodes}: kind=local has one node; set nodes=1 or kind=slurm")
        if self.kind == "local" and self.setup:
            raise ValueError(
                "setup: a local job inherits the shell it is submitted from; run these lines there instead"
            )
        at_least(self, gpus_per_node=0, cpus_per_node=0, ranks_per_node=0, mem_gb=0)
        at_least(self, max_restarts=0, backoff_s=0, stall_s=0, time_min=1, save_before_end_s=1, array_tasks=1)
        if self.save_before_end_s >= self.time_min * 60:
            raise ValueError(
                f"save_before_end_s={self.save_before_end_s} leaves no time to run within time_min={self.time_min}"
            )

    def node_range(self) -> tuple[int, int]:
        """Fewest and most nodes."""
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", str(self.nodes).strip())
        low = int(match[1]) if match else 0
        high = int(match[2] or match[1]) if match else 0
        if not 1 <= low <= high:
            raise ValueError(f"nodes={self.nodes!r} must be a number such as 4 or a range such as 2-4")
        return low, high

    @property
    def num_local_ranks(self) -> int:
        """Training processes on each node."""
        return self.ranks_per_node or self.gpus_per_node or 1


def load(path: str | Path, overrides: Sequence[str] = ()) -> Profile:
    """The profile in ``path`` (YAML) with ``key=value`` overrides, checked.

    ``path`` may be the name of a profile of the package: ``local`` (see ``lamae.base.settings.find``).
    Raises UsageError naming the file or key and the fix.
    """
    return settings.load_as(Profile(), path, overrides, **PACKAGED)


def explain(path: str | Path, overrides: Sequence[str] = ()) -> str:
    """``load`` as a page: see ``lamae.base.settings.explain``."""
    return settings.explain(Profile(), path, overrides, **PACKAGED)
