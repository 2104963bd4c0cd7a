"""What a run was made of: revision, versions, machine, data. Written into the run directory at every start."""

import platform
import sys
from typing import Any

import torch

from lamae.base.processes import processor_name, usable_cores
from lamae.base.revision import describe_code, installed_versions
from lamae.train.ranks.distributed import Ranks

# Those that can change a result.
PACKAGES = ("lamae", "torch", "deepspeed", "triton", "numpy", "safetensors", "zarr", "omegaconf", "tensorboard")


def describe_machine(ranks: Ranks) -> dict[str, Any]:
    """Host, processor, device and how many ranks there are."""
    on_cuda = ranks.device.type == "cuda"
    return {
        "host": platform.node(),
        "platform": platform.platform(),
        "cores": usable_cores(),
        "threads_per_rank": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(ranks.device) if on_cuda else processor_name(),
        "cuda": torch.version.cuda if on_cuda else None,
        "world_size": ranks.world_size,
        "local_world_size": ranks.local_world_size,
    }


def build_manifest(ranks: Ranks, **about: Any) -> dict[str, Any]:
    """Everything above, the command line, and what the caller knows of data and configuration."""
    return {
        **about,
        "command": sys.argv,
        "code": describe_code(),
        "versions": installed_versions(PACKAGES),
        "machine": describe_machine(ranks),
    }
