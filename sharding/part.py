"""The second step of packing: one shard, from its records' files to its tar and its rows of the index.

Parts share nothing, so any process on any machine may pack any part, in any order, twice.
"""

import hashlib
import json
import secrets
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from sharding.errors import LamaeError
from sharding.files import HEADER_SUFFIX, Files
from sharding.format import COLUMNS, NO_SAMPLE, SHARDS_NAME, SPLITS, npy_header, shard_name
from sharding.leads import NUM_LEADS
from sharding.measures import Measures
from sharding.plan import Plan
from sharding.progress import Progress, ignore
from sharding.quality import QualityConfig, assess
from sharding.recording import Recording, RejectError, audit, read_recording
from sharding.resample import resample
from sharding.sources import Entry
from sharding.tar import BLOCK, TarWriter, member

_LEAD_BITS = (1 << np.arange(NUM_LEADS)).astype(np.int64)


def pack_part(source: Path, out: Path, part: int, *, progress: Progress | None = None) -> None:
    """Pack shard ``part`` of the plan in ``out``; does nothing where that is done.

    Raises LamaeError where the disk is full or the fast reader and stock wfdb disagree.
    """
    planned = Plan.open(out)
    if is_done(planned, part):
        return
    try:
        _pack_part(planned, planned.open_files(source), part, progress or ignore)
    except OSError as error:
        raise LamaeError(
            f"{out}: cannot write shard {part} ({error.strerror or error}); run the same command again to go on"
        ) from None


def is_done(planned: Plan, part: int) -> bool:
    """Whether a part's result and its tar are both there, the tar with the size it should have."""
    try:
        report = read_report(planned.part_path(part))
        return (planned.out / SHARDS_NAME / shard_name(part)).stat().st_size == report["bytes"]
    except (FileNotFoundError, EOFError, ValueError, zipfile.BadZipFile):  # not there, or not whole after a power cut
        return False


def forget_damaged(planned: Plan, part: int) -> None:
    """Undo a part whose tar is not what was written: after a power failure, file systems may keep only its size."""
    path = planned.out / SHARDS_NAME / shard_name(part)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != read_report(planned.part_path(part))["sha256"]:
        planned.part_path(part).unlink()


def read_report(path: Path) -> dict[str, Any]:
    """What a part says of itself: its tar's size and sha256, its rejects, its counts."""
    with np.load(path, allow_pickle=False) as result:
        report: dict[str, Any] = json.loads(result["report"].tobytes())
        return report


def _pack_part(planned: Plan, files: Files, part: int, progress: Progress) -> None:
    entries = planned.entries(part)
    quality = QualityConfig(**planned.options["quality"])
    rows: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    extra: list[tuple[str, ...]] = []
    rejects: list[tuple[str, str, str]] = []
    readers: Counter[str] = Counter()
    with TarWriter(planned.out / SHARDS_NAME / shard_name(part)) as tar:
        for done, entry in enumerate(entries):
            try:
                recording = read_recording(files, entry.path)
                if recording.fast and is_audited(entry.key, planned.options["audit"]):
                    audit(files, entry.path, recording)
                    readers["audited"] += 1
                recording, row = _accept(recording, entry, planned, quality)
            except RejectError as reject:
                rejects.append((entry.key, reject.reason, reject.detail))
                continue
            readers["fast" if recording.fast else "wfdb"] += 1
            row |= {"shard": part} | _store(tar, recording, entry, lead_mask=row["lead_mask"])
            for name, value in row.items():
                rows[name].append(value)
            extra.append(entry.extra)
            if done % 64 == 0:
                progress("pack", done, len(entries))
        if _source_is_gone(files, entries, rejects):
            raise LamaeError(f"{files.root}: none of the {len(entries)} records of shard {part} is there any more")
        sha256 = tar.close()
    progress("pack", len(entries), len(entries))
    report = {
        "bytes": tar.size,
        "sha256": sha256,
        "num_listed": len(entries),
        "readers": dict(readers),
        "rejects": rejects,
        "extra": extra,
    }
    _write_result(planned.part_path(part), rows, report)


