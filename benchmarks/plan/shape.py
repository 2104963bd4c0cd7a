"""A model as the planner sees it: parameters, arithmetic, and what one micro-batch holds and moves.

Everything follows from the configuration and the model's own code, run on torch's ``meta`` device, which allocates and
computes nothing.
"""

from dataclasses import dataclass, field

import torch

from lamae.benchmarks.plan.trace import RECORD_SECONDS, MicroBatch, trace_micro_batch
from lamae.model import build_model
from lamae.model.flops import Flops, count_flops
from lamae.train.runconfig import RunConfig

STAGE3_PERSISTENT_ELEMENTS = 100_000
"""DeepSpeed's ``stage3_param_persistence_threshold``."""


@dataclass(frozen=True)
class ModelShape:
    """Sizes of one configuration."""

    run: RunConfig
    num_parameters: int
    num_tensors: int
    num_fetched: int
    """Of the tensors, those that stage 3 does not keep on every rank."""
    flops: Flops
    """Of one record."""
    _traced: dict[tuple[int, bool], MicroBatch] = field(default_factory=dict, repr=False)

    @property
    def recomputed_flops(self) -> int:
        """What activation checkpointing adds to a record's arithmetic: the blocks' forward pass."""
        return self.flops.encoder + self.flops.exchange + self.flops.decoder

    def micro_batch(self, records: int, *, checkpointing: bool) -> MicroBatch:
        """What so many records ask of a device at once; each case is traced once."""
        case = (records, checkpointing)
        if case not in self._traced:
            self._traced[case] = trace_micro_batch(self.run, records=records, checkpointing=checkpointing)
        return self._traced[case]


def model_shape(run: RunConfig) -> ModelShape:
    """Raises UsageError where the configuration's parts do not fit together."""
    num_samples = run.signal.rate_hz * RECORD_SECONDS
    with torch.device("meta"):
        model = build_model(run.model, run.mask, num_samples=num_samples)
    tensors = [parameter.numel() for parameter in model.parameters()]
    return ModelShape(
        run=run,
        num_parameters=sum(tensors),
        num_tensors=len(tensors),
        num_fetched=sum(numel > STAGE3_PERSISTENT_ELEMENTS for numel in tensors),
        flops=count_flops(run.model, run.mask, num_samples=num_samples),
    )
