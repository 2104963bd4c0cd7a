"""What hardware can do, by name: the one table of constants that the planner knows, measured by others but for one row.

Rates are the vendors' for dense arithmetic, per device; bandwidths are per device and direction. What of a rate a real
program reaches is an assumption of its own (``Efficiency``), named in every plan.
"""

from dataclasses import dataclass

GB, TB, TFLOP = 1e9, 1e12, 1e12


@dataclass(frozen=True)
class Gpu:
    """An accelerator. NVIDIA's data sheets: H100 (2023), H200 (2024), A100 (2021), V100 (2020), L40S (2023)."""

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


@dataclass(frozen=True)
class Interconnect:
    """The network between nodes, per device: a node with 8 devices has 8 such ports, or shares fewer."""

    bytes_per_s: float
    latency_s: float
    """Of one message from device to device, software included."""


# Line rates by standard; latencies are round figures of the order that vendors' NCCL and MPI benchmarks show.
INTERCONNECTS = {
    "ib-ndr": Interconnect(50 * GB, 5e-6),
    "ib-hdr": Interconnect(25 * GB, 5e-6),
    "ib-hdr-shared4": Interconnect(6.25 * GB, 5e-6),
    "ethernet-100-shared8": Interconnect(1.5625 * GB, 30e-6),
    "ethernet-25-shared8": Interconnect(0.390625 * GB, 30e-6),
}

NODE_LINK_LATENCY_S = 3e-6
KERNEL_LAUNCH_S = 6e-6
"""Host time per operation of eager PyTorch; a device that is faster than its host waits for it."""


@dataclass(frozen=True)
class HostCost:
    """Seconds of the host per parameter tensor."""

    first: float
    """In a step of one micro-batch."""
    further: float
    """In each further micro-batch of a step."""


PERSISTENT, FETCHED = "persistent", "fetched"
"""Parameters at stage 3: those of few elements stay on every rank, the others are fetched module by module."""
ENGINE_HOST = {
    ("fp32", 0, PERSISTENT): HostCost(10e-6, 1e-6),
    ("fp32", 1, PERSISTENT): HostCost(45e-6, 8e-6),
    ("fp32", 2, PERSISTENT): HostCost(47e-6, 39e-6),
    ("fp32", 3, PERSISTENT): HostCost(220e-6, 176e-6),
    ("fp32", 3, FETCHED): HostCost(244e-6, 226e-6),
    ("bf16", 1, PERSISTENT): HostCost(70e-6, 11e-6),
    ("bf16", 2, PERSISTENT): HostCost(88e-6, 80e-6),
    ("bf16", 3, PERSISTENT): HostCost(239e-6, 171e-6),
    ("bf16", 3, FETCHED): HostCost(266e-6, 239e-6),
}
"""What DeepSpeed 0.19.8 takes of the host: hooks, copies, checks, fetching of modules. The one table that was measured
by us, on one rank and an EPYC core; ``lamae plan --validate`` measures it. A GPU's driver is not in it."""

STORAGE_BYTES_PER_S = 2 * GB
"""Reading and writing of one node; ask those who run the file system."""


@dataclass(frozen=True)
class Efficiency:
    """Shares of the peaks that a plan assumes: assumptions, not measurements."""

    products: float = 0.45
    """Of the arithmetic peak, in matrix products of width 384 to 1024."""
    memory: float = 0.7
    """Of the memory bandwidth, in pointwise passes."""
    network: float = 0.8
    """Of the line rate, in long collectives."""
