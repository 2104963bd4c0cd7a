"""What a rank sends in a step and how long it is busy sending, seen at torch's collectives.

Only for processes that do nothing but measure: the functions of ``torch.distributed`` are wrapped for good, and must be
before DeepSpeed looks them up.
"""

import functools
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor

LOOPBACK = Path("/sys/class/net/lo/statistics/tx_bytes")


def sent_per_rank(operation: str, num_bytes: float, world_size: int) -> float:
    """Bytes that one rank sends in a bandwidth-optimal (ring) algorithm, on average over the ranks.

    ``num_bytes`` is the whole tensor: what is reduced, or what everyone has after the gathering
    (Thakur, Rabenseifner, Gropp 2005). A broadcast or a reduction to one rank passes it along a chain of all ranks.
    """
    passes = 2 if operation == "all_reduce" else 1
    return passes * num_bytes * (world_size - 1) / world_size


@dataclass
class Wire:
    """Collectives since the last ``reset``."""

    world_size: int
    seconds: float = 0.0
    """In which this rank was inside a collective or waited for one: sending, and waiting for slower ranks."""
    tensor_bytes: Counter[str] = field(default_factory=Counter)
    """Whole tensors by operation."""
    calls: Counter[str] = field(default_factory=Counter)

    def reset(self) -> None:
        self.seconds = 0.0
        self.tensor_bytes.clear()
        self.calls.clear()

    @property
    def sent_bytes(self) -> float:
        """What this rank sent, if every collective was bandwidth-optimal."""
        return sum(sent_per_rank(name, n, self.world_size) for name, n in self.tensor_bytes.items())


def tap(world_size: int) -> Wire:
    """Wrap the collectives of this process; what they do is counted in the Wire returned."""
    wire = Wire(world_size)
    for name, (operation, whole) in _COLLECTIVES.items():
        wrapped = _wrap(getattr(dist, name), wire, operation, whole)
        setattr(dist, name, wrapped)
        if hasattr(dist.distributed_c10d, name):
            setattr(dist.distributed_c10d, name, wrapped)
    return wire


def loopback_bytes() -> int | None:
    """Bytes that this machine ever sent to itself, by anyone; None where that is not told."""
    try:
        return int(LOOPBACK.read_text())
    except (OSError, ValueError):
        return None


def _num_bytes(tensors: Tensor | Sequence[Tensor]) -> int:
    tensors = [tensors] if isinstance(tensors, Tensor) else tensors
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


# Function of torch.distributed -> (operation, argument that holds the whole tensor or tensors: position and name).
_COLLECTIVES: dict[str, tuple[str, tuple[int, str]]] = {
    "all_reduce": ("all_reduce", (0, "tensor")),
    "reduce_scatter_tensor": ("reduce_scatter", (1, "input")),
    "reduce_scatter": ("reduce_scatter", (1, "input_list")),
    "all_gather_into_tensor": ("all_gather", (0, "output_tensor")),
    "all_gather": ("all_gather", (0, "tensor_list")),
    "reduce": ("reduce", (0, "tensor")),
    "broadcast": ("broadcast", (0, "tensor")),
}


def _wrap(function: Callable[..., Any], wire: Wire, operation: str, whole: tuple[int, str]) -> Callable[..., Any]:
    position, name = whole

    @functools.wraps(function)
    def counted(*arguments: Any, **options: Any) -> Any:
        tensors = options[name] if name in options else arguments[position]
        wire.tensor_bytes[operation] += _num_bytes(tensors)
        wire.calls[operation] += 1
        began = time.perf_counter()
        work = function(*arguments, **options)
        wire.seconds += time.perf_counter() - began
        return _TimedWork(work, wire) if isinstance(work, dist.Work) else work

    return counted


class _TimedWork:
    """A handle whose ``wait`` counts; everything else is the collective's own."""

    def __init__(self, work: Any, wire: Wire) -> None:
        self._work = work
        self._wire = wire

    def wait(self, *arguments: Any) -> Any:
        began = time.perf_counter()
        done = self._work.wait(*arguments)
        self._wire.seconds += time.perf_counter() - began
        return done

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)
