"""What DeepSpeed 0.19.8, configured as in lamae.train.engine, holds, sends and moves by ZeRO stage.

As seen at torch's allocator, collectives and dispatcher, which is not always what Rajbhandari et al. 2020 describe;
``docs/scaling.md`` says how. Master weights and AdamW moments are float32, gradients travel as float32 whatever the
precision. Stages 1 and 2 allocate a bucket in the weights' precision with the first gradient and drop it after the
last; stage 3 keeps a float32 one for good.
"""

import math
from dataclasses import dataclass

from lamae.benchmarks.forecast.machine import Collective
from lamae.benchmarks.forecast.model import ModelShape
from lamae.train.schedule import BatchPlan

GRADIENT_BYTES = 4
BUCKET_ELEMENTS = STAGE3_PREFETCH_ELEMENTS = 50_000_000
STAGE3_LIVE_PARAMETERS = 1_000_000_000
"""Of a model with fewer parameters stage 3 gathers every weight once and keeps it to the end of the step."""
UPDATE_BYTES = {0: (68, 0), 1: (24, 90), 2: (24, 93), 3: (25, 91)}
ACCUMULATION_BYTES = {0: (12, 0), 1: (9, 0), 2: (24, 23), 3: (24, 20)}
"""Bytes that DeepSpeed and AdamW move by ZeRO stage, for each parameter and for each that a rank owns: in a step, and
in each further micro-batch. Means of fp32 and bf16; a test counts again."""
ENGINE_HOST_S = {0: (10e-6, 1e-6), 1: (57e-6, 9e-6), 2: (67e-6, 60e-6), 3: (242e-6, 203e-6)}
"""Seconds that DeepSpeed takes of the host per parameter tensor: hooks, copies, checks, fetching of modules; in a step,
and in each further micro-batch. Measured on one rank of an EPYC core; a GPU's driver is not in it."""


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
    unwritten: float
    """Of the buffers, what is allocated and not written: memory on a GPU, none yet on a CPU."""

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.buffers + self.activations

    @property
    def written(self) -> float:
        return self.total - self.unwritten


def device_memory(shape: ModelShape, batch: BatchPlan, *, zero_stage: int, checkpointing: bool) -> list[Memory]:
    """Backward pass and update, the larger first; without the allocator's slack and a CUDA context."""
    num, item, several = shape.num_parameters, shape.weight_bytes, batch.world_size > 1
    share = num / batch.world_size
    filled = GRADIENT_BYTES * min(num, BUCKET_ELEMENTS)
    activations = shape.micro_batch(batch.micro, checkpointing=checkpointing).peak_bytes
    if zero_stage == 0:
        backward = Memory(item * num, GRADIENT_BYTES * num, 8 * num, 0, activations, 0)
        update = Memory(item * num, GRADIENT_BYTES * num, 8 * num, filled if several else 0, 0, 0)
    elif zero_stage == 3:
        bucket = GRADIENT_BYTES * BUCKET_ELEMENTS
        gathered = item * min(num, STAGE3_LIVE_PARAMETERS) if several else 0
        fetched = item * min(num, STAGE3_PREFETCH_ELEMENTS) if several else 0
        states = GRADIENT_BYTES * share, 12 * share
        backward = Memory(item * share + gathered, *states, bucket + fetched, activations, bucket - filled)
        update = Memory(item * share, *states, bucket + 4 * share, 0, bucket - filled)
    else:
        # Gradients outlive the bucket only where micro-batches accumulate: whole at stage 1, this rank's at stage 2.
        bucket, own = item * BUCKET_ELEMENTS, (item if zero_stage == 1 else GRADIENT_BYTES) * share
        kept = 0 if batch.accumulation == 1 else item * num if zero_stage == 1 else own
        backward = Memory(item * num, kept, 12 * share, bucket, activations, bucket)
        update = Memory(item * num, own, 12 * share, 4 * share, 0, 0)
    return sorted((backward, update), key=lambda memory: memory.total, reverse=True)


def step_traffic(shape: ModelShape, batch: BatchPlan, *, zero_stage: int) -> list[Collective]:
    """Collectives of a step, the few bytes of norms and flags left out; none where there is one rank.

    Stages 2 and 3 reduce after every micro-batch, stage 3 gathers each weight once per step. Stages 1 and 2 all-reduce
    their buckets and keep their own part; with ``zero_optimization.use_multi_rank_bucket_allreduce`` off each rank's
    part is reduced to it alone.
    """
    if batch.world_size == 1:
        return []
    buckets = math.ceil(shape.num_parameters / BUCKET_ELEMENTS)
    reductions = batch.accumulation if zero_stage >= 2 else 1
    operation, calls = "reduce_scatter" if zero_stage == 3 else "all_reduce", buckets * reductions
    raw = shape.run.engine.deepspeed.get("zero_optimization", {})
    if zero_stage in (1, 2) and not raw.get("use_multi_rank_bucket_allreduce", True):
        # A bucket holds the parts of as many ranks as lie in it, and borders fall within buckets.
        operation, calls = "reduce", (batch.world_size + buckets - 1) * reductions
    collectives = [Collective(operation, GRADIENT_BYTES * shape.num_parameters * reductions, calls)]
    if zero_stage >= 1:
        calls = shape.num_tensors if zero_stage == 3 else buckets
        collectives.append(Collective("all_gather", shape.weight_bytes * shape.num_parameters, calls))
    return collectives


def update_bytes(shape: ModelShape, batch: BatchPlan, *, zero_stage: int) -> float:
    """Read and written in a step beside the model's own passes."""
    further = batch.accumulation - 1
    (whole, share), (whole_again, share_again) = UPDATE_BYTES[zero_stage], ACCUMULATION_BYTES[zero_stage]
    owned = (share + further * share_again) / batch.world_size
    return (whole + further * whole_again + owned) * shape.num_parameters
