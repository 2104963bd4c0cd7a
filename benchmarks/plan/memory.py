"""Bytes that one device holds, by ZeRO stage: weights, gradients, optimiser, communication buffers, activations.

As DeepSpeed 0.19.8 does it with our configuration (compare Rajbhandari et al. 2020, section 5): master weights and two
moments are float32; stages 1 and 2 keep a float32 master of their part also when training in float32; stage 3 gathers
weights and keeps them to the end of the step while the model is below its ``stage3_max_live_parameters``.
"""

from dataclasses import dataclass

from benchmarks.plan.shape import ModelShape
from benchmarks.plan.traffic import BUCKET_ELEMENTS, GRADIENT_BYTES, WEIGHT_BYTES

STAGE3_LIVE_PARAMETERS = 1_000_000_000


@dataclass(frozen=True)
class Memory:
    """Bytes on one device at the peak of a step."""

    weights: float
    gradients: float
    optimizer: float
    """Master weights and moments."""
    buffers: float
    """What is being reduced or gathered."""
    activations: float

    @property
    def states(self) -> float:
        """What stays from step to step, gradients included."""
        return self.weights + self.gradients + self.optimizer

    @property
    def total(self) -> float:
        return self.states + self.buffers + self.activations


def device_memory(
    shape: ModelShape, *, zero_stage: int, precision: str, world_size: int, micro_batch_size: int, checkpointing: bool
) -> Memory:
    """Modelled, without the allocator's slack and the few hundred MB of a CUDA context."""
    item, num = WEIGHT_BYTES[precision], shape.num_parameters
    share = 1 / world_size
    weights = float(num * item)
    if zero_stage == 3:
        weights = num * item * share + min(num, STAGE3_LIVE_PARAMETERS) * item
    # Float32 accumulation, but for stage 1, which accumulates in the weights' precision.
    gradient_item = item if zero_stage == 1 else GRADIENT_BYTES
    gradients = num * gradient_item * (share if zero_stage >= 2 else 1.0)
    optimizer = 8.0 * num if zero_stage == 0 else 12.0 * num * share
    bucket = min(num, BUCKET_ELEMENTS)
    buffers = float(bucket * GRADIENT_BYTES) if world_size > 1 else 0.0
    if zero_stage >= 1:
        buffers += num * 4 * share  # the step's float32 copy of this rank's gradients
    if zero_stage >= 2:
        buffers += bucket * item
    kept = shape.checkpointed_bytes if checkpointing else shape.activation_bytes
    return Memory(weights, gradients, optimizer, buffers, kept * micro_batch_size)
