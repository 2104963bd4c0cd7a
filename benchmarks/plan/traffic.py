"""What the ranks of a job exchange in one optimiser step, by ZeRO stage.

This is what DeepSpeed 0.19.8 does with the configuration of lamae.train.engine, as ``lamae bench scaling`` sees it at
torch's collectives, and not what the ZeRO paper (Rajbhandari et al. 2020) says of the stages:

- gradients travel as float32 whatever the precision (``communication_data_type``);
- stages 1 and 2 *all-reduce* their buckets of gradients, twice a reduce-scatter's bytes, and keep their own part;
- stages 2 and 3 reduce after every micro-batch, stages 0 and 1 once per step;
- stage 3 gathers each weight once per step, also with several micro-batches, as long as the model is below
  ``stage3_max_live_parameters`` (a billion): what was gathered stays until the step.
"""

import math
from dataclasses import dataclass

GRADIENT_BYTES = 4
BUCKET_ELEMENTS = 50_000_000
WEIGHT_BYTES = {"fp32": 4, "bf16": 2}


@dataclass(frozen=True)
class Collective:
    """One kind of exchange in a step."""

    operation: str
    """all_reduce, all_gather or reduce_scatter."""
    num_bytes: float
    """Of the whole tensors, over all calls of a step."""
    calls: int


def step_traffic(
    *, zero_stage: int, precision: str, num_parameters: int, num_tensors: int, accumulation: int
) -> list[Collective]:
    """Collectives of a step of more than one rank, the few bytes of norms and flags left out.

    ``num_tensors`` counts parameter tensors: stage 3 gathers them one by one.
    """
    buckets = math.ceil(num_parameters / BUCKET_ELEMENTS)
    reductions = accumulation if zero_stage >= 2 else 1
    reduce = "reduce_scatter" if zero_stage == 3 else "all_reduce"
    collectives = [Collective(reduce, GRADIENT_BYTES * num_parameters * reductions, buckets * reductions)]
    if zero_stage >= 1:
        calls = num_tensors if zero_stage == 3 else buckets
        collectives.append(Collective("all_gather", WEIGHT_BYTES[precision] * num_parameters, calls))
    return collectives
