"""What operations of torch hold, read and write, counted as they are issued; a tensor needs no memory for that."""

import math
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

PRODUCTS = ("mm", "addmm")
"""Counted by their arithmetic alone; batched ones by their bytes: attention over few tokens is bound by those."""
IDLE = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view")
"""Allocate or rename and touch nothing, though torch does not call them views."""
OVERWRITING = ("copy_", "zero_", "fill_", "_foreach_copy_", "_foreach_zero_")
"""Do not read what they write to."""


class Watch(TorchDispatchMode):
    """Counts the storages that operations make and drop, ``own`` left out, and what the operations do: a context
    manager.

    ``moved_bytes`` are those read and written by everything but the products of large matrices and sending;
    ``operations`` leave views, allocations and sending out.
    """

    def __init__(self, *, own: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self._alive = {tensor.untyped_storage()._cdata for tensor in own}
        self.held_bytes = self.peak_bytes = self.moved_bytes = self.operations = 0
        self._finished_bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            self._hold(tensor)
        name = function.overloadpacket.__name__
        if not (function.is_view or name in IDLE or function.namespace == "c10d"):  # sending is counted elsewhere
            self.operations += 1
            if name not in PRODUCTS:
                self.moved_bytes += sum(map(_num_bytes, _touched(function, args, kwargs or {}, result)))
        return result

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, num_bytes = storage._cdata, storage.nbytes()
        if key not in self._alive:
            self._alive.add(key)
            self.held_bytes += num_bytes
            self.peak_bytes = max(self.peak_bytes, self.held_bytes - self._finished_bytes)
            weakref.finalize(storage, self._drop, key, num_bytes)

    def finish_gradient(self, parameter: Tensor) -> None:
        """For a parameter whose gradient is complete; each has one."""
        assert parameter.grad is not None
        self._finished_bytes += parameter.grad.untyped_storage().nbytes()

    def _drop(self, key: int, num_bytes: int) -> None:
        self._alive.discard(key)
        self.held_bytes -= num_bytes


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _touched(function: Any, args: Any, kwargs: Any, result: Any) -> Iterator[Tensor]:
    """What is read and what is written; what is changed in place is both."""
    changes = False
    for position, argument in enumerate(function._schema.arguments):
        given = args[position] if position < len(args) else kwargs.get(argument.name)
        changed = argument.alias_info is not None and argument.alias_info.is_write
        if changed:
            changes = True
            yield from _tensors(given)
        if not changed or not (argument.kwarg_only or function.overloadpacket.__name__ in OVERWRITING):
            yield from _tensors(given)
    if not changes:
        yield from _tensors(result)


def _num_bytes(tensor: Tensor) -> int:
    """What has to be read or written: an expanded dimension is one element."""
    spread = zip(tensor.shape, tensor.stride(), strict=True)
    return math.prod(size if stride else 1 for size, stride in spread) * tensor.element_size()
