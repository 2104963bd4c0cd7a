"""Time of collectives by topology: the alpha-beta model, on devices in nodes in a cluster.

A message of n bytes takes alpha + n / beta. Within a node collectives run as rings; between nodes the devices of the
same place in each node form a ring of their own, so a collective is done level by level: reduce-scatter in the node,
the collective among nodes on a share of the bytes, all-gather in the node (Thakur, Rabenseifner, Gropp 2005). Between
nodes latency grows with the logarithm of their number, as with the double binary trees of NCCL (Sanders, Speck, Träff
2009).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from lamae.benchmarks.plan.traffic import Collective

RING_PASSES = {"all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0, "reduce": 1.0}
"""How often an operation goes around with a rank's share: an all-reduce is a reduce-scatter and an all-gather."""


@dataclass(frozen=True)
class Topology:
    """World size, and what links its devices."""

    world_size: int
    devices_per_node: int
    node_bytes_per_s: float
    node_latency_s: float
    network_bytes_per_s: float
    """Per device."""
    network_latency_s: float
    passes: Mapping[str, float] = field(default_factory=lambda: RING_PASSES)
    """What an operation is worth here, in passes around a ring."""

    @property
    def num_nodes(self) -> int:
        return math.ceil(self.world_size / self.devices_per_node)

    @property
    def node_size(self) -> int:
        """Devices of the job in one node."""
        return min(self.world_size, self.devices_per_node)


def collective_s(collective: Collective, topology: Topology) -> float:
    """Seconds of all calls of one kind of collective."""
    return topology.passes[collective.operation] * _one_pass_s(collective.num_bytes, collective.calls, topology)


def _one_pass_s(num_bytes: float, calls: int, topology: Topology) -> float:
    inside, nodes = topology.node_size, topology.num_nodes
    seconds = 0.0
    if inside > 1:
        seconds += calls * (inside - 1) * topology.node_latency_s
        seconds += num_bytes * (inside - 1) / inside / topology.node_bytes_per_s
    if nodes > 1:
        seconds += calls * math.ceil(math.log2(nodes)) * topology.network_latency_s
        seconds += num_bytes / inside * (nodes - 1) / nodes / topology.network_bytes_per_s
    return seconds
