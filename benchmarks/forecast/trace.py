"""One micro-batch of a configuration on torch's ``meta`` device: what it holds, moves and issues, without doing it.

The model's own code runs, forward and backward, on tensors that have shapes but no memory, so nothing here has to be
kept in step with the model. Attention is the one that a CPU gets; kernels for CUDA save no more than it does.
"""

import dataclasses
import logging
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lamae.base.leads import NUM_LEADS
from lamae.model import build_model
from lamae.model.masking import draw_mask
from lamae.train.blocks import checkpoint_activations
from lamae.train.runconfig import RunConfig

RECORD_SECONDS = 10
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# Counted by their arithmetic alone. Batched products are counted by their bytes too: attention over few tokens is bound
# by those.
PRODUCTS = ("mm", "addmm")
# Allocate or rename and touch nothing, though torch does not call them views.
IDLE = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view")
# Do not read what they write to.
OVERWRITING = ("copy_", "zero_", "fill_", "_foreach_copy_", "_foreach_zero_")


@dataclass(frozen=True)
class MicroBatch:
    """What one micro-batch asks of a device."""

    records: int
    kept_bytes: int
    """Held from the forward pass to the backward pass: activations and inputs, weights left out."""
    peak_bytes: int
    """The most that is held at once, without the weights' gradients that are finished by then."""
    moved_bytes: int
    """Read and written by everything but the products of large matrices."""
    operations: int
    """Issued, those that draw its mask among them; views and allocations left out."""


def trace_micro_batch(run: RunConfig, *, records: int, checkpointing: bool) -> MicroBatch:
    """Follow ``records`` records through forward and backward pass, in the run's precision."""
    num_samples = run.signal.rate_hz * RECORD_SECONDS
    with torch.device("meta"):
        model = build_model(run.model, run.mask, num_samples=num_samples).to(DTYPES[run.engine.precision])
    if checkpointing:
        checkpoint_activations(model)
    logging.getLogger("lamae.kernels").setLevel(logging.WARNING)  # what it chooses for meta helps nobody
    row_B = torch.arange(records)
    with Watch() as drawing:
        mask = draw_mask(
            run.mask,
            seed=0,
            epoch_B=torch.zeros_like(row_B),
            row_B=row_B,
            lead_mask_BL=torch.ones(records, NUM_LEADS, dtype=torch.bool),
            num_patches=num_samples // run.model.patch_size,
        )
    drawn: dict[str, Any] = {entry.name: getattr(mask, entry.name) for entry in dataclasses.fields(mask)}
    drawn |= {name: value.to("meta") for name, value in drawn.items() if isinstance(value, Tensor)}
    mask = dataclasses.replace(mask, **drawn)
    x_BLT = torch.empty(records, NUM_LEADS, num_samples, device="meta")
    lead_mask_BL = torch.ones(records, NUM_LEADS, dtype=torch.bool, device="meta")
    with Watch(own=[*model.parameters(), *model.buffers()]) as watch:
        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(watch.finish_gradient)
        output = model(x_BLT, torch.ones_like(x_BLT, dtype=torch.bool), lead_mask_BL, mask)
        kept = watch.held_bytes
        output.loss.backward()
    return MicroBatch(
        records=records,
        kept_bytes=kept,
        peak_bytes=watch.peak_bytes,
        moved_bytes=watch.moved_bytes + drawing.moved_bytes,
        operations=watch.operations + drawing.operations,
    )


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

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        outputs = _tensors(result)
        for tensor in outputs:
            self._hold(tensor)
        name = function.overloadpacket.__name__
        if not (function.is_view or name in IDLE or function.namespace == "c10d"):  # sending is counted elsewhere
            self.operations += 1
            if name not in PRODUCTS:
                self.moved_bytes += _touched_bytes(function, args, kwargs or {}, outputs)
        return result

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, num_bytes = storage._cdata, storage.nbytes()
        if key in self._alive:
            return
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


def _touched_bytes(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: list[Tensor]) -> int:
    """Read and written; what is changed in place is both."""
    read, written = [], []
    for position, argument in enumerate(function._schema.arguments):
        given = args[position] if position < len(args) else kwargs.get(argument.name)
        changed = argument.alias_info is not None and argument.alias_info.is_write
        if changed:
            written += _tensors(given)
        if not changed or not (argument.kwarg_only or function.overloadpacket.__name__ in OVERWRITING):
            read += _tensors(given)
    return sum(_num_bytes(tensor) for tensor in [*read, *(written or outputs)])


def _num_bytes(tensor: Tensor) -> int:
    """What has to be read or written: an expanded dimension is one element."""
    numel = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        numel *= size if stride else 1
    return numel * tensor.element_size()
