"""A model as the forecast sees it: parameters, arithmetic, and what one micro-batch holds, moves and issues.

Everything follows from the configuration: the model's own code runs, forward and backward, on torch's ``meta`` device,
whose tensors have shapes but no memory. Attention is the one that a CPU gets; kernels for CUDA save no more than it.
"""

import dataclasses
import logging
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lamae.benchmarks.synthetic import DTYPES, SyntheticBatch, build_model_of, num_record_samples
from lamae.benchmarks.watch import Watch
from lamae.model.flops import Flops, count_flops
from lamae.train.blocks import checkpoint_activations
from lamae.train.precision import settle_precision
from lamae.train.runconfig import RunConfig


@dataclass(frozen=True)
class MicroBatch:
    """What one micro-batch asks of a device."""

    kept_bytes: int
    """Held from the forward pass to the backward pass: activations and inputs, weights left out."""
    peak_bytes: int
    """The most that is held at once, without the weights' gradients that are finished by then."""
    moved_bytes: int
    """Read and written by everything but the products of large matrices."""
    operations: int
    """Issued, those that draw its mask among them; views and allocations left out."""


@dataclass(frozen=True)
class ModelShape:
    """Sizes of one configuration."""

    run: RunConfig
    num_parameters: int
    num_tensors: int
    flops: Flops
    """Of one record."""
    _traced: dict[tuple[int, bool], MicroBatch] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, run: RunConfig) -> "ModelShape":
        """Of ``run`` on GPUs. Raises UsageError where the configuration's parts do not fit together."""
        run = settle_precision(run, prefer_bf16=True)
        with torch.device("meta"):
            tensors = [parameter.numel() for parameter in build_model_of(run).parameters()]
        flops = count_flops(run.model, run.mask, num_samples=num_record_samples(run))
        return cls(run, sum(tensors), len(tensors), flops)

    @property
    def weight_bytes(self) -> int:
        """Of one weight."""
        return DTYPES[self.run.engine.precision].itemsize

    def step_flops(self, *, checkpointing: bool) -> int:
        """Of one record; activation checkpointing repeats the forward pass of the blocks."""
        again = self.flops.encoder + self.flops.exchange + self.flops.decoder
        return self.flops.training + (again if checkpointing else 0)

    def micro_batch(self, records: int, *, checkpointing: bool = False) -> MicroBatch:
        """What so many records ask of a device at once, in the run's precision; each case is traced once."""
        case = (records, checkpointing)
        if case not in self._traced:
            self._traced[case] = _trace(self.run, records, checkpointing)
        return self._traced[case]


def _trace(run: RunConfig, records: int, checkpointing: bool) -> MicroBatch:
    """Follow them through forward and backward pass."""
    logging.getLogger("lamae.kernels").setLevel(logging.WARNING)  # what it chooses for meta helps nobody
    with torch.device("meta"):
        model = build_model_of(run).to(DTYPES[run.engine.precision])
    if checkpointing:
        checkpoint_activations(model)
    batch = SyntheticBatch(run, records, device="meta")
    with Watch() as drawing:
        mask = batch.draw_mask()
    drawn: dict[str, Any] = {entry.name: getattr(mask, entry.name) for entry in dataclasses.fields(mask)}
    drawn |= {name: value.to("meta") for name, value in drawn.items() if isinstance(value, Tensor)}
    with Watch(own=[*model.parameters(), *model.buffers()]) as watch:
        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(watch.finish_gradient)
        output = model(*batch.inputs, dataclasses.replace(mask, **drawn))
        kept = watch.held_bytes
        output.loss.backward()
    moved, operations = watch.moved_bytes + drawing.moved_bytes, watch.operations + drawing.operations
    return MicroBatch(kept, watch.peak_bytes, moved, operations)
