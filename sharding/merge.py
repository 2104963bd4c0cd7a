"""The third step of packing: the parts' rows become the index, and dataset.json makes the shard set complete.

Everything is written beside its place and renamed; dataset.json comes last. Killed anywhere, the merge starts over.
"""

import hashlib
import os
import shutil
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from lamae.base.errors import LamaeError, UsageError
from lamae.base.files import PARTIAL_SUFFIX, file_sha256, new_file, own_name, put_in_place, sync, write_csv, write_text
from lamae.base.leads import LEADS
from lamae.base.progress import Progress, ignore
from lamae.sharding.checked import file_sums, sums_digest
from lamae.sharding.columns import typed_column
from lamae.sharding.format import (
    COLUMNS,
    EXTRA_PREFIX,
    FORMAT_VERSION,
    INDEX_NAME,
    MANIFEST_NAME,
    REJECTS_NAME,
    SHARDS_NAME,
    SPLITS,
    UNMATCHED_NAME,
    WINDOW_MARK,
    WORK_NAME,
    ShardSet,
    manifest_text,
    shard_name,
)
from lamae.sharding.packplan import Plan, lock_of
from lamae.sharding.part import is_done, read_report
from lamae.sharding.quality import LEAD_FLAGS, RECORD_FLAGS
from lamae.sharding.reading import OF_FILES
from lamae.sharding.tar import digest_of

_ROWS_PER_CHUNK = 1 << 16


def merge(out: Path, *, progress: Progress = ignore) -> dict[str, Any]:
    """Make the packed parts in ``out`` a complete shard set; returns the manifest.

    Raises LamaeError where a part is not packed yet, where no record at all was accepted, or where the disk is full.
    """
    try:
        planned = Plan.open(out)
        with lock_of(out) as lock:
            lock.take()
            if not (out / MANIFEST_NAME).is_file():
                return _merge(planned, progress)
    except UsageError:
        if not (out / MANIFEST_NAME).is_file():
            raise
    except OSError as error:
        if not (out / MANIFEST_NAME).is_file():
            raise LamaeError(
                f"{out}: cannot write the index ({error.strerror or error}); run the same command again to go on"
            ) from None
    return ShardSet.open(out).manifest  # another process has merged it


def finish(out: Path) -> None:
    """Remove what packing left beside a complete shard set."""
    with lock_of(out) as lock, suppress(OSError):  # nothing is left, or another process removes it
        lock.take()
        (out / WORK_NAME).rename(own_name(out / WORK_NAME))
    for leftover in (*(out / SHARDS_NAME).glob(f"*{PARTIAL_SUFFIX}"), *out.glob(f".*{PARTIAL_SUFFIX}")):
        shutil.rmtree(leftover, ignore_errors=True)
        with suppress(OSError):
            leftover.unlink()


def _merge(planned: Plan, progress: Progress) -> dict[str, Any]:
    out = planned.out
    open_parts = [part for part in range(planned.num_parts) if not is_done(planned, part)]
    if open_parts:
        raise LamaeError(
            f"{out}: {len(open_parts)} of {planned.num_parts} parts are not packed yet, "
            f"the first is {open_parts[0]}; pack them before merging"
        )
    reports = [read_report(planned.part_path(part)) for part in range(planned.num_parts)]
    rejects = [reject for report in reports for reject in report["rejects"]]
    write_csv(out / REJECTS_NAME, ("key", "reason", "detail"), rejects)
    extra = [values for report in reports for values in report["extra"]]
    num_records = len(extra)
    reasons = Counter(reason for _, reason, _ in rejects)
    if num_records == 0:
        listed = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        remedy = "Pack with other options into another output"
        if reasons.keys() & set(OF_FILES):
            remedy = (
                "Run the same command again once their files are there and whole, or with other options into another "
                "output"
            )
        raise LamaeError(f"{out}: no record was accepted ({listed}); see {out / REJECTS_NAME}. {remedy}")
    for part in range(planned.num_parts):
        sync(out / SHARDS_NAME / shard_name(part))
    columns, index_files = _write_index(planned, num_records, extra, progress)
    has_list = planned.content["reconciliation"]["expected"] is not None
    if has_list:
        with new_file(out / UNMATCHED_NAME) as partial:
            shutil.copyfile(out / WORK_NAME / UNMATCHED_NAME, partial)
    manifest: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "source": planned.content["source"],
        "leads": list(LEADS),
        "rate_hz": planned.rate_hz,
        "num_samples": planned.num_samples,
        **describe(columns),
        "reconciliation": planned.content["reconciliation"],
        "rejects": dict(sorted(reasons.items())),
        "readers": {
            name: sum(report["readers"].get(name, 0) for report in reports)
            for name in ("fast", "wfdb", "audited", "unchecked", "no_rate", "padded")
        },
        "plan": planned.content,
        "shards": [_shard_entry(part, report) for part, report in enumerate(reports)],
        "index_sha256": sums_digest(index_files),
        "index_files": index_files,
        "files_sha256": {
            name: file_sha256(out / name) for name in (REJECTS_NAME, UNMATCHED_NAME) if (out / name).is_file()
        },
    }
    write_text(out / MANIFEST_NAME, manifest_text(manifest))
    return manifest