def _source_is_gone(files: Files, entries: list[Entry], rejects: list[tuple[str, str, str]]) -> bool:
    """Whether every header that the plan found has vanished: a disk that was unmounted is no shard of bad records."""
    return len(rejects) == len(entries) and not any(files.exists(entry.path + HEADER_SUFFIX) for entry in entries)


def is_audited(key: str, share: float) -> bool:
    """Whether a record belongs to the share that stock wfdb reads too: by a hash of its key, so always the same."""
    draw = int.from_bytes(hashlib.sha256(f"audit {key}".encode()).digest()[:8], "big") / 2**64
    return draw < share


def _accept(
    recording: Recording, entry: Entry, planned: Plan, quality: QualityConfig
) -> tuple[Recording, dict[str, Any]]:
    """The recording as it is stored, and its row of the index. Raises RejectError."""
    if recording.subject is not None and entry.subject is not None and recording.subject != entry.subject:
        raise RejectError("subject_mismatch", f"header says {recording.subject}, the listing {entry.subject}")
    # Rules judge what was recorded; the statistics in the index are those of what is stored.
    measures = as_recorded = Measures(recording)
    if recording.rate_hz != planned.rate_hz:
        if planned.options["rate_hz"] is None:
            raise RejectError("wrong_rate", f"{recording.rate_hz:g} Hz, the shard set has {planned.rate_hz:g}")
        recording = resample(recording, planned.rate_hz)
        measures = Measures(recording)
    num_samples = recording.samples.shape[1]
    if num_samples != planned.num_samples:
        raise RejectError("wrong_length", f"{num_samples} samples, the shard set has {planned.num_samples}")
    found = assess(as_recorded, quality)
    return recording, {
        "key": entry.key,
        "subject": -1 if entry.subject is None else entry.subject,
        "split": entry.split,
        "gain": recording.gain,
        "baseline": recording.baseline,
        "lead_mask": int(found.usable @ _LEAD_BITS),
        "mean_mv": measures.mean_mv,
        "std_mv": measures.std_mv,
        "min_adc": measures.min_adc,
        "max_adc": measures.max_adc,
        "num_missing": measures.num_missing,
        "lead_flags": found.lead_flags,
        "record_flags": found.record_flags,
    }


def _store(tar: TarWriter, recording: Recording, entry: Entry, *, lead_mask: int) -> dict[str, int]:
    """Append KEY.npy and KEY.json; returns where the samples are, and the checksums."""
    payload = np.ascontiguousarray(recording.samples, "<i2")
    payload.flags.writeable = False  # the CRC asks for it
    header = npy_header(payload.shape[1])
    extent = b"".join(
        member(f"{entry.key}.npy", header, payload.data.cast("B"))
        + member(f"{entry.key}.json", _describe(recording, entry, lead_mask))
    )
    return {
        "payload_offset": tar.write(extent) + BLOCK + len(header),
        "payload_length": payload.nbytes,
        "crc32c": google_crc32c.value(payload),
        "extent_crc32c": google_crc32c.value(extent),
    }


def _describe(recording: Recording, entry: Entry, lead_mask: int) -> bytes:
    """KEY.json: what a reader of the tar alone needs to make millivolts of KEY.npy."""
    assert entry.split is not None
    content = {
        "baseline": recording.baseline.tolist(),
        "gain": recording.gain.tolist(),
        "key": entry.key,
        "lead_mask": lead_mask,
        "no_sample": NO_SAMPLE,
        "rate_hz": recording.rate_hz,
        "record": entry.path,
        "split": SPLITS[entry.split],
        "subject": entry.subject,
    }
    return json.dumps(content, separators=(",", ":")).encode()


def _write_result(path: Path, rows: dict[str, list[Any]], report: dict[str, Any]) -> None:
    """Write a part's rows and report; the rename makes the part done."""
    num_rows = len(rows["key"])
    arrays = {
        name: np.asarray(rows[name], dtype=column.dtype).reshape((num_rows, *column.shape))
        for name, column in COLUMNS.items()
        if name != "key"
    }
    arrays["key"] = np.array(rows["key"], dtype="S")
    arrays["report"] = np.frombuffer(json.dumps(report).encode(), np.uint8)
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
    with partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    partial.replace(path)
