"""The one JSON schema of benchmark results: running a benchmark into it, joining several, reading one back."""

import importlib
import json
import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lamae import console
from lamae.base import files
from lamae.base.errors import UsageError
from lamae.base.processes import processor_name, usable_cores
from lamae.base.progress import Progress, ignore
from lamae.base.revision import describe_code, installed_versions

SCHEMA_VERSION = 1
BENCHMARKS = {
    "shard": "packing WFDB records into shards, beside plain copying and the naive way",
    "loader": "shards to batches, beside other loaders and the memcpy limit",
    "kernels": "attention among the leads, beside its floor",
    "step": "training steps, beside the machine's matrix-product peak",
    "checkpoint": "saving and resuming, beside plain file writing and reading of the same bytes",
    "probe": "logistic regressions on embeddings, beside scikit-learn's",
    "scaling": "one process and several: efficiency, communication share, bytes on the wire by ZeRO stage",
}
Spread = tuple[float, float, float]
"""Median, least and most."""
VERSIONED = ("torch", "deepspeed", "numpy", "webdataset", "wfdb", "zarr", "triton")


def run_benchmark(name: str, *, quick: bool = False, progress: Progress = ignore, **options: Any) -> dict[str, Any]:
    """Run one benchmark and wrap its measurements with what is needed to compare them.

    ``options`` are those of the benchmark's own ``run``. Raises UsageError when there is no such benchmark.
    """
    if name not in BENCHMARKS:
        raise UsageError(f"no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    module = importlib.import_module(f"lamae.benchmarks.{name}")
    start = time.monotonic()
    measured = module.run(quick=quick, progress=progress, **options)
    return {
        **describe_result(name, quick=quick),
        "wall_s": round(time.monotonic() - start, 1),
        **measured,
    }


def combine(
    results: Mapping[str, dict[str, Any]], *, failed: Mapping[str, str], quick: bool, name: str = "all"
) -> dict[str, Any]:
    """Several benchmarks as one result: ratios are named ``BENCHMARK.RATIO``, ``failed`` says what raised instead."""
    combined: dict[str, Any] = {
        **describe_result(name, quick=quick),
        "wall_s": round(sum(result["wall_s"] for result in results.values()), 1),
        "results": dict(results),
        "failed": dict(failed),
    }
    for entry in ("ratios", "ratio_spread"):
        combined[entry] = {
            f"{part}.{ratio}": value for part, result in results.items() for ratio, value in result[entry].items()
        }
    return combined


def read_result(path: Path) -> dict[str, Any]:
    """A result written before. Raises UsageError where the file is none, or of a schema that is not read here."""
    try:
        result = json.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None
    except ValueError:
        raise UsageError(f"{path}: not JSON; take a file written by 'lamae bench NAME --json FILE'") from None
    if not isinstance(result, dict) or not isinstance(result.get("ratios"), dict) or "schema_version" not in result:
        raise UsageError(f"{path}: no benchmark result; take a file written by 'lamae bench NAME --json FILE'")
    if result.get("schema_version") != SCHEMA_VERSION:
        raise UsageError(f"{path}: schema {result.get('schema_version')}, this lamae reads {SCHEMA_VERSION}")
    return result


def write_result(result: dict[str, Any], path: Path) -> None:
    files.write_json(path, result, sort_keys=True)


def spread_of_ratios(result: Mapping[str, Any]) -> dict[str, Spread]:
    """Of every ratio; one without a spread of its own stands for all three."""
    spreads = result.get("ratio_spread", {})
    return {name: (value, *spreads.get(name, (value, value))) for name, value in result["ratios"].items()}


def spread_of_rates(result: Mapping[str, Any]) -> dict[str, Spread]:
    """Of every candidate's items per second."""
    entries = {name: entry for name, entry in result.get("measurements", {}).items() if isinstance(entry, Mapping)}
    return {name: (one["per_s"], one["min"], one["max"]) for name, one in entries.items() if "per_s" in one}


def print_ratios(result: dict[str, Any], *, note: str = "ratios measured side by side in this run") -> None:
    spreads = spread_of_ratios(result).items()
    rows = [[name, f"{median:.3g}", f"{least:.3g} to {most:.3g}"] for name, (median, least, most) in spreads]
    took = f", {result['wall_s']:.0f} s" if "wall_s" in result else ""
    title = f"{result['benchmark']}: {note}{took}{', short form: rough' * result['quick']}"
    console.print_table(title, ["ratio", "median", "spread"], rows)
    for line in result.get("notes", ()):
        console.say(f"note: {line}")


def describe_result(name: str, *, quick: bool) -> dict[str, Any]:
    """What every result says of its circumstances."""
    return {
        "schema_version": SCHEMA_VERSION,
        "benchmark": name,
        "quick": quick,
        "hardware": describe_hardware(),
        "versions": installed_versions(VERSIONED),
        "revision": revision(),
    }


def describe_hardware() -> dict[str, Any]:
    """Processor, usable cores, memory in GiB, GPUs: no host names."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": processor_name(),
        "cores": usable_cores(),
        "memory_gib": round(memory, 1),
        "gpus": _gpu_names(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def revision() -> str | None:
    """Git revision of the code, with ``+changes`` when the tree differs from it; None outside a checkout."""
    code = describe_code()
    return code["revision"] and code["revision"][:7] + ("+changes" if code["diff"] else "")


def _gpu_names() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
