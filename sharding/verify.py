"""Checking a shard set against itself: any changed byte is found and named by file, offset and key.

dataset.json   its own sha256; its counts and splits are those of the index
rejects.csv …  sha256 in dataset.json
index.zarr     every file's sha256 in dataset.json, and that its rows are sound
NNNNNN.tar     BLAKE3, or sha256, in dataset.json; where it differs, tar headers, payload CRCs and JSON say which record
"""

import os
from dataclasses import dataclass, field
from io import FileIO
from itertools import pairwise
from typing import Any

import google_crc32c
import numpy as np

from lamae.base.errors import LamaeError
from lamae.base.leads import NUM_LEADS
from lamae.base.progress import Progress, ignore
from lamae.sharding import checked
from lamae.sharding.format import COLUMNS, INDEX_NAME, MANIFEST_NAME, SHARDS_NAME, ShardSet, manifest_text, npy_header
from lamae.sharding.merge import describe
from lamae.sharding.tar import BLOCK, END, digest_of, new_digest
from lamae.sharding.walk import is_hidden

_READ_BYTES = 1 << 20
_MAX_PROBLEMS_PER_SHARD = 20


@dataclass
class VerifyReport:
    """What was checked and what is wrong; sound where ``problems`` is empty."""

    num_records: int = 0
    num_shards: int = 0
    num_bytes: int = 0
    problems: list[str] = field(default_factory=list)
    only_shards: bool = True  # every problem is in a tar, and tars can be packed again one by one


def verify(path: str | os.PathLike[str], *, progress: Progress = ignore) -> VerifyReport:
    """Read every byte of the shard set at ``path`` and compare it with what was written.

    Raises UsageError where ``path`` is no complete shard set and LamaeError where dataset.json cannot be read;
    everything else that is wrong goes into the report.
    """
    shard_set = ShardSet.open(path)
    report = VerifyReport(num_records=shard_set.num_records)
    _verify_small_files(shard_set, report)
    index_is_sound = _verify_index(shard_set, report)
    report.only_shards = not report.problems
    shards = shard_set.manifest["shards"]
    for number, expected in enumerate(shards):
        progress("verify", number, len(shards))
        _verify_shard(shard_set, number, expected, report, index_is_sound=index_is_sound)
    folder, known = shard_set.root / SHARDS_NAME, {entry["name"] for entry in shards}
    for extra in sorted(folder.iterdir()) if folder.is_dir() else []:
        if extra.name not in known and not is_hidden(extra.name):
            report.problems.append(f"{extra}: no shard of this set")
    progress("verify", len(shards), len(shards))
    return report


def _verify_small_files(shard_set: ShardSet, report: VerifyReport) -> None:
    manifest_path = shard_set.root / MANIFEST_NAME
    if manifest_path.read_text() != manifest_text(shard_set.manifest):
        report.problems.append(f"{manifest_path}: changed since it was written (sha256)")
    for name, sha256 in shard_set.manifest.get("files_sha256", {}).items():
        path = shard_set.root / os.path.basename(name)  # a manifest from elsewhere may name any file
        if not path.is_file():
            report.problems.append(f"{path}: missing")
        elif checked.file_sha256(path) != sha256:
            report.problems.append(f"{path}: changed since it was written (sha256)")


