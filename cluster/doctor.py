"""``lamae doctor``: what to know before a long run, as a table of checks with what to do about each."""

import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from lamae.base import files
from lamae.base.awake import patiently
from lamae.base.errors import LamaeError
from lamae.base.files import write_text
from lamae.cluster import jobs, profile
from lamae.cluster.executor import send
from lamae.cluster.job import NodeJob
from lamae.cluster.snapshot import copy_code
from lamae.cluster.submission import CODE_NAME, JOB_ID_NAME, OTHER_JOBS_NAME, Submission, make_folder

PASS, WARN, FAIL = "pass", "warn", "fail"

RESULTS_NAME = "results.json"
# How long a local job that has ended may take to leave.
LEAVE_S = 10.0
DEEPSPEED_PROVEN = "0.19.8"
PARITY_BOUND = 1e-3
CLOCK_BOUND_S = 2.0
SLOW_WRITE_MB_PER_S = 50.0
LITTLE_FREE_GB = 20.0
SLOW_LOADER_RECORDS_PER_S = 500.0


@dataclass(frozen=True)
class Finding:
    """One check: what was measured and, unless it passed, what to do."""

    check: str
    result: str
    measured: str
    advice: str = ""


def examine(cluster: str | None, overrides: Sequence[str], *, shards: Path | None, out: Path) -> list[Finding]:
    """Examine the nodes of a cluster profile by a short job, or this machine with two ranks (one per GPU).

    out: directory on the file system that runs will use. Raises LamaeError where the job does not end well.
    """
    if cluster is None:
        num_gpus = _num_gpus()
        overrides = [f"gpus_per_node={num_gpus}", f"ranks_per_node={num_gpus or 2}", *overrides]
    chosen = profile.load(cluster or profile.LOCAL, overrides)
    return [*check_versions(), *check_results(_run_job(chosen, shards=shards, out=out.absolute()))]


def _num_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _run_job(chosen: profile.Profile, *, shards: Path | None, out: Path) -> dict[str, Any]:
    root, makes_out = Path(OTHER_JOBS_NAME).absolute(), not out.exists()
    folder = make_folder(root, suffix="-doctor")
    copy_code(folder / CODE_NAME)
    argv = ["-m", "lamae.cluster.examination", str(folder / RESULTS_NAME), str(out)]
    argv += [str(shards.absolute())] if shards is not None else []
    Submission(
        verb="doctor",
        argv=argv,
        profile=replace(chosen, max_restarts=0),
        submitted_at=time.time(),
    ).write(folder)
    try:
        write_text(folder / JOB_ID_NAME, send(folder, chosen, [NodeJob(str(folder))]) + "\n")
    except LamaeError:
        _remove(folder)
        raise
    status = jobs.follow(folder, write=lambda _text: None)
    results = files.try_read_json(folder / RESULTS_NAME)
    if results is None:
        log = jobs.log_path(folder, status.job_id)
        raise LamaeError(f"doctor: the examination did not end well: {status.detail}; see {log}")
    for _ in patiently(LEAVE_S, poll_s=0.2):
        if not jobs.local_alive(folder, status.job_id):
            break
    _remove(folder)
    if makes_out:
        _remove_if_empty(out)
    return results


def _remove(folder: Path) -> None:
    """Take a job's folder away, and the one of all jobs where it was the only one."""
    shutil.rmtree(folder, ignore_errors=True)
    _remove_if_empty(folder.parent)


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def check_versions() -> list[Finding]:
    """Python and the packages whose versions matter, against those this project is proven with."""
    python = ".".join(map(str, sys.version_info[:3]))
    findings = [Finding("python", PASS, python)]
    for package, proven, why in (
        ("deepspeed", DEEPSPEED_PROVEN, "gradients and checkpoints are proven with this version only"),
        ("torch", "2.13.0", "the kernels and the engine are tested with this version"),
    ):
        found = metadata.version(package).split("+")[0]
        same = found == proven
        findings.append(Finding(package, PASS if same else WARN, found, "" if same else f"install {proven}: {why}"))
    return findings


def check_results(results: dict[str, Any]) -> list[Finding]:
    """What the examination measured, against what a long run needs."""
    world = results["world_size"]
    parity = results["parity_error"]
    findings = [
        _finding(
            "gradients against plain torch",
            parity <= PARITY_BOUND,
            f"{parity:.1e} relative, {world} ranks on {results['device']}",
            f"above {PARITY_BOUND:.0e}: do not train with this installation; compare its versions with constraints.txt",
            otherwise=FAIL,
        ),
        _finding(
            "clocks",
            results["clock_spread_s"] <= CLOCK_BOUND_S,
            f"{results['clock_spread_s']:.2f} s apart",
            "the order of failures is read from clocks: ask for time synchronisation (NTP) on the nodes",
        ),
    ]
    if results["bus_gb_per_s"] is not None:
        measured = f"{results['bus_gb_per_s']:.2f} GB/s, {results['latency_us']:.0f} us"
        findings.append(Finding("all-reduce over ranks", PASS, measured))
    for node in results["nodes"]:
        findings += _check_node(node)
    return findings


def _check_node(node: dict[str, Any]) -> list[Finding]:
    host = node["host"]
    devices = ", ".join(sorted(set(node["devices"])))
    findings = [
        Finding(f"{host}: GPUs", PASS, f"{len(node['devices'])} x {devices}" if devices else "none"),
        _finding(
            f"{host}: rename replaces",
            node["rename_replaces"],
            "yes" if node["rename_replaces"] else "no",
            "checkpoints cannot be published safely on this file system: choose another for run.dir",
            otherwise=FAIL,
        ),
        _finding(
            f"{host}: durable write",
            node["write_mb_per_s"] >= SLOW_WRITE_MB_PER_S,
            f"{node['write_mb_per_s']:.0f} MB/s",
            "checkpoints will take long: raise checkpoint.every, keep checkpoint.background on",
        ),
        _finding(
            f"{host}: free space",
            node["free_gb"] >= LITTLE_FREE_GB,
            f"{node['free_gb']:.0f} GB",
            "a run may fill the disk: lower checkpoint.keep or choose another file system",
        ),
    ]
    if "records_per_s" in node:
        findings.append(
            _finding(
                f"{host}: loader",
                node["records_per_s"] >= SLOW_LOADER_RECORDS_PER_S,
                f"{node['records_per_s']:,.0f} records/s per rank",
                "raise data.threads, try data.order=window, or copy the shards to a local disk",
            )
        )
    return findings


def _finding(check: str, good: bool, measured: str, advice: str, *, otherwise: str = WARN) -> Finding:
    return Finding(check, PASS, measured) if good else Finding(check, otherwise, measured, advice)
