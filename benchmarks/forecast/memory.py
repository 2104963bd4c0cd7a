"""Bytes that one device holds, by ZeRO stage: weights, gradients, optimiser, communication buffers, activations.

As DeepSpeed 0.19.8 does it with our configuration (compare Rajbhandari et al. 2020, section 5), seen at the allocator:

- master weights and both AdamW moments are float32, a float32 master also where training is in float32;
- stages 1 and 2 allocate a whole bucket in the weights' precision with the first gradient and drop it after the last;
  stage 3 keeps a float32 one for good, and a float32 buffer for this rank's gradients;
- gradients outlive the bucket only where micro-batches accumulate: whole at stage 1, this rank's part at stage 2;
- stage 3 gathers all weights of a model below ``stage3_max_live_parameters`` and keeps them to the end of the step.
"""

from dataclasses import dataclass

from lamae.benchmarks.forecast.model import ModelShape
from lamae.benchmarks.forecast.network import BUCKET_ELEMENTS, GRADIENT_BYTES, WEIGHT_BYTES
from lamae.train.schedule import BatchPlan

STAGE3_LIVE_PARAMETERS = 1_000_000_000
STAGE3_PREFETCH_ELEMENTS = 50_000_000


@dataclass(frozen=True)
class Memory:
    """Bytes on one device, during the backward pass or the update."""

    weights: float
    gradients: float
    optimizer: float
    """Master weights and AdamW moments."""
    buffers: float
    """What is being reduced, gathered or handed to the optimiser."""
    activations: float
    unwritten: float = 0.0
    """Of the buffers, what is allocated and not written: memory on a GPU, none yet on a CPU."""

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.buffers + self.activations

    @property
    def written(self) -> float:
        return self.total - self.unwritten


def device_memory(
    shape: ModelShape, batch: BatchPlan, *, zero_stage: int, precision: str, checkpointing: bool
) -> list[Memory]:
    """Backward pass and update, the larger first; without the allocator's slack and a CUDA context."""
    item, num, share = WEIGHT_BYTES[precision], shape.num_parameters, 1 / batch.world_size
    activations = shape.micro_batch(batch.micro, checkpointing=checkpointing).peak_bytes
    alone, filled = batch.world_size == 1, min(num, BUCKET_ELEMENTS)
    weights, optimizer, own = float(item * num), 12.0 * num * share, float(GRADIENT_BYTES * num * share)
    held, bucket, unwritten = own, 0.0, 0.0
    if zero_stage == 0:
        optimizer, own = 8.0 * num, float(GRADIENT_BYTES * num)
        held, update = own, 0.0 if alone else float(filled * GRADIENT_BYTES)
    elif zero_stage == 3:
        weights = item * num * share
        bucket, update = float(BUCKET_ELEMENTS * GRADIENT_BYTES), 4.0 * num * share
        unwritten = bucket - filled * GRADIENT_BYTES
        update += bucket
    else:
        bucket = unwritten = float(BUCKET_ELEMENTS * item)
        own = item * num * share if zero_stage == 1 else own
        held = 0.0 if batch.accumulation == 1 else float(item * num) if zero_stage == 1 else own
        update = 4.0 * num * share
    backward_weights, buffers = weights, bucket
    if zero_stage == 3 and not alone:
        backward_weights += item * min(num, STAGE3_LIVE_PARAMETERS)
        buffers += item * min(num, STAGE3_PREFETCH_ELEMENTS)
    moments = [
        Memory(backward_weights, held, optimizer, buffers, activations, unwritten),
        Memory(weights, own, optimizer, update, 0.0, unwritten if zero_stage == 3 else 0.0),
    ]
    return sorted(moments, key=lambda memory: memory.total, reverse=True)