def _verify_index(shard_set: ShardSet, report: VerifyReport) -> bool:
    """Check the index's hash and its rows; True where its rows can be used to look at the tars."""
    root, before = shard_set.root / INDEX_NAME, len(report.problems)
    report.problems += checked.problems(root, shard_set.index_sums)
    try:
        columns = {name: shard_set.column(name) for name in COLUMNS}
    except LamaeError as error:
        if len(report.problems) == before:
            report.problems.append(str(error))
    if len(report.problems) > before:
        return False
    keys = shard_set.keys
    if any(left >= right for left, right in pairwise(keys)):
        report.problems.append(f"{root}: keys are not sorted and unique")
    if (columns["payload_length"] != 2 * NUM_LEADS * shard_set.num_samples).any():
        report.problems.append(f"{root}: a payload has another length than 12 x {shard_set.num_samples} samples")
    if (columns["shard"] >= len(shard_set.manifest["shards"])).any() or (columns["split"] > 2).any():
        report.problems.append(f"{root}: a row names a shard or split that does not exist")
    if (columns["lead_mask"] == 0).any() or not (columns["gain"] > 0).all():
        report.problems.append(f"{root}: a row has no usable lead or a gain that is not positive")
    pairs = np.unique(np.stack([columns["subject"], columns["split"].astype(np.int64)]), axis=1)
    subjects, times = np.unique(pairs[0], return_counts=True)
    for subject in subjects[times > 1][:_MAX_PROBLEMS_PER_SHARD]:
        report.problems.append(f"{root}: subject {subject} is in more than one split")
    for name, value in describe(columns).items():
        said = shard_set.manifest.get(name, value)
        if said != value:
            report.problems.append(f"{shard_set.root / MANIFEST_NAME}: {name} is {said}, of the index it is {value}")
    return len(report.problems) == before


def _verify_shard(
    shard_set: ShardSet, number: int, expected: dict[str, Any], report: VerifyReport, *, index_is_sound: bool
) -> None:
    """One pass over a tar, record by record where the index can be trusted, in plain chunks where it cannot."""
    path = shard_set.shard_path(number)
    name, expected_digest = digest_of(expected)
    digest = new_digest(name)
    problems: list[str] = []
    try:
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if index_is_sound:
                problems = _read_records(shard_set, number, file, size, digest)
            while chunk := file.read(_READ_BYTES):
                digest.update(chunk)
    except OSError as error:
        report.problems.append(f"{path}: {error.strerror}")
        return
    report.num_shards += 1
    report.num_bytes += size
    if size != expected["bytes"]:
        problems.append(f"{size} bytes instead of {expected['bytes']}")
    if digest.hexdigest() != expected_digest and not problems:
        problems.append(f"changed since it was written ({name}), outside of its records")
    report.problems.extend(f"{path}: {problem}" for problem in problems[:_MAX_PROBLEMS_PER_SHARD])
    if len(problems) > _MAX_PROBLEMS_PER_SHARD:
        report.problems.append(f"{path}: and {len(problems) - _MAX_PROBLEMS_PER_SHARD} problems more")


def _read_records(shard_set: ShardSet, number: int, file: FileIO, size: int, digest: Any) -> list[str]:
    """Read a shard's records in order, feeding ``digest``; what is wrong with each, by its index row."""
    rows = np.flatnonzero(shard_set.column("shard") == number)
    if not len(rows):  # quality control has rejected them all: the tar holds nothing but its end
        return []
    payloads = shard_set.column("payload_offset")[rows].astype(np.int64)
    before_payload = BLOCK + len(npy_header(shard_set.num_samples))
    starts = payloads - before_payload
    ends = np.append(starts[1:], max(size - len(END), 0))
    payload_crcs, extent_crcs = shard_set.column("crc32c")[rows], shard_set.column("extent_crc32c")[rows]
    payload_end = before_payload + 2 * NUM_LEADS * shard_set.num_samples
    problems: list[str] = []
    for row, start, end, payload_crc, extent_crc in zip(
        rows.tolist(), starts.tolist(), ends.tolist(), payload_crcs.tolist(), extent_crcs.tolist(), strict=True
    ):
        key = shard_set.keys[row]
        if start != file.tell():
            return [*problems, f"record {key} starts at offset {start} in the index and at {file.tell()} in the tar"]
        extent = file.read(end - start)
        digest.update(extent)
        if google_crc32c.value(extent) == extent_crc:
            continue
        if google_crc32c.value(extent[before_payload:payload_end]) != payload_crc:
            problems.append(f"record {key}: samples at offset {start + before_payload} are damaged (crc32c)")
        else:
            problems.append(f"record {key}: headers or {key}.json at offset {start} are damaged, the samples are sound")
    return problems
