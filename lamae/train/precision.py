"""What ``engine.precision=auto`` is on a device: bf16 where that is the faster one."""

import dataclasses

import torch

from lamae.train.config import AUTO, EngineConfig
from lamae.train.runconfig import RunConfig


def settle_precision(config: RunConfig, *, prefer_bf16: bool) -> RunConfig:
    """``config`` with bf16 or fp32 in place of auto. Stage 0 is fp32 always, since bf16 is refused there."""
    engine: EngineConfig = config.engine
    if engine.precision != AUTO:
        return config
    precision = "bf16" if prefer_bf16 and engine.zero_stage else "fp32"
    return dataclasses.replace(config, engine=dataclasses.replace(engine, precision=precision))


def is_bf16_faster(device: torch.device) -> bool:
    """Whether a training step takes less time in bf16.

    On CUDA where the device computes in it by itself. On a CPU with tile registers (AMX) always, and with AVX-512's
    bf16 products on AMD's alone: an Intel Xeon multiplies float32 twice as fast as with those, and a CPU without them
    took 14 times as long in bf16 (``docs/log.md``).
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    can = torch.cpu.get_capabilities()
    return bool(can.get("amx_bf16") or (can.get("avx512_bf16") and "Intel" not in can["cpu_name"]))
