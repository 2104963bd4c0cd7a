"""Training configurations that can never work are refused with the key to change."""

from collections.abc import Callable

import pytest

from lamae.base.errors import UsageError
from lamae.train.runconfig import RunConfig

MakeConfig = Callable[..., RunConfig]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("engine.zero_stage=4", r"engine.zero_stage=4 is none of 0, 1, 2, 3"),
        ("engine.precision=fp16", r"engine.precision='fp16' is none of auto, fp32, bf16; fp16 is not offered"),
        ("engine.deepspeed.fp16.enabled=true", r"engine.deepspeed.fp16 is refused: fp16 is not offered"),
        ("engine.deepspeed.zero_optimization.offload_optimizer.device=cpu", r"offloading is not offered"),
        (
            "engine.deepspeed.zero_optimization.cpu_offload=true",
            r"zero_optimization.cpu_offload is refused: offloading",
        ),
        ("engine.deepspeed.zero_optimization.cpu_offload_param=true", r"cpu_offload_param is refused: offloading"),
        ("engine.deepspeed.data_types.grad_accum_dtype=fp32", r"grad_accum_dtype is refused: it follows from"),
        ("engine.deepspeed.zero_optimization.stage=0", r"refused: set engine.zero_stage"),
        ("engine.deepspeed.gradient_clipping=0.5", r"refused: set optim.clip_norm"),
        ("train.steps=0", r"train.steps=0 must be at least 1"),
        ("train.compile=all", r"train.compile='all' is none of off, blocks"),
        ("optim.lr=0", r"optim.lr=0.0 must be above 0"),
        ("optim.final_lr=1", r"optim.final_lr=1.0 must lie between 0 and optim.lr"),
        ("optim.beta2=1", r"optim.beta2=1.0 must lie in \[0, 1\)"),
        ("checkpoint.keep=-1", r"checkpoint.keep=-1 must be at least 0"),
        ("monitor.log_every=0", r"monitor.log_every=0 must be at least 1"),
        ("monitor.peak_tflops=0", r"monitor.peak_tflops=0.0 must be above 0"),
    ],
)
def test_refusals_name_the_key(make_config: MakeConfig, override: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_config("run", override)


def test_other_raw_options_reach_deepspeed(make_config: MakeConfig) -> None:
    from lamae.train.engine_options import deepspeed_config
    from lamae.train.schedule import plan_batch

    raw = "engine.deepspeed.zero_optimization"
    config = make_config("run", "engine.precision=bf16", f"{raw}.overlap_comm=true", f"{raw}.reduce_bucket_size=123")
    plan = plan_batch(8, micro_batch_size=2, world_size=2)
    options = deepspeed_config(config.engine, config.optim, plan)
    assert options["zero_optimization"]["overlap_comm"] is True
    assert options["zero_optimization"]["reduce_bucket_size"] == 123
    assert options["zero_optimization"]["stage"] == 1
    assert options["gradient_accumulation_steps"] == 2
    # Written out, never left to a default that changes between versions.
    assert {"gradient_clipping", "communication_data_type", "data_types", "bf16"} <= options.keys()
    assert options["bf16"]["check_grad_overflow"] is True
