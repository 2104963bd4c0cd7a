"""What a rank sends in a step, seen at torch's collectives and at a network interface.

Only for processes that do nothing but measure: the functions of ``torch.distributed`` are wrapped for good, and must be
before DeepSpeed looks them up.
"""

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor

from lamae.benchmarks.forecast.machine import RING_PASSES

INTERFACES = Path("/proc/self/net/dev")
"""Those of this process's network namespace (proc(5)); /sys shows those of whoever mounted it."""
_SENT_COLUMN = 8


def sent_per_rank(operation: str, num_bytes: float, world_size: int) -> float:
    """Bytes that one rank sends in a bandwidth-optimal (ring) algorithm, on average over the ranks.

    ``num_bytes`` is the whole tensor: what is reduced, or what everyone has after the gathering
    (Thakur, Rabenseifner, Gropp 2005). A broadcast passes it along a chain of all ranks.
    """
    return RING_PASSES.get(operation, 1.0) * num_bytes * (world_size - 1) / world_size


@dataclass
class Wire:
    """Collectives since the last ``reset``."""

    world_size: int
    tensor_bytes: Counter[str] = field(default_factory=Counter)
    """Whole tensors by operation."""
    calls: Counter[str] = field(default_factory=Counter)

    def reset(self) -> None:
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


def interface_bytes(name: str) -> int | None:
    """Bytes that this machine ever sent by a network interface, whoever sent them; None where that is not known."""
    try:
        lines = INTERFACES.read_text().splitlines()
    except OSError:
        return None
    counts = next((line.partition(":")[2].split() for line in lines if line.partition(":")[0].strip() == name), None)
    return int(counts[_SENT_COLUMN]) if counts else None


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
        return function(*arguments, **options)

    return counted
