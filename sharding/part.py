"""The second step of packing: one shard, from its records' files to its tar and its rows of the index.

Parts share nothing, so any process on any machine may pack any part, in any order, twice.
"""

import json
import logging
import zipfile
from collections import Counter
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from lamae.base.errors import LamaeError, UsageError
from lamae.base.files import new_file
from lamae.base.progress import Progress, ignore
from lamae.sharding.block import BlockReader
from lamae.sharding.files import HEADER_SUFFIX, Files
from lamae.sharding.format import COLUMNS, NO_SAMPLE, SHARDS_NAME, SPLITS, npy_header, shard_name
from lamae.sharding.output import is_complete, is_kept
from lamae.sharding.packplan import UNREADABLE_SUM, Plan, checked, header_sum, lock_of
from lamae.sharding.readahead import ReadAhead
from lamae.sharding.reading import OF_FILES
from lamae.sharding.recording import Recording
from lamae.sharding.sources import Entry
from lamae.sharding.tar import DIGEST, TarWriter, is_whole, member

logger = logging.getLogger(__name__)

_PLACE_COLUMNS = ("payload_offset", "payload_length", "crc32c", "extent_crc32c")


def pack_part(source: Path, out: Path, part: int, *, progress: Progress = ignore) -> None:
    """Pack shard ``part`` of the plan in ``out``; does nothing where that is done, or the whole set by now.

    One that is done is packed again where files that were missing or damaged then have been fetched since, until the
    set is finished; what it was stays until the new tar is whole.
    Raises UsageError where ``source`` is not what was planned, LamaeError where the disk is full or the fast reader and
    stock wfdb disagree.
    """
    planned = Plan.open(out)
    if is_kept(out, part) or is_settled(planned, part):
        return
    try:
        with lock_of(out) as lock:
            lock.take(shared=True)
            if is_kept(out, part):  # merged while this process waited for the lock
                return
            with closing(ReadAhead(planned.open_files(source))) as files:
                if (report := _report_if_done(planned, part)) is not None:
                    if not _are_mended(planned, files, part, _rejects_for_files(report)):
                        return
                    logger.info("%s: files that shard %d lacked are there by now; it is packed again", out, part)
                _pack_part(planned, files, part, progress, again=report is not None)
    except OSError as error:
        if is_complete(out):
            return
        raise LamaeError(
            f"{out}: cannot write shard {part} ({error.strerror or error}); run the same command again to go on"
        ) from None


def is_done(planned: Plan, part: int) -> bool:
    """Whether a part's result and its tar are both there, the tar with the size it should have."""
    return _report_if_done(planned, part) is not None


def is_settled(planned: Plan, part: int) -> bool:
    """Whether a part is done and no record was left out of it for its files, which may be fetched yet."""
    report = _report_if_done(planned, part)
    return report is not None and not _rejects_for_files(report)


def _report_if_done(planned: Plan, part: int) -> dict[str, Any] | None:
    """The report of a part that is done, read once: another process may remove it at any moment."""
    try:
        report = read_report(planned.part_path(part))
        size = (planned.out / SHARDS_NAME / shard_name(part)).stat().st_size
    except (FileNotFoundError, EOFError, ValueError, zipfile.BadZipFile):  # not there, or not whole after a power cut
        return None
    return report if size == report["bytes"] else None


def _rejects_for_files(report: dict[str, Any]) -> set[str]:
    """Keys of the records that a part left out for their files."""
    return {key for key, reason, _ in report["rejects"] if reason in OF_FILES}


def _are_mended(planned: Plan, files: Files, part: int, keys: set[str]) -> bool:
    """Whether any of the records ``keys`` of a part is no longer one to be left out for its files."""
    entries = [entry for entry in planned.entries(part) if entry.key in keys]
    blocks = BlockReader(files, planned).blocks(entries)
    return {key for block in blocks for key, reason, _ in block.rejects if reason in OF_FILES} != keys


def forget_damaged(planned: Plan, part: int) -> None:
    """Undo a part whose tar is not what was written: after a power failure, file systems may keep only its size."""
    report = _report_if_done(planned, part)
    if report is None:
        return
    try:
        whole = is_whole(planned.out / SHARDS_NAME / shard_name(part), report)
    except FileNotFoundError:
        whole = False
    if not whole:
        planned.part_path(part).unlink(missing_ok=True)


def read_report(path: Path) -> dict[str, Any]:
    """What a part says of itself: its tar's size and digest, its rejects, its counts."""
    with np.load(path, allow_pickle=False) as result:
        report: dict[str, Any] = json.loads(result["report"].tobytes())
        return report


