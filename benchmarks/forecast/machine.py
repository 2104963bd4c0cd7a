"""What machines can do: a table of accelerators and networks by their vendors, per device and direction, and the rates
that a real program is assumed to reach of them."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from lamae.base.errors import UsageError

GB, TFLOP = 1e9, 1e12
PRODUCTS_SHARE, MEMORY_SHARE, NETWORK_SHARE = 0.45, 0.7, 0.8
"""Assumed: of the arithmetic peak in products of width 384 to 1024, of the memory bandwidth, of a line rate."""
KERNEL_LAUNCH_S = 6e-6
"""Host time per operation of eager PyTorch; a device that is faster than its host waits for it."""
NODE_LINK_LATENCY_S = 3e-6
STORAGE_BYTES_PER_S = 2 * GB
"""Reading and writing of one node; ask those who run the file system."""
RING_PASSES = {"all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0, "reduce": 1.0}
"""How often an operation goes around with a rank's share: an all-reduce is a reduce-scatter and an all-gather."""


@dataclass(frozen=True)
class Link:
    """What carries a message from device to device."""

    bytes_per_s: float
    latency_s: float


@dataclass(frozen=True)
class Collective:
    """One kind of exchange in a step."""

    operation: str
    """all_reduce, all_gather, reduce_scatter, or reduce (of each rank's part to that rank)."""
    num_bytes: float
    """Of the whole tensors, over all calls of a step."""
    calls: int


class Gpu(NamedTuple):
    """An accelerator; NVIDIA's data sheets: H100 (2023), H200 (2024), A100 (2021), L40S (2023)."""

    bf16: float
    """Dense tera-operations per second of the matrix units; fp32 is TF32 off."""
    fp32: float
    memory_gb: float
    memory_gb_per_s: float
    node_link_gb_per_s: float
    """To the other devices of its node, and by PCIe to host memory, in one direction."""
    host_gb_per_s: float


GPUS = {
    "h100": Gpu(989, 67, 80, 3350, 450, 64),
    "h200": Gpu(989, 67, 141, 4800, 450, 64),
    "a100-80": Gpu(312, 19.5, 80, 2040, 300, 32),
    "a100-40": Gpu(312, 19.5, 40, 1560, 300, 32),
    "l40s": Gpu(362, 91.6, 48, 864, 32, 32),
}
# Between nodes, per device: line rates by standard, latencies of the order that vendors' benchmarks show.
INTERCONNECTS = {
    "ib-ndr": Link(50 * GB, 5e-6),
    "ib-hdr": Link(25 * GB, 5e-6),
    "ib-hdr-shared4": Link(6.25 * GB, 5e-6),
    "ethernet-100-shared8": Link(1.5625 * GB, 30e-6),
    "ethernet-25-shared8": Link(0.390625 * GB, 30e-6),
}


@dataclass(frozen=True)
class Machine:
    """Effective rates of one device and of what links it to the others."""

    name: str
    flops_per_s: float
    memory_bytes_per_s: float
    """In what a model does beside its products."""
    stream_bytes_per_s: float
    """In passes over weights, gradients and moments."""
    devices_per_node: int
    in_node: Link
    between_nodes: Link
    memory_bytes: float = math.inf
    host_bytes_per_s: float = math.inf
    storage_bytes_per_s: float = math.inf
    launch_s: float = KERNEL_LAUNCH_S
    host_is_device: bool = False
    """Whether the processor that issues operations carries them out: then neither hides the other."""

    def collective_s(self, collective: Collective, *, world_size: int) -> float:
        """Seconds of all calls: latency, and bytes over rate.

        Rings within a node; between nodes the devices of the same place form a ring of their own, and latency grows
        with the logarithm of the nodes (Thakur, Rabenseifner, Gropp 2005; Sanders, Speck, Träff 2009).
        """
        inside, nodes = min(world_size, self.devices_per_node), math.ceil(world_size / self.devices_per_node)
        hops = (inside - 1) * self.in_node.latency_s + math.ceil(math.log2(nodes)) * self.between_nodes.latency_s
        seconds_per_byte = (inside - 1) / inside / self.in_node.bytes_per_s
        seconds_per_byte += (nodes - 1) / nodes / inside / self.between_nodes.bytes_per_s
        seconds = collective.calls * hops + collective.num_bytes * seconds_per_byte
        return RING_PASSES[collective.operation] * seconds


def describe_machine(
    gpu: str, interconnect: str, *, precision: str, devices_per_node: int = 8, storage: float = STORAGE_BYTES_PER_S
) -> Machine:
    """A machine of the table, whose nodes read and write ``storage`` bytes per second. Raises UsageError naming what
    the table holds."""
    for option, chosen, table in (("--gpu", gpu, GPUS), ("--interconnect", interconnect, INTERCONNECTS)):
        if chosen not in table:
            raise UsageError(f"{option} {chosen}: the table holds {', '.join(table)}")
    if devices_per_node < 1:
        raise UsageError(f"--gpus-per-node {devices_per_node}: at least 1")
    device, network = GPUS[gpu], INTERCONNECTS[interconnect]
    memory_bytes_per_s = device.memory_gb_per_s * GB * MEMORY_SHARE
    return Machine(
        name=f"{gpu}, {devices_per_node} per node, {interconnect}",
        flops_per_s=getattr(device, precision) * TFLOP * PRODUCTS_SHARE,
        memory_bytes_per_s=memory_bytes_per_s,
        stream_bytes_per_s=memory_bytes_per_s,
        devices_per_node=devices_per_node,
        in_node=Link(device.node_link_gb_per_s * GB * NETWORK_SHARE, NODE_LINK_LATENCY_S),
        between_nodes=Link(network.bytes_per_s * NETWORK_SHARE, network.latency_s),
        memory_bytes=device.memory_gb * GB,
        host_bytes_per_s=device.host_gb_per_s * GB * MEMORY_SHARE,
        storage_bytes_per_s=storage,
    )
