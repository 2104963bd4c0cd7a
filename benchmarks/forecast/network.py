"""What ranks exchange in one optimiser step by ZeRO stage, and how long that takes on a topology.

DeepSpeed 0.19.8 with the configuration of lamae.train.engine, as ``lamae bench scaling`` sees it at torch's
collectives (the ZeRO paper, Rajbhandari et al. 2020, says otherwise of stages 1 and 2):

- gradients travel as float32 whatever the precision (``communication_data_type``);
- stages 1 and 2 *all-reduce* their buckets of gradients, twice a reduce-scatter's bytes, and keep their own part;
  with ``zero_optimization.use_multi_rank_bucket_allreduce`` off each rank's part is *reduced* to it alone, one call per
  rank and bucket;
- stages 2 and 3 reduce after every micro-batch, stages 0 and 1 once per step;
- stage 3 gathers each weight once per step, below ``stage3_max_live_parameters`` also with several micro-batches.

Time is alpha + n / beta for n bytes. Within a node collectives run as rings; between nodes the devices of the same
place form a ring of their own, and latency grows with the logarithm of the number of nodes (Thakur, Rabenseifner, Gropp
2005; Sanders, Speck, Träff 2009).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

GRADIENT_BYTES = 4
BUCKET_ELEMENTS = 50_000_000
WEIGHT_BYTES = {"fp32": 4, "bf16": 2}
RING_PASSES = {"all_reduce": 2.0, "all_gather": 1.0, "reduce_scatter": 1.0, "reduce": 1.0}
"""How often an operation goes around with a rank's share: an all-reduce is a reduce-scatter and an all-gather."""


@dataclass(frozen=True)
class Collective:
    """One kind of exchange in a step."""

    operation: str
    """all_reduce, all_gather, reduce_scatter, or reduce (of each rank's part to that rank)."""
    num_bytes: float
    """Of the whole tensors, over all calls of a step."""
    calls: int


def step_traffic(
    *,
    zero_stage: int,
    precision: str,
    num_parameters: int,
    num_tensors: int,
    accumulation: int,
    world_size: int,
    all_reduces: bool = True,
) -> list[Collective]:
    """Collectives of a step of more than one rank, the few bytes of norms and flags left out.

    ``num_tensors`` counts parameter tensors: stage 3 gathers them one by one. ``all_reduces`` is what stages 1 and 2 do
    with gradients by default.
    """
    buckets = math.ceil(num_parameters / BUCKET_ELEMENTS)
    reductions = accumulation if zero_stage >= 2 else 1
    calls = buckets * reductions
    if zero_stage == 3:
        reduce = "reduce_scatter"
    elif zero_stage == 0 or all_reduces:
        reduce = "all_reduce"
    else:
        # A bucket holds the parts of as many ranks as lie in it, and borders fall within buckets.
        reduce, calls = "reduce", (world_size + buckets - 1) * reductions
    collectives = [Collective(reduce, GRADIENT_BYTES * num_parameters * reductions, calls)]
    if zero_stage >= 1:
        calls = num_tensors if zero_stage == 3 else buckets
        collectives.append(Collective("all_gather", WEIGHT_BYTES[precision] * num_parameters, calls))
    return collectives


def all_reduces_gradients(deepspeed: Mapping[str, Any]) -> bool:
    """Whether raw DeepSpeed options leave its default way of reducing at stages 1 and 2."""
    return bool(deepspeed.get("zero_optimization", {}).get("use_multi_rank_bucket_allreduce", True))


@dataclass(frozen=True)
class Link:
    """What carries a message from device to device."""

    bytes_per_s: float
    latency_s: float


def collective_s(
    collective: Collective,
    *,
    world_size: int,
    devices_per_node: int,
    in_node: Link,
    between_nodes: Link,
    passes: Mapping[str, float] = RING_PASSES,
) -> float:
    """Seconds of all calls of one kind of collective; ``passes`` says what each is worth, around a ring."""
    inside, nodes = min(world_size, devices_per_node), math.ceil(world_size / devices_per_node)
    seconds = collective.calls * (inside - 1) * in_node.latency_s
    seconds += collective.num_bytes * (inside - 1) / inside / in_node.bytes_per_s
    if nodes > 1:
        seconds += collective.calls * math.ceil(math.log2(nodes)) * between_nodes.latency_s
        seconds += collective.num_bytes / inside * (nodes - 1) / nodes / between_nodes.bytes_per_s
    return passes[collective.operation] * seconds
