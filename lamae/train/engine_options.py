"""The DeepSpeed configuration of a run, generated: what matters is written out, nothing is left to a default."""

from collections.abc import Mapping
from typing import Any

from lamae.train.config import PRECISIONS, EngineConfig, OptimConfig
from lamae.train.schedule import BatchPlan


def deepspeed_config(engine: EngineConfig, optim: OptimConfig, plan: BatchPlan) -> dict[str, Any]:
    """The DeepSpeed configuration of a run: every option that matters written out, ``engine.deepspeed`` merged last."""
    if engine.precision not in PRECISIONS:
        raise ValueError(f"engine.precision={engine.precision} is to be settled for a device first")
    bf16 = engine.precision == "bf16"
    # DeepSpeed 0.19.8 turns stage 1 with float32 accumulation of bfloat16 gradients into another optimiser class.
    accumulate_in = "bf16" if bf16 and engine.zero_stage == 1 else "fp32"
    generated = {
        "train_batch_size": plan.per_rank * plan.world_size,
        "train_micro_batch_size_per_gpu": plan.micro,
        "gradient_accumulation_steps": plan.accumulation,
        # At stage 0 it would apply a step that is not finite; there the step is checked, and so clipped, here.
        "gradient_clipping": optim.clip_norm if engine.zero_stage else 0.0,
        "communication_data_type": "fp32",
        "data_types": {"grad_accum_dtype": accumulate_in},
        "bf16": {"enabled": bf16, "check_grad_overflow": True},
        "fp16": {"enabled": False},
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "stage": engine.zero_stage,
            "contiguous_gradients": True,
            "overlap_comm": False,
            "reduce_scatter": True,
            "reduce_bucket_size": 50_000_000,
            "allgather_bucket_size": 50_000_000,
        },
        # Its throughput timer synchronises the device every step, and its progress lines are ours to write.
        "timers": {"throughput": {"enabled": False, "synchronized": False}},
        "wall_clock_breakdown": False,
        "steps_per_print": None,
    }
    return _merge(generated, engine.deepspeed)


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged
