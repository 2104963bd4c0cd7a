"""WFDB records to shards: ours beside copying the files into tars, and beside the way most people would write.

Every candidate reads the same synthetic MIMIC-IV-ECG tree from a warm page cache and writes new tars of the same
number to the same disk; what the one before wrote is removed first, and nobody syncs, so that the processor is
measured and not the disk. ``tar_copy`` reads each header and signal file and appends both to a tar: as little as
anything can do. ``hashed_copy`` adds the BLAKE3 of each tar, which every candidate of ours writes too. ``naive`` is
``wfdb.rdrecord``, ``numpy.save`` and ``webdataset.ShardWriter``. Ours is the packing of the parts; plan and merge, once
per set, are timed apart. ``checked`` has every quality rule off and no audit: strict header, header checksums,
canonical order, statistics, crc32c, BLAKE3. ``full_qc`` has every rule on; ``default`` adds the audit by
stock wfdb, of one record in five hundred and of one per shape of header.
"""

import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3

from lamae.base.orphan import exit_with
from lamae.base.progress import Progress, ignore
from lamae.benchmarks.timing import Ratio, ratio_entries, time_side_by_side
from lamae.sharding.files import DirectoryFiles
from lamae.sharding.format import ShardSet
from lamae.sharding.merge import merge
from lamae.sharding.options import PackOptions
from lamae.sharding.packplan import Plan
from lamae.sharding.part import pack_part
from lamae.sharding.plan import plan
from lamae.sharding.quality import LEAD_FLAGS, RECORD_FLAGS, QualityConfig
from lamae.sharding.synth import synthesize
from lamae.sharding.tar import member
from lamae.sharding.verify import verify

NUM_PARTS = 8


