"""What engine.precision=auto comes to."""

from collections.abc import Callable

import pytest
import torch

from lamae.train.engine_options import deepspeed_config
from lamae.train.precision import is_bf16_faster, settle_precision
from lamae.train.runconfig import RunConfig
from lamae.train.schedule import plan_batch

MakeConfig = Callable[..., RunConfig]
AMD, INTEL = "AMD EPYC 9R14", "Intel Xeon"


@pytest.mark.parametrize(
    ("engine", "fast", "slow"),
    [
        ((), "bf16", "fp32"),
        (("engine.zero_stage=3",), "bf16", "fp32"),
        (("engine.zero_stage=0",), "fp32", "fp32"),
        (("engine.precision=bf16",), "bf16", "bf16"),
        (("engine.precision=fp32",), "fp32", "fp32"),
    ],
)
def test_auto_is_what_the_device_computes_faster(
    engine: tuple[str, ...], fast: str, slow: str, make_config: MakeConfig
) -> None:
    config = make_config("run", *engine)
    assert settle_precision(config, prefer_bf16=True).engine.precision == fast
    assert settle_precision(config, prefer_bf16=False).engine.precision == slow


@pytest.mark.parametrize(
    ("can", "faster"),
    [
        ({"amx_bf16": True, "avx512_bf16": True, "cpu_name": INTEL}, True),
        ({"amx_bf16": False, "avx512_bf16": True, "cpu_name": INTEL}, False),
        ({"amx_bf16": False, "avx512_bf16": True, "cpu_name": AMD}, True),
        ({"avx512_bf16": False, "cpu_name": AMD}, False),
        ({"architecture": "aarch64"}, False),
    ],
)
def test_which_cpus_compute_bf16_faster(can: dict[str, object], faster: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: can)
    assert is_bf16_faster(torch.device("cpu")) is faster


def test_an_engine_is_never_built_in_auto(make_config: MakeConfig) -> None:
    config = make_config("run")
    plan = plan_batch(4, micro_batch_size=2, world_size=1)
    with pytest.raises(ValueError, match="precision=auto is to be settled"):
        deepspeed_config(config.engine, config.optim, plan)
