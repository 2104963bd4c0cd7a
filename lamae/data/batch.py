"""What the loader hands to the training loop: one rank's share of one optimiser step, as recorded."""

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch


@dataclass
class Batch:
    """B records in ADC units. B is the global batch size divided by the world size.

    A batch from ``RingLoader`` is valid until the loader's next ``next()``: its ``adc`` is a reused buffer.
    """

    adc: torch.Tensor
    """int16 ``[B, 12, T]``, canonical lead order; -32768 is "no sample"."""

    gain: torch.Tensor
    """float32 ``[B, 12]``: ADC units per millivolt."""

    baseline: torch.Tensor
    """float32 ``[B, 12]``: ADC value of 0 mV."""

    lead_mask: torch.Tensor
    """bool ``[B, 12]``: True where the lead is there and usable."""

    row: torch.Tensor
    """int64 ``[B]``: rows of the shard set."""

    epoch: torch.Tensor
    """int64 ``[B]``: how often the stream had gone through all records before; with the seed and the row it keys
    every random choice about a record."""

    samples_consumed: int
    """The loader's whole state once this batch has been trained on, over all ranks."""

    may_miss_samples: torch.Tensor
    """bool ``[B]``, always on the CPU: records that hold -32768 in a usable lead, so that no device has to look."""

    set_of: torch.Tensor | None = None
    """int64 ``[B]``, always on the CPU: the set of a mixture that each record is from; None where there is one set.
    A record shorter than T then lies as ``[12, T of its set]`` at the start of its part of ``adc``."""

    num_replaced: int = 0
    """Unreadable records of this batch in whose place others were read (``data.on_corrupt=skip``)."""

    on_copy: Callable[[], Any] | None = field(default=None, repr=False)
    """Called after an asynchronous copy of ``adc`` was started, so that its owner waits before reusing the memory."""

    def __len__(self) -> int:
        return len(self.row)

    def micro_batches(self, n: int) -> Iterator["Batch"]:
        """The batch in ``n`` equal contiguous parts; views, no copies. Raises ValueError unless ``n`` divides it."""
        if n < 1 or len(self) % n:
            raise ValueError(f"a batch of {len(self)} records cannot be cut into {n} equal micro-batches")
        size = len(self) // n
        for start in range(0, len(self), size):
            yield self._with_each(operator.itemgetter(slice(start, start + size)))

    def of_one_set(self, place: torch.Tensor, *, num_samples: int) -> "Batch":
        """The records at ``place`` (int64, on the CPU), all of one set with ``num_samples`` samples per lead."""
        there = place.to(self.adc.device, non_blocking=True)
        part = self._with_each(lambda tensor: tensor[there if tensor.device == there.device else place])
        num_leads = self.adc.shape[1]
        part.adc = part.adc.flatten(1)[:, : num_leads * num_samples].unflatten(1, (num_leads, num_samples))
        return part

    def to(self, device: torch.device | str) -> "Batch":
        """The batch on ``device``, copied without waiting where the memory is pinned."""
        device = torch.device(device)
        if device == self.adc.device:
            return self
        moved = self._with_each(lambda tensor: tensor.to(device, non_blocking=True))
        moved.may_miss_samples, moved.set_of = self.may_miss_samples, self.set_of
        if self.on_copy is not None:
            self.on_copy()
        return moved

    def _with_each(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        return replace(
            self,
            adc=function(self.adc),
            gain=function(self.gain),
            baseline=function(self.baseline),
            lead_mask=function(self.lead_mask),
            row=function(self.row),
            epoch=function(self.epoch),
            may_miss_samples=function(self.may_miss_samples),
            set_of=None if self.set_of is None else function(self.set_of),
        )