def _pack_part(planned: Plan, files: ReadAhead, part: int, progress: Progress, *, again: bool) -> None:
    entries = planned.entries(part)
    _refuse_other_headers(planned, files, part, entries)
    reader = BlockReader(files, planned)
    columns: dict[str, list[np.ndarray]] = {name: [] for name in COLUMNS}
    places: list[tuple[int, ...]] = []
    extra: list[tuple[str, ...]] = []
    rejects: list[tuple[str, str, str]] = []
    readers: Counter[str] = Counter()
    with TarWriter(planned.out / SHARDS_NAME / shard_name(part)) as tar:
        for start in range(0, len(entries), reader.block_size):
            progress("pack", start, len(entries))
            files.announce([entry.path for entry in entries[start : start + 3 * reader.block_size]])
            block = reader.read(entries[start : start + reader.block_size])
            for piece in block.columns:
                for name, values in piece.items():
                    columns[name].append(values)
            lead_masks = [mask for piece in block.columns for mask in piece["lead_mask"].tolist()]
            for (entry, recording), lead_mask in zip(block.accepted, lead_masks, strict=True):
                places.append(_store(tar, recording, entry, lead_mask=lead_mask))
                extra.append(entry.extra)
            tar.flush()  # the next block's samples go where these are
            rejects += block.rejects
            readers += block.readers
        if any(reason == "missing_file" for _, reason, _ in rejects):
            _refuse_vanished(files, part, entries)
        if again:
            # No sooner, so that a refusal loses nothing; no later, so that no report lies beside a tar of other rows.
            planned.part_path(part).unlink(missing_ok=True)
        digest = tar.close()
    progress("pack", len(entries), len(entries))
    columns["shard"] = [np.full(len(places), part)]
    columns |= {
        name: [np.array(values)] for name, values in zip(_PLACE_COLUMNS, zip(*places, strict=True), strict=False)
    }
    report = {
        "bytes": tar.size,
        DIGEST: digest,
        "num_listed": len(entries),
        "readers": dict(readers),
        "rejects": rejects,
        "extra": extra,
    }
    _write_result(planned.part_path(part), columns, report)


def _refuse_other_headers(planned: Plan, files: Files, part: int, entries: list[Entry]) -> None:
    """Raise UsageError where the source is not the one that was planned: another copy of it, or changed since."""
    if planned.header_sums is None:
        return
    for entry, expected in zip(checked(entries), planned.header_sums[part], strict=True):
        # One that cannot be read now is a reject like any other.
        if header_sum(files, entry) not in (expected, UNREADABLE_SUM):
            raise UsageError(
                f"{files.root}: {entry.path}{HEADER_SUFFIX}, of shard {part}, is not what it was when {planned.out} "
                f"was planned; give the source that was planned, or pack this one into another directory"
            )


def _refuse_vanished(files: Files, part: int, entries: list[Entry]) -> None:
    """Raise LamaeError where no header that the plan found is there: a disk that was unmounted is no bad record."""
    if not any(files.exists(entry.path + HEADER_SUFFIX) for entry in entries):
        raise LamaeError(
            f"{files.root}: none of the {len(entries)} records of shard {part} is there any more; once they are, "
            f"run the same command again to go on"
        )


def _store(tar: TarWriter, recording: Recording, entry: Entry, *, lead_mask: int) -> tuple[int, ...]:
    """Append KEY.npy and KEY.json; returns the values of _PLACE_COLUMNS: where the samples are, and the checksums."""
    payload = np.ascontiguousarray(recording.samples, "<i2")
    payload.flags.writeable = False  # the CRC asks for it
    header = npy_header(payload.shape[1])
    tar_header, _, samples, *padding = member(f"{entry.key}.npy", header, payload.data.cast("B"))
    head = b"".join((tar_header, header))
    tail = b"".join((*padding, *member(f"{entry.key}.json", _describe(recording, entry, lead_mask))))
    start = tar.write(head, samples, tail)
    extent_crc = google_crc32c.extend(google_crc32c.extend(google_crc32c.value(head), payload), tail)
    return start + len(head), payload.nbytes, google_crc32c.value(payload), extent_crc


def _describe(recording: Recording, entry: Entry, lead_mask: int) -> bytes:
    """KEY.json: what a reader of the tar alone needs to make millivolts of KEY.npy."""
    assert entry.split is not None
    subject = "null" if entry.subject is None else entry.subject
    return (
        f"{{{_calibration(recording.baseline.tobytes(), recording.gain.tobytes())},"
        f'"key":"{entry.key}","lead_mask":{lead_mask},"no_sample":{NO_SAMPLE},"rate_hz":{recording.rate_hz!r},'
        f'"record":{json.dumps(entry.path)},"split":"{SPLITS[entry.split]}","subject":{subject}}}'
    ).encode()


@lru_cache(maxsize=256)  # an archive has few different gains and baselines, and 24 numbers take long to write
def _calibration(baseline: bytes, gain: bytes) -> str:
    values = {"baseline": np.frombuffer(baseline, np.int32).tolist(), "gain": np.frombuffer(gain).tolist()}
    return json.dumps(values, separators=(",", ":"))[1:-1]


def _write_result(path: Path, columns: dict[str, list[np.ndarray]], report: dict[str, Any]) -> None:
    """Write a part's rows and report; the rename makes the part done."""
    types = {name: column.wide or column.dtype for name, column in COLUMNS.items()}
    arrays = {
        name: np.concatenate(
            [np.empty((0, *column.shape), types[name]), *columns[name]], dtype=types[name], casting="unsafe"
        )
        for name, column in COLUMNS.items()
        if name != "key"
    }
    arrays["key"] = np.concatenate([np.array([], dtype="S"), *columns["key"]])
    arrays["report"] = np.frombuffer(json.dumps(report).encode(), np.uint8)
    with new_file(path) as partial, partial.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
