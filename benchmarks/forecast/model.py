"""A model as the forecast sees it: parameters, arithmetic, and what one micro-batch holds, moves and issues.

Everything follows from the configuration and the model's own code, run on torch's ``meta`` device, which allocates and
computes nothing.
"""

from dataclasses import dataclass, field

import torch

from lamae.benchmarks.forecast.trace import RECORD_SECONDS, MicroBatch, trace_micro_batch
from lamae.model import build_model
from lamae.model.flops import Flops, count_flops
from lamae.train.runconfig import RunConfig


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
        """Raises UsageError where the configuration's parts do not fit together."""
        num_samples = run.signal.rate_hz * RECORD_SECONDS
        with torch.device("meta"):
            model = build_model(run.model, run.mask, num_samples=num_samples)
        tensors = [parameter.numel() for parameter in model.parameters()]
        return cls(run, sum(tensors), len(tensors), count_flops(run.model, run.mask, num_samples=num_samples))

    def step_flops(self, *, checkpointing: bool) -> int:
        """Of one record; activation checkpointing repeats the forward pass of the blocks."""
        again = self.flops.encoder + self.flops.exchange + self.flops.decoder
        return self.flops.training + (again if checkpointing else 0)

    def micro_batch(self, records: int, *, checkpointing: bool) -> MicroBatch:
        """What so many records ask of a device at once; each case is traced once."""
        case = (records, checkpointing)
        if case not in self._traced:
            self._traced[case] = trace_micro_batch(self.run, records=records, checkpointing=checkpointing)
        return self._traced[case]
