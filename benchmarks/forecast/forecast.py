"""A run on a machine: step time and its parts, memory, throughput, hours, and what limits it first. All modelled.

products, memory traffic   the model's own, one after the other, as eager execution has them
update                     what DeepSpeed and AdamW move of gradients, weights and moments
host                       issuing all that: on an accelerator only what it takes longer than the device does
network                    after the backward pass, as our engine configures DeepSpeed (``overlap_comm`` off)

Reading goes on meanwhile: it costs time only where it takes longer than all of that.
"""

import math
from dataclasses import dataclass

from lamae.benchmarks.forecast.machine import Machine
from lamae.benchmarks.forecast.memory import Memory, device_memory
from lamae.benchmarks.forecast.model import ModelShape
from lamae.benchmarks.forecast.network import all_reduces_gradients, collective_s, step_traffic
from lamae.train.schedule import BatchPlan

RECORD_BYTES = 120_128
"""12 leads of 5000 int16 and the header of their array."""
CHECKPOINT_BYTES_PER_PARAMETER = 12
UPDATE_BYTES = {0: (68, 0), 1: (24, 90), 2: (24, 93), 3: (25, 91)}
ACCUMULATION_BYTES = {0: (12, 0), 1: (9, 0), 2: (24, 23), 3: (24, 20)}
"""Bytes that DeepSpeed 0.19.8 and AdamW move by ZeRO stage, for each parameter and for each that a rank owns: in a
step, and in each further micro-batch. Means of fp32 and bf16 as counted at torch's dispatcher; a test counts again."""
ENGINE_HOST_S = {0: (10e-6, 1e-6), 1: (57e-6, 9e-6), 2: (67e-6, 60e-6), 3: (242e-6, 203e-6)}
"""Seconds that DeepSpeed 0.19.8 takes of the host per parameter tensor: hooks, copies, checks, fetching of modules; in
a step, and in each further micro-batch. Measured on one rank of an EPYC core; a GPU's driver is not in it."""


@dataclass(frozen=True)
class Forecast:
    """One world size at one ZeRO stage."""

    world_size: int
    zero_stage: int
    batch: BatchPlan
    checkpointing: bool
    moments: list[Memory]
    """Of a step, the largest first."""
    fits: bool
    parts_s: dict[str, float]
    """Seconds of a step by what they are spent on; they do not overlap."""
    reading_s: float
    """Of a step's records from storage, while the device computes."""
    checkpoint_s: float
    """From snapshot to durable, in the background."""
    snapshot_s: float
    """Of it, what training waits for."""
    loader_bytes_per_s: float
    """That each node has to read."""

    @property
    def memory(self) -> Memory:
        """At the peak."""
        return self.moments[0]

    @property
    def step_s(self) -> float:
        return max(sum(self.parts_s.values()), self.reading_s)

    @property
    def records_per_s(self) -> float:
        return self.batch.per_rank * self.world_size / self.step_s

    @property
    def bottleneck(self) -> str:
        """What to change first."""
        if not self.fits:
            return "memory: does not fit"
        if self.reading_s > sum(self.parts_s.values()):
            return "storage"
        return max(self.parts_s, key=lambda name: self.parts_s[name])

    def hours(self, *, records: int, epochs: float) -> float:
        return records * epochs / self.records_per_s / 3600


def forecast(
    shape: ModelShape, machine: Machine, batch: BatchPlan, *, zero_stage: int, precision: str, checkpointing: bool
) -> Forecast:
    """Every number of it is modelled."""
    moments = device_memory(shape, batch, zero_stage=zero_stage, precision=precision, checkpointing=checkpointing)
    micro = shape.micro_batch(batch.micro, checkpointing=checkpointing)
    parts = {
        "products": shape.step_flops(checkpointing=checkpointing) * batch.per_rank / machine.flops_per_s,
        "memory traffic": micro.moved_bytes * batch.accumulation / machine.memory_bytes_per_s,
        "update": update_bytes(shape, batch, zero_stage=zero_stage) / machine.stream_bytes_per_s,
    }
    first, further = ENGINE_HOST_S[zero_stage]
    host_s = micro.operations * batch.accumulation * machine.launch_s
    host_s += shape.num_tensors * (first + (batch.accumulation - 1) * further)
    parts["host"] = host_s if machine.host_is_device else max(host_s - sum(parts.values()), 0.0)
    parts["network"] = _network_s(shape, machine, batch, zero_stage=zero_stage, precision=precision)
    node_bytes = batch.per_rank * min(batch.world_size, machine.devices_per_node) * RECORD_BYTES
    reading_s = node_bytes / machine.storage_bytes_per_s
    state_bytes = CHECKPOINT_BYTES_PER_PARAMETER * shape.num_parameters
    num_nodes = math.ceil(batch.world_size / machine.devices_per_node)
    return Forecast(
        world_size=batch.world_size,
        zero_stage=zero_stage,
        batch=batch,
        checkpointing=checkpointing,
        moments=moments,
        fits=moments[0].total <= machine.memory_bytes,
        parts_s=parts,
        reading_s=reading_s,
        checkpoint_s=state_bytes / num_nodes / machine.storage_bytes_per_s,
        snapshot_s=state_bytes / batch.world_size / machine.host_bytes_per_s,
        loader_bytes_per_s=node_bytes / max(sum(parts.values()), reading_s),
    )


def update_bytes(shape: ModelShape, batch: BatchPlan, *, zero_stage: int) -> float:
    """Read and written in a step beside the model's own passes."""
    further = batch.accumulation - 1
    (whole, share), (whole_again, share_again) = UPDATE_BYTES[zero_stage], ACCUMULATION_BYTES[zero_stage]
    owned = (share + further * share_again) / batch.world_size
    return (whole + further * whole_again + owned) * shape.num_parameters


def _network_s(shape: ModelShape, machine: Machine, batch: BatchPlan, *, zero_stage: int, precision: str) -> float:
    if batch.world_size == 1:
        return 0.0
    traffic = step_traffic(
        zero_stage=zero_stage,
        precision=precision,
        num_parameters=shape.num_parameters,
        num_tensors=shape.num_tensors,
        accumulation=batch.accumulation,
        world_size=batch.world_size,
        all_reduces=all_reduces_gradients(shape.run.engine.deepspeed),
    )
    return sum(
        collective_s(
            one,
            world_size=batch.world_size,
            devices_per_node=machine.devices_per_node,
            in_node=machine.in_node,
            between_nodes=machine.between_nodes,
            passes=machine.passes,
        )
        for one in traffic
    )
