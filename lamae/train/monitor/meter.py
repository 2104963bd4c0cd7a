"""Sums over the steps of a logging interval, kept on the device and brought to the host once per interval."""

from dataclasses import dataclass

import torch

from lamae.train.engine import StepOutput
from lamae.train.ranks.distributed import Ranks


@dataclass
class Interval:
    """Means over ranks of what happened since the previous interval, on the host."""

    losses: list[float]
    """Mean loss of the global batch, one per step, in order."""
    parts: dict[str, float]
    """Mean of each part of the loss over the micro-batches where it was defined; those never defined are left out."""
    lead_weights: list[float]
    """Mean pooling weight of each lead."""

    @property
    def loss(self) -> float:
        """Mean over the steps with a finite loss; NaN where there was none."""
        finite = [loss for loss in self.losses if loss == loss and abs(loss) != float("inf")]
        return sum(finite) / len(finite) if finite else float("nan")


class Meter:
    """Accumulates outputs of micro-batches without looking at them."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._step_losses: list[torch.Tensor] = []
        self._parts: tuple[str, ...] = ()
        self._part_sums: torch.Tensor | None = None
        self._lead_weights: torch.Tensor | None = None
        self._num_outputs = 0

    def add_step(self, outputs: list[StepOutput]) -> None:
        """Count one optimiser step: the outputs of its equal micro-batches."""
        self._step_losses.append(torch.stack([output.loss.detach().float() for output in outputs]).mean())
        for output in outputs:
            if output.aux["parts"]:
                # Mean over defined values: a micro-batch may have masked no sample of a kind.
                values = torch.stack(list(output.aux["parts"].values())).float()
                defined = torch.isfinite(values)
                sums = torch.stack([torch.where(defined, values, 0.0), defined.float()])
                self._parts = tuple(output.aux["parts"])
                self._part_sums = sums if self._part_sums is None else self._part_sums + sums
            weights_L = output.aux["lead_weights_BL"].float().mean(0)
            self._lead_weights = weights_L if self._lead_weights is None else self._lead_weights + weights_L
        self._num_outputs += len(outputs)

    def read(self, ranks: Ranks) -> Interval:
        """Bring the interval to the host, averaged over ranks, and begin the next. Synchronises."""
        assert self._lead_weights is not None, "read() needs at least one step"
        pieces = [torch.stack(self._step_losses), self._lead_weights / self._num_outputs]
        if self._part_sums is not None:
            pieces.append(self._part_sums.flatten())
        values = ranks.mean(torch.cat(pieces).double().cpu()).tolist()
        num_steps, num_leads, names = len(self._step_losses), len(self._lead_weights), self._parts
        sums = values[num_steps + num_leads :]
        pairs = zip(names, sums[: len(names)], sums[len(names) :], strict=True)
        parts = {name: total / count for name, total, count in pairs if count}
        self._reset()
        return Interval(values[:num_steps], parts, values[num_steps : num_steps + num_leads])
