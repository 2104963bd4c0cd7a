"""What machines can do: a table of accelerators and networks, and effective rates out of it.

Rates are the vendors' for dense arithmetic, per device; bandwidths are per device and direction. What a real program
reaches of them is assumed, not measured: the shares below.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from lamae.base.errors import UsageError
from lamae.benchmarks.forecast.network import RING_PASSES, Link

GB, TB, TFLOP = 1e9, 1e12, 1e12
PRODUCTS_SHARE, MEMORY_SHARE, NETWORK_SHARE = 0.45, 0.7, 0.8
"""Assumed: of the arithmetic peak in products of width 384 to 1024, of the memory bandwidth, of a line rate."""
KERNEL_LAUNCH_S = 6e-6
"""Host time per operation of eager PyTorch; a device that is faster than its host waits for it."""
NODE_LINK_LATENCY_S = 3e-6
STORAGE_BYTES_PER_S = 2 * GB
"""Reading and writing of one node; ask those who run the file system."""


@dataclass(frozen=True)
class Gpu:
    """An accelerator. NVIDIA's data sheets: H100 (2023), H200 (2024), A100 (2021), L40S (2023)."""

    flops: dict[str, float]
    """Dense operations per second, matrix units, by precision of weights; fp32 is TF32 off."""
    memory_bytes: float
    memory_bytes_per_s: float
    node_link_bytes_per_s: float
    """To the other devices of its node, one direction."""
    host_bytes_per_s: float
    """To host memory: PCIe, one direction."""


GPUS = {
    "h100": Gpu({"bf16": 989 * TFLOP, "fp32": 67 * TFLOP}, 80 * GB, 3.35 * TB, 450 * GB, 64 * GB),
    "h200": Gpu({"bf16": 989 * TFLOP, "fp32": 67 * TFLOP}, 141 * GB, 4.8 * TB, 450 * GB, 64 * GB),
    "a100-80": Gpu({"bf16": 312 * TFLOP, "fp32": 19.5 * TFLOP}, 80 * GB, 2.04 * TB, 300 * GB, 32 * GB),
    "a100-40": Gpu({"bf16": 312 * TFLOP, "fp32": 19.5 * TFLOP}, 40 * GB, 1.56 * TB, 300 * GB, 32 * GB),
    "l40s": Gpu({"bf16": 362 * TFLOP, "fp32": 91.6 * TFLOP}, 48 * GB, 0.864 * TB, 32 * GB, 32 * GB),
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
    devices_per_node: int
    in_node: Link
    between_nodes: Link
    storage_bytes_per_s: float
    passes: Mapping[str, float] = field(default_factory=lambda: RING_PASSES)
    """What collectives are worth, in passes around a ring."""

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def describe_machine(
    gpu: str,
    interconnect: str,
    *,
    precision: str,
    devices_per_node: int = 8,
    storage_bytes_per_s: float = STORAGE_BYTES_PER_S,
) -> Machine:
    """A machine of the table. Raises UsageError naming what the table holds."""
    if gpu not in GPUS:
        raise UsageError(f"--gpu {gpu}: the table holds {', '.join(GPUS)}")
    if interconnect not in INTERCONNECTS:
        raise UsageError(f"--interconnect {interconnect}: the table holds {', '.join(INTERCONNECTS)}")
    if devices_per_node < 1:
        raise UsageError(f"--gpus-per-node {devices_per_node}: at least 1")
    device, network = GPUS[gpu], INTERCONNECTS[interconnect]
    return Machine(
        name=f"{gpu}, {devices_per_node} per node, {interconnect}",
        flops_per_s=device.flops[precision] * PRODUCTS_SHARE,
        memory_bytes=device.memory_bytes,
        memory_bytes_per_s=device.memory_bytes_per_s * MEMORY_SHARE,
        stream_bytes_per_s=device.memory_bytes_per_s * MEMORY_SHARE,
        host_bytes_per_s=device.host_bytes_per_s * MEMORY_SHARE,
        launch_s=KERNEL_LAUNCH_S,
        host_is_device=False,
        devices_per_node=devices_per_node,
        in_node=Link(device.node_link_bytes_per_s * NETWORK_SHARE, NODE_LINK_LATENCY_S),
        between_nodes=Link(network.bytes_per_s * NETWORK_SHARE, network.latency_s),
        storage_bytes_per_s=storage_bytes_per_s,
    )