def _shard_entry(part: int, report: dict[str, Any]) -> dict[str, Any]:
    """What the manifest says of a tar."""
    hash_name, digest = digest_of(report)
    return {"name": shard_name(part), "bytes": report["bytes"], hash_name: digest}


def _write_index(
    planned: Plan, num_records: int, extra: list[list[str]], progress: Progress
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Write the index; returns its columns of one number per record and per-lead flags, and its files' sha256."""
    import zarr  # packing itself does without

    building, index = own_name(planned.out / WORK_NAME / INDEX_NAME), planned.out / INDEX_NAME
    group = zarr.open_group(building, mode="w", zarr_format=3)
    counted: dict[str, np.ndarray] = {}
    for done, (name, column) in enumerate(COLUMNS.items()):
        values = _column(planned, name)
        if column.wide and np.array_equal(narrow := values.astype(column.dtype), values):
            values = narrow
        if name == "subject":
            values = np.where(values < 0, -1 - _record_numbers(planned, num_records), values)
        if name == "record_flags":
            values[_duplicates(planned, counted)] |= 1 << RECORD_FLAGS.index("duplicate")
        if column.shape == () or name == "lead_flags":
            counted[name] = values
        _write_column(group, name, values)
        progress("merge", done + 1, len(COLUMNS))
    for name, texts in zip(planned.content["extra_columns"], zip(*extra, strict=True), strict=True):
        _write_column(group, f"{EXTRA_PREFIX}{name}", typed_column(list(texts)))
    for path in building.rglob("*"):
        if path.is_file():
            sync(path)
    # Without locks another merge may finish and remove the work directory, and zarr would make it again: so check that
    # the plan is still there. Below only renames follow, which fail without the directory.
    Plan.open(planned.out)
    index_files = file_sums(building)
    try:
        put_in_place(building, index)
    except FileExistsError:
        if file_sums(index) != index_files:  # of a merge that was killed, with another version of zarr perhaps
            index.rename(own_name(planned.out / WORK_NAME / INDEX_NAME))
            put_in_place(building, index)
    return counted, index_files


def _record_numbers(planned: Plan, num_records: int) -> np.ndarray:
    """int64: of every row, which record it is from; windows of one record are of one subject, whoever that is."""
    if planned.options["windows"] != "all":
        return np.arange(num_records)
    raw = _column(planned, "key")
    keys = raw.view(f"S{raw.shape[1]}").ravel().tolist()
    records = np.array([key.rpartition(WINDOW_MARK.encode())[0] for key in keys])
    return np.cumsum(np.concatenate([[False], records[1:] != records[:-1]]))


def _write_column(group: Any, name: str, values: np.ndarray) -> None:
    group.create_array(name, data=values, chunks=(min(len(values), _ROWS_PER_CHUNK), *values.shape[1:]))


def _duplicates(planned: Plan, columns: dict[str, np.ndarray]) -> np.ndarray:
    """Rows whose samples are those of another row: equal CRCs, then equal sha256 of what is in the tars."""
    _, groups, sizes = np.unique(columns["crc32c"], return_inverse=True, return_counts=True)
    rows_by_content: dict[bytes, list[int]] = {}
    for row in np.flatnonzero(sizes[groups] > 1).tolist():
        path = planned.out / SHARDS_NAME / shard_name(int(columns["shard"][row]))
        with path.open("rb") as file:
            payload = os.pread(file.fileno(), int(columns["payload_length"][row]), int(columns["payload_offset"][row]))
        rows_by_content.setdefault(hashlib.sha256(payload).digest(), []).append(row)
    return np.array(sorted(row for rows in rows_by_content.values() if len(rows) > 1 for row in rows), np.int64)


def _column(planned: Plan, name: str) -> np.ndarray:
    values = []
    for part in range(planned.num_parts):
        with np.load(planned.part_path(part), allow_pickle=False) as result:
            values.append(result[name])
    if name != "key":
        return np.concatenate(values)
    keys = np.concatenate(values)
    return np.ascontiguousarray(keys).view(np.uint8).reshape(len(keys), keys.dtype.itemsize)


def describe(columns: dict[str, np.ndarray]) -> dict[str, Any]:
    """What the manifest says of the index: records, subjects, splits and flags, counted."""
    subject, split = columns["subject"], columns["split"]
    of_split = {name: subject[split == number] for number, name in enumerate(SPLITS)}
    return {
        "num_records": len(subject),
        "num_subjects": len(np.unique(subject)),
        "splits": {name: {"records": len(of), "subjects": len(np.unique(of))} for name, of in of_split.items()},
        "lead_flags": _count_bits(columns["lead_flags"], LEAD_FLAGS),
        "record_flags": _count_bits(columns["record_flags"], RECORD_FLAGS),
        "masked_leads": int(_masked_leads(columns)),
    }


def _count_bits(flags: np.ndarray, names: tuple[str, ...]) -> dict[str, int]:
    return {name: int(np.count_nonzero(flags & (1 << bit))) for bit, name in enumerate(names)}


def _masked_leads(columns: dict[str, np.ndarray]) -> np.integer[Any]:
    """Leads that the header has and quality control took out."""
    usable = np.bitwise_count(columns["lead_mask"]).sum()
    missing = np.count_nonzero(columns["lead_flags"] & (1 << LEAD_FLAGS.index("missing")))
    return columns["lead_flags"].size - missing - usable
