"""A run on a machine: step time and its parts, memory, throughput, hours, and what limits it first. All modelled.

device    products + everything else, bound by memory; in eager execution they follow one another
update    what DeepSpeed and AdamW move of gradients, weights and moments
host      issuing all that: on an accelerator only what it takes longer than the device does, on a CPU all of it
network   after the backward pass, as our engine configures DeepSpeed (``overlap_comm`` off)
loader    reads while the device computes: it costs time only where storage or the way to the device is slower
"""

from dataclasses import dataclass

from lamae.benchmarks.plan.hardware import FETCHED, PERSISTENT
from lamae.benchmarks.plan.machine import Machine
from lamae.benchmarks.plan.memory import Memory, device_memory
from lamae.benchmarks.plan.network import collective_s
from lamae.benchmarks.plan.passes import engine_bytes
from lamae.benchmarks.plan.shape import ModelShape
from lamae.benchmarks.plan.traffic import all_reduces_gradients, step_traffic
from lamae.train.schedule import BatchPlan

RECORD_BYTES = 120_128
"""12 leads of 5000 int16 and the header of their array."""
CHECKPOINT_BYTES_PER_PARAMETER = 12


@dataclass(frozen=True)
class Forecast:
    """One world size at one ZeRO stage."""

    world_size: int
    zero_stage: int
    batch: BatchPlan
    checkpointing: bool
    moments: list[Memory]
    """Those of a step that can be the peak, the largest first."""
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
    topology = machine.topology(batch.world_size)
    parts = _local_parts(shape, machine, batch, zero_stage=zero_stage, precision=precision, checkpointing=checkpointing)
    parts["network"] = 0.0
    if batch.world_size > 1:
        traffic = step_traffic(
            zero_stage=zero_stage,
            precision=precision,
            num_parameters=shape.num_parameters,
            num_tensors=shape.num_tensors,
            accumulation=batch.accumulation,
            world_size=batch.world_size,
            all_reduces=all_reduces_gradients(shape.run.engine.deepspeed),
        )
        parts["network"] = sum(collective_s(one, topology) for one in traffic)
    node_bytes = batch.per_rank * topology.node_size * RECORD_BYTES
    reading_s = node_bytes / machine.storage_bytes_per_s
    step_s = max(sum(parts.values()), reading_s)
    state_bytes = CHECKPOINT_BYTES_PER_PARAMETER * shape.num_parameters
    return Forecast(
        world_size=batch.world_size,
        zero_stage=zero_stage,
        batch=batch,
        checkpointing=checkpointing,
        moments=moments,
        fits=moments[0].total <= machine.memory_bytes,
        parts_s=parts,
        reading_s=reading_s,
        checkpoint_s=state_bytes / topology.num_nodes / machine.storage_bytes_per_s,
        snapshot_s=state_bytes / batch.world_size / machine.host_bytes_per_s,
        loader_bytes_per_s=node_bytes / step_s,
    )


def _local_parts(
    shape: ModelShape, machine: Machine, batch: BatchPlan, *, zero_stage: int, precision: str, checkpointing: bool
) -> dict[str, float]:
    """Seconds of a step that a rank spends without the others."""
    micro = shape.micro_batch(batch.micro, checkpointing=checkpointing)
    flops = shape.flops.training + (shape.recomputed_flops if checkpointing else 0)
    passes = engine_bytes(batch, zero_stage=zero_stage, precision=precision, num_parameters=shape.num_parameters)
    device = {
        "products": flops * batch.per_rank / machine.flops_per_s,
        "memory traffic": micro.moved_bytes * batch.accumulation / machine.memory_bytes_per_s,
        "update": passes / machine.stream_bytes_per_s,
    }
    host = micro.operations * batch.accumulation * machine.launch_s
    num_fetched = shape.num_fetched if zero_stage == 3 else 0
    for kind, num_tensors in ((PERSISTENT, shape.num_tensors - num_fetched), (FETCHED, num_fetched)):
        if num_tensors:
            cost = machine.engine_host[precision, zero_stage, kind]
            host += num_tensors * (cost.first + (batch.accumulation - 1) * cost.further)
    hidden = 0.0 if machine.host_is_device else sum(device.values())
    return {**device, "host": max(host - hidden, 0.0)}
