"""Bytes that one device holds, by ZeRO stage: weights, gradients, optimiser, communication buffers, activations.

As DeepSpeed 0.19.8 does it with our configuration (compare Rajbhandari et al. 2020, section 5), seen at the allocator:

- master weights and two moments are float32; stages 1 and 2 keep a float32 master of their part also when training in
  float32;
- stages 1 and 2 allocate a whole bucket in the weights' precision as the first gradient comes, whatever the size of the
  model, and let go of it after the last; stage 3 keeps a float32 one for good, and a float32 buffer for its gradients;
- gradients go into the bucket as they come. Before the step they are there only where micro-batches accumulate: at
  stage 1 whole, at stage 2 this rank's part in float32;
- stage 3 gathers weights and keeps them to the end of the step while the model is below its
  ``stage3_max_live_parameters``, and what it prefetched them into for as long as the forward pass takes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from lamae.benchmarks.plan.shape import ModelShape
from lamae.benchmarks.plan.traffic import BUCKET_ELEMENTS, GRADIENT_BYTES, WEIGHT_BYTES
from lamae.train.schedule import BatchPlan

STAGE3_LIVE_PARAMETERS = 1_000_000_000
STAGE3_PREFETCH_ELEMENTS = 50_000_000


@dataclass(frozen=True)
class Memory:
    """Bytes on one device at one moment of a step."""

    moment: str
    weights: float
    gradients: float
    optimizer: float
    """Master weights and moments."""
    buffers: float
    """What is being reduced, gathered or handed to the optimiser."""
    activations: float
    unwritten: float = 0.0
    """Of the buffers, what was allocated and not written by then: no memory yet on a CPU, memory on a GPU."""

    @property
    def states(self) -> float:
        """What stays from step to step, gradients included."""
        return self.weights + self.gradients + self.optimizer

    @property
    def total(self) -> float:
        return self.states + self.buffers + self.activations

    @property
    def written(self) -> float:
        return self.total - self.unwritten


def device_memory(
    shape: ModelShape, batch: BatchPlan, *, zero_stage: int, precision: str, checkpointing: bool
) -> list[Memory]:
    """The moments of a step that can be the peak, the largest first.

    Modelled, without the allocator's slack and the few hundred MB of a CUDA context.
    """
    if zero_stage == 0:
        moments = _stage_0(shape, batch, checkpointing=checkpointing)
    elif zero_stage == 3:
        moments = _stage_3(shape, batch, precision=precision, checkpointing=checkpointing)
    else:
        moments = _stages_1_and_2(shape, batch, stage=zero_stage, precision=precision, checkpointing=checkpointing)
    return sorted(moments, key=lambda memory: memory.total, reverse=True)


def _stage_0(shape: ModelShape, batch: BatchPlan, *, checkpointing: bool) -> Iterator[Memory]:
    num, micro = shape.num_parameters, shape.micro_batch(batch.micro, checkpointing=checkpointing)
    weights, gradients, optimizer = 4.0 * num, float(GRADIENT_BYTES * num), 8.0 * num
    made = gradients if batch.accumulation > 1 else micro.peak_with_gradients_bytes - micro.peak_bytes
    yield Memory("backward", weights, made, optimizer, 0, micro.peak_bytes)
    if batch.world_size > 1:
        yield Memory("reduction", weights, gradients, optimizer, min(num, BUCKET_ELEMENTS) * GRADIENT_BYTES, 0)


def _stages_1_and_2(
    shape: ModelShape, batch: BatchPlan, *, stage: int, precision: str, checkpointing: bool
) -> Iterator[Memory]:
    item, num, share = WEIGHT_BYTES[precision], shape.num_parameters, 1 / batch.world_size
    micro = shape.micro_batch(batch.micro, checkpointing=checkpointing)
    weights, optimizer = float(item * num), 12.0 * num * share
    accumulated = item * num if stage == 1 else GRADIENT_BYTES * num * share
    held = accumulated if batch.accumulation > 1 else 0.0
    bucket, filled = float(BUCKET_ELEMENTS * item), min(num, BUCKET_ELEMENTS)
    yield Memory("backward", weights, held, optimizer, bucket, micro.peak_bytes, unwritten=bucket)
    own = (item if stage == 1 else GRADIENT_BYTES) * num * share
    if batch.world_size > 1 or stage == 2:
        # The first bucket is full when its part of the gradients is made, and so much of the activations is gone.
        left = micro.kept_bytes * (1 - filled / num)
        copies = filled * item + (filled * GRADIENT_BYTES if item != GRADIENT_BYTES else 0.0)
        unwritten = bucket - filled * item
        yield Memory("reduction", weights, max(held, own), optimizer, bucket + copies, left, unwritten=unwritten)
    # This rank's gradients, flattened and then in float32.
    update = 4.0 * num * share + (item * num * share if item != 4 and stage == 1 else 0.0)
    yield Memory("update", weights, own, optimizer, update, 0)


def _stage_3(shape: ModelShape, batch: BatchPlan, *, precision: str, checkpointing: bool) -> Iterator[Memory]:
    item, num, share = WEIGHT_BYTES[precision], shape.num_parameters, 1 / batch.world_size
    micro = shape.micro_batch(batch.micro, checkpointing=checkpointing)
    own, gathered, prefetched = item * num * share, 0.0, 0.0
    if batch.world_size > 1:
        gathered = item * min(num, STAGE3_LIVE_PARAMETERS)
        prefetched = item * min(num, STAGE3_PREFETCH_ELEMENTS)
    gradients, optimizer = GRADIENT_BYTES * num * share, 12.0 * num * share
    bucket = float(BUCKET_ELEMENTS * GRADIENT_BYTES)
    unwritten = bucket - min(num, BUCKET_ELEMENTS) * GRADIENT_BYTES
    yield Memory(
        "backward", own + gathered, gradients, optimizer, bucket + prefetched, micro.peak_bytes, unwritten=unwritten
    )
    yield Memory("update", own, gradients, optimizer, bucket + 4.0 * num * share, 0, unwritten=unwritten)
