"""What a plan computes with: effective rates of one device and of what links it to the others."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lamae.base.errors import UsageError
from lamae.benchmarks.plan.hardware import (
    ENGINE_HOST,
    GPUS,
    INTERCONNECTS,
    KERNEL_LAUNCH_S,
    NODE_LINK_LATENCY_S,
    STORAGE_BYTES_PER_S,
    Efficiency,
    HostCost,
)
from lamae.benchmarks.plan.network import RING_PASSES, Topology


@dataclass(frozen=True)
class Machine:
    """Effective rates: peaks times the share of them that is assumed or was measured."""

    name: str
    flops_per_s: float
    memory_bytes: float
    memory_bytes_per_s: float
    """In what a model does beside its products."""
    stream_bytes_per_s: float
    """In passes over weights, gradients and moments."""
    host_bytes_per_s: float
    launch_s: float
    """Of the host, per operation."""
    host_is_device: bool
    """Whether the processor that issues operations carries them out: then neither hides the other."""
    engine_host: Mapping[tuple[str, int, str], HostCost]
    """By precision, ZeRO stage and kind of parameter: what DeepSpeed takes of the host."""
    devices_per_node: int
    node_bytes_per_s: float
    node_latency_s: float
    network_bytes_per_s: float
    network_latency_s: float
    storage_bytes_per_s: float
    passes: Mapping[str, float] = field(default_factory=lambda: RING_PASSES)
    """What collectives are worth, in passes around a ring."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        costs = {"_".join(map(str, case)): vars(cost) for case, cost in self.engine_host.items()}
        return {**vars(self), "engine_host": costs}

    def topology(self, world_size: int) -> Topology:
        return Topology(
            world_size,
            self.devices_per_node,
            self.node_bytes_per_s,
            self.node_latency_s,
            self.network_bytes_per_s,
            self.network_latency_s,
            self.passes,
        )


def describe_machine(
    gpu: str,
    interconnect: str,
    *,
    precision: str,
    devices_per_node: int = 8,
    storage_bytes_per_s: float = STORAGE_BYTES_PER_S,
    efficiency: Efficiency | None = None,
) -> Machine:
    """A machine of the table. Raises UsageError naming what the table holds."""
    if gpu not in GPUS:
        raise UsageError(f"--gpu {gpu}: the table holds {', '.join(GPUS)}")
    if interconnect not in INTERCONNECTS:
        raise UsageError(f"--interconnect {interconnect}: the table holds {', '.join(INTERCONNECTS)}")
    if devices_per_node < 1:
        raise UsageError(f"--gpus-per-node {devices_per_node}: at least 1")
    assumed = efficiency or Efficiency()
    device, network = GPUS[gpu], INTERCONNECTS[interconnect]
    return Machine(
        name=f"{gpu}, {devices_per_node} per node, {interconnect}",
        flops_per_s=device.flops[precision] * assumed.products,
        memory_bytes=device.memory_bytes,
        memory_bytes_per_s=device.memory_bytes_per_s * assumed.memory,
        stream_bytes_per_s=device.memory_bytes_per_s * assumed.memory,
        host_bytes_per_s=device.host_bytes_per_s * assumed.memory,
        launch_s=KERNEL_LAUNCH_S,
        host_is_device=False,
        engine_host=ENGINE_HOST,
        devices_per_node=devices_per_node,
        node_bytes_per_s=device.node_link_bytes_per_s * assumed.network,
        node_latency_s=NODE_LINK_LATENCY_S,
        network_bytes_per_s=network.bytes_per_s * assumed.network,
        network_latency_s=network.latency_s,
        storage_bytes_per_s=storage_bytes_per_s,
    )
