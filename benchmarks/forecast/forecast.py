"""A run on a machine: memory, step time and its parts, throughput, hours, and what limits it first. All modelled.

products, memory traffic   the model's own, one after the other, as eager execution has them
update                     what DeepSpeed and AdamW move of gradients, weights and moments
host                       issuing all that: on an accelerator only what it takes longer than the device does
network                    after the backward pass, as our engine configures DeepSpeed (``overlap_comm`` off)

Reading goes on meanwhile: it costs time only where it takes longer than all of that.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lamae.benchmarks.forecast.engine import ENGINE_HOST_S, Memory, device_memory, step_traffic, update_bytes
from lamae.benchmarks.forecast.machine import Machine
from lamae.benchmarks.forecast.model import ModelShape
from lamae.train.schedule import BatchPlan

RECORD_BYTES = 120_128
"""12 leads of 5000 int16 and the header of their array."""
CHECKPOINT_BYTES_PER_PARAMETER = 12


@dataclass(frozen=True)
class Forecast:
    """One world size at one ZeRO stage."""

    gpus: int
    zero_stage: int
    global_batch_size: int
    micro_batch_size: int
    accumulation: int
    activation_checkpointing: bool
    memory: Memory
    """At the peak."""
    fits: bool
    step_s: float
    parts_s: dict[str, float]
    """What a step's seconds are spent on; these do not overlap."""
    reading_s: float
    """Of a step's records from storage, while the device computes."""
    records_per_s: float
    loader_bytes_per_s_and_node: float
    checkpoint_s: float
    """From snapshot to durable, in the background."""
    snapshot_s: float
    """Of it, what training waits for."""
    bottleneck: str
    """What to change first."""

    def hours(self, *, records: int, epochs: float) -> float:
        return records * epochs / self.records_per_s / 3600

    def to_dict(self, corpora: Sequence[int], epochs: float) -> dict[str, Any]:
        """For JSON, with the hours of ``epochs`` of so many records each."""
        values, hours = asdict(self), {str(n): self.hours(records=n, epochs=epochs) for n in corpora}
        values["memory_bytes"] = {**values.pop("memory"), "total": self.memory.total}
        values["parts_s"]["reading (overlapped)"] = values.pop("reading_s")
        return values | {"hours": hours, "gpu_hours": {n: each * self.gpus for n, each in hours.items()}}


def forecast(
    shape: ModelShape, machine: Machine, batch: BatchPlan, *, zero_stage: int, checkpointing: bool = False
) -> Forecast:
    """Every number of it is modelled."""
    gpus, micro = batch.world_size, shape.micro_batch(batch.micro, checkpointing=checkpointing)
    parts = {
        "products": shape.step_flops(checkpointing=checkpointing) * batch.per_rank / machine.flops_per_s,
        "memory traffic": micro.moved_bytes * batch.accumulation / machine.memory_bytes_per_s,
        "update": update_bytes(shape, batch, zero_stage=zero_stage) / machine.stream_bytes_per_s,
    }
    first, further = ENGINE_HOST_S[zero_stage]
    issuing_s = micro.operations * batch.accumulation * machine.launch_s
    issuing_s += shape.num_tensors * (first + (batch.accumulation - 1) * further)
    parts["host"] = issuing_s if machine.host_is_device else max(issuing_s - sum(parts.values()), 0.0)
    traffic = step_traffic(shape, batch, zero_stage=zero_stage)
    parts["network"] = sum(machine.collective_s(one, world_size=gpus) for one in traffic)
    node_bytes = RECORD_BYTES * batch.per_rank * min(gpus, machine.devices_per_node)
    reading_s = node_bytes / machine.storage_bytes_per_s
    step_s = max(sum(parts.values()), reading_s)
    memory = device_memory(shape, batch, zero_stage=zero_stage, checkpointing=checkpointing)[0]
    fits = memory.total <= machine.memory_bytes
    limit = "storage" if step_s > sum(parts.values()) else max(parts, key=lambda name: parts[name])
    state_bytes = CHECKPOINT_BYTES_PER_PARAMETER * shape.num_parameters
    return Forecast(
        gpus=gpus,
        zero_stage=zero_stage,
        global_batch_size=batch.per_rank * gpus,
        micro_batch_size=batch.micro,
        accumulation=batch.accumulation,
        activation_checkpointing=checkpointing,
        memory=memory,
        fits=fits,
        step_s=step_s,
        parts_s=parts,
        reading_s=reading_s,
        records_per_s=batch.per_rank * gpus / step_s,
        loader_bytes_per_s_and_node=node_bytes / step_s,
        checkpoint_s=state_bytes / math.ceil(gpus / machine.devices_per_node) / machine.storage_bytes_per_s,
        snapshot_s=state_bytes / gpus / machine.host_bytes_per_s,
        bottleneck=limit if fits else "memory: does not fit",
    )