def run(*, quick: bool = False, progress: Progress = ignore, repeats: int | None = None) -> dict[str, Any]:
    """Measure; see benchmarks.timing for the form of the result."""
    num_records = 512 if quick else 4096
    repeats = repeats or (3 if quick else 7)
    full_qc = PackOptions(shard_size=num_records // NUM_PARTS, audit=0.0)
    with tempfile.TemporaryDirectory(prefix="lamae-bench-") as name, _warm_workers(2) as workers:
        scratch = Path(name)
        source, outputs = scratch / "source", scratch / "outputs"
        synthesize(source, num_records=num_records, num_subjects=num_records // 4, seed=0, progress=progress)
        records = sorted(path.removesuffix(".hea") for path in DirectoryFiles(source).paths() if path.endswith(".hea"))
        candidates: dict[str, Callable[[], float]] = {
            "tar_copy": partial(_tar_copy, source, outputs / "copy", records),
            "hashed_copy": partial(_tar_copy, source, outputs / "copy", records, hashed=True),
            "naive": partial(_naive, source, outputs / "naive", records[: num_records // 16]),
            "checked": _ours(source, scratch / "checked", replace(full_qc, quality=rules_off())),
            "full_qc": _ours(source, scratch / "full_qc", full_qc),
            "default": _ours(source, scratch / "default", replace(full_qc, audit=PackOptions().audit)),
            "full_qc_2_workers": _ours(source, scratch / "workers", full_qc, workers=workers),
        }
        timings = time_side_by_side(
            candidates, repeats=repeats, prepare=partial(_remove_outputs, scratch, outputs), progress=progress
        )
        once = _plan_merge_verify(source, scratch / "once", full_qc)
    return {
        "settings": {"num_records": num_records, "repeats": repeats, "num_parts": NUM_PARTS},
        "measurements": {name: timing.to_dict() for name, timing in timings.items()},
        "once": once,
        **ratio_entries(
            {
                "vs_tar_copy": Ratio.of(timings["checked"], timings["tar_copy"]),
                "vs_hashed_copy": Ratio.of(timings["checked"], timings["hashed_copy"]),
                "vs_naive_wfdb": Ratio.of(timings["checked"], timings["naive"]),
                "full_qc_vs_naive": Ratio.of(timings["full_qc"], timings["naive"]),
                "full_qc_vs_tar_copy": Ratio.of(timings["full_qc"], timings["tar_copy"]),
                "audit_vs_none": Ratio.of(timings["default"], timings["full_qc"]),
                "two_workers": Ratio.of(timings["full_qc_2_workers"], timings["full_qc"]),
            }
        ),
    }


def rules_off() -> QualityConfig:
    """Every quality rule switched off; records without any sample are rejected all the same."""
    config = QualityConfig()
    for entry in fields(QualityConfig):
        if entry.name in (*LEAD_FLAGS, *RECORD_FLAGS):
            setattr(config, entry.name, "ignore")
    return config


@contextmanager
def _warm_workers(number: int) -> Iterator[ProcessPoolExecutor]:
    """Workers that have imported everything already: what is timed is packing, not starting Python."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(number, mp_context=context, initializer=exit_with, initargs=(os.getpid(),)) as pool:
        list(pool.map(time.sleep, [0.3] * number))
        yield pool


def _remove_outputs(scratch: Path, outputs: Path) -> None:
    """Remove every tar and every packed part, and leave the plans: a first packing, again and again."""
    shutil.rmtree(outputs, ignore_errors=True)
    outputs.mkdir()
    for path in (*scratch.glob("*/shards/*"), *scratch.glob("*/.packing/parts/*")):
        path.unlink()


def _ours(
    source: Path, out: Path, options: PackOptions, *, workers: ProcessPoolExecutor | None = None
) -> Callable[[], float]:
    """A candidate that packs every part of a plan made beforehand."""
    planned = plan(source, out, options=options)

    def candidate() -> float:
        _pack_all(source, planned, workers)
        return planned.num_listed

    return candidate


def _pack_all(source: Path, planned: Plan, workers: ProcessPoolExecutor | None) -> None:
    parts = range(planned.num_parts)
    if workers is None:
        for part in parts:
            pack_part(source, planned.out, part)
    else:
        list(workers.map(pack_part, [source] * len(parts), [planned.out] * len(parts), parts))


def _tar_copy(source: Path, out: Path, records: list[str], *, hashed: bool = False) -> float:
    """Copy into as many tars as we write, each under another name first, as ours are."""
    files = DirectoryFiles(source)
    out.mkdir()
    per_tar = len(records) // NUM_PARTS
    for first in range(0, len(records), per_tar):
        partial_path, digest = out / f"{first}.partial", blake3()
        with partial_path.open("wb", buffering=0) as tar:
            for record in records[first : first + per_tar]:
                pieces = (member(f"{record}{suffix}", files.read(f"{record}{suffix}")) for suffix in (".hea", ".dat"))
                content = b"".join(piece for three in pieces for piece in three)
                tar.write(content)
                if hashed:
                    digest.update(content)
        partial_path.rename(out / f"{first}.tar")
    return len(records)


def _naive(source: Path, out: Path, records: list[str]) -> float:
    import webdataset
    import wfdb

    out.mkdir()
    with webdataset.ShardWriter(str(out / "%06d.tar"), maxcount=1000, verbose=0) as writer:
        for record in records:
            read = wfdb.rdrecord(str(source / record))
            writer.write({"__key__": record.rpartition("/")[2], "npy": read.p_signal.T.astype(np.float32)})
    return len(records)


def _plan_merge_verify(source: Path, out: Path, options: PackOptions) -> dict[str, float]:
    """Seconds and rates of what is done once per shard set, after a first run that warms imports and caches."""
    start = time.perf_counter()
    planned = plan(source, out, options=options)
    plan_s = time.perf_counter() - start
    _pack_all(source, planned, None)
    start = time.perf_counter()
    merge(out)
    merge_s = time.perf_counter() - start
    verify(out)
    start = time.perf_counter()
    report = verify(out)
    verify_s = time.perf_counter() - start
    index_bytes = sum(path.stat().st_size for path in (out / "index.zarr").rglob("*") if path.is_file())
    return {
        "plan_s": plan_s,
        "merge_s": merge_s,
        "verify_gb_per_s": report.num_bytes / verify_s / 1e9,
        "index_bytes_per_record": index_bytes / ShardSet.open(out).num_records,
    }
