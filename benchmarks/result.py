"""The one JSON schema of benchmark results, and the verb that runs them."""

import importlib
import json
import os
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from sharding.errors import UsageError
from sharding.progress import Progress, ignore

SCHEMA_VERSION = 1
BENCHMARKS = {
    "shard": "packing WFDB records into shards, beside plain copying and the naive way",
    "loader": "shards to batches, beside other loaders and the memcpy limit",
    "kernels": "attention among the leads, beside its floor",
    "step": "training steps, beside the machine's matrix-product peak",
}
VERSIONED = ("torch", "deepspeed", "numpy", "webdataset", "wfdb", "zarr", "triton")


def run_benchmark(name: str, *, quick: bool = False, progress: Progress = ignore) -> dict[str, Any]:
    """Run one benchmark and wrap its measurements with what is needed to compare them.

    Raises UsageError when there is no such benchmark.
    """
    if name not in BENCHMARKS:
        raise UsageError(f"no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    module = importlib.import_module(f"benchmarks.{name}")
    start = time.monotonic()
    measured = module.run(quick=quick, progress=progress)
    return {
        "schema_version": SCHEMA_VERSION,
        "benchmark": name,
        "quick": quick,
        "hardware": describe_hardware(),
        "versions": describe_versions(),
        "revision": revision(),
        "wall_s": round(time.monotonic() - start, 1),
        **measured,
    }


def write_result(result: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")


def describe_hardware() -> dict[str, Any]:
    """Processor, usable cores, memory in GiB, GPUs: no host names."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": _processor_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory, 1),
        "gpus": _gpu_names(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def describe_versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in VERSIONED:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def revision() -> str | None:
    """Git revision of the code, with ``+changes`` when the tree differs from it; None outside a checkout."""
    root = Path(__file__).parent
    try:
        head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True)
        dirty = subprocess.run(["git", "status", "--porcelain"], cwd=root, capture_output=True, text=True)
    except OSError:
        return None
    if head.returncode != 0:
        return None
    return head.stdout.strip() + ("+changes" if dirty.stdout.strip() else "")


def _processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _gpu_names() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
