"""Bytes that one device moves for gradients and weights beside the model's own passes, by ZeRO stage.

DeepSpeed 0.19.8 with our configuration copies gradients into a bucket, divides, flattens and casts them, takes their
norm, clips them, and copies what AdamW has stepped back into the weights: in float32 each parameter is touched some
thirty times where AdamW alone would touch it eight times. The numbers are counts at torch's dispatcher
(benchmarks.plan.trace.Watch) in steps of one, two and four ranks with one and two micro-batches; a test counts again.
"""

from dataclasses import dataclass

from lamae.train.schedule import BatchPlan


@dataclass(frozen=True)
class _Passes:
    """Bytes per parameter of a step's first micro-batch and of each further one."""

    whole: float
    """For every parameter, on every rank."""
    share: float
    """For those that a rank owns."""
    again_whole: float
    again_share: float
    flattening: float = 0.0
    """Of ``whole``, what a rank that is alone leaves out."""


_PASSES = {
    ("fp32", 0): _Passes(68, 0, 12, 0, flattening=8),
    ("fp32", 1): _Passes(24, 92, 12, 0, flattening=8),
    ("fp32", 2): _Passes(24, 92, 24, 28, flattening=8),
    ("fp32", 3): _Passes(26, 92, 26, 20),
    ("bf16", 1): _Passes(24, 88, 6, 0, flattening=4),
    ("bf16", 2): _Passes(24, 96, 24, 18),
    ("bf16", 3): _Passes(23, 90, 23, 20),
}


def engine_bytes(batch: BatchPlan, *, zero_stage: int, precision: str, num_parameters: int) -> float:
    """Read and written in one optimiser step."""
    passes, further = _PASSES[precision, zero_stage], batch.accumulation - 1
    reductions = batch.accumulation if zero_stage >= 2 else 1
    whole = passes.whole + further * passes.again_whole
    share = passes.share + further * passes.again_share
    if batch.world_size == 1:
        whole -= reductions * passes.flattening
    return (whole + share / batch.world_size) * num_parameters
