"""The first of packing's three steps: decide everything, write nothing but the plan.

    OUT/.packing/plan.json            options, the records' common shape, counts of the listing
    OUT/.packing/listing/000042.csv   the records of shard 42: key,path,subject,split
    OUT/.packing/parts/000042.npz     what packing shard 42 gave (sharding.part); its presence means "done"

The plan is a function of the source's listing and of the options. Shard membership is fixed here, before any quality
control, so packing can be killed, restarted and spread over machines and still gives the same bytes.
"""

import csv
import hashlib
import io
import json
import logging
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lamae.base.errors import LamaeError, UsageError
from lamae.base.files import new_directory, new_file, write_csv
from lamae.base.lock import Lock
from lamae.base.progress import Progress, ignore
from lamae.sharding.columns import with_columns
from lamae.sharding.files import HEADER_SUFFIX, Files, ZipFiles, open_files
from lamae.sharding.format import FORMAT_VERSION, MANIFEST_NAME, SHARDS_NAME, UNMATCHED_NAME, WORK_NAME, ShardSet
from lamae.sharding.hdf5 import Hdf5Files
from lamae.sharding.options import PackOptions
from lamae.sharding.output import lost_shards, refuse_difference, refuse_unfit
from lamae.sharding.reading import MAX_SAMPLES_READ, RejectError, read_header
from lamae.sharding.recording import shape_of
from lamae.sharding.selection import capped, decide_splits
from lamae.sharding.sources import Entry, Reconciliation, list_source
from lamae.sharding.subjects import name_subjects, patients_of, warn_of_unknown
from lamae.sharding.survey import overview, survey
from lamae.sharding.windows import WINDOW_START
from lamae.sharding.zipindex import ZipIndex

logger = logging.getLogger(__name__)

_PLAN_NAME = "plan.json"
_LISTING_NAME = "listing"
_PARTS_NAME = "parts"
_ZIP_INDEX_NAME = "zip_index.npy"
_LOCK_NAME = "lock"
_NUM_HEADERS_SAMPLED = 64
_MAX_SAMPLES = 65535  # what the index counts gaps in


@dataclass(frozen=True)
class Plan:
    """What will be packed, as written in OUT/.packing."""

    out: Path
    content: dict[str, Any]
    base: str
    """Folder below the source that the records' paths are relative to; no part of what the set is."""
    overview: tuple[tuple[str, str], ...] = ()
    """What was found, in words; only where the source was just listed."""

    @property
    def num_parts(self) -> int:
        return int(self.content["num_parts"])

    @property
    def num_listed(self) -> int:
        return int(self.content["num_listed"])

    @property
    def rate_hz(self) -> float:
        """Sampling rate every record must have."""
        return float(self.content["rate_hz"])

    @property
    def num_samples(self) -> int:
        """Samples per lead every record must have."""
        return int(self.content["num_samples"])

    @property
    def options(self) -> dict[str, Any]:
        """PackOptions.identity() with the fold file by its hash."""
        options: dict[str, Any] = self.content["options"]
        return options

    def entries(self, part: int) -> list[Entry]:
        """The records of one shard, sorted by key."""
        path = self.out / WORK_NAME / _LISTING_NAME / f"{part:06d}.csv"
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            return [
                Entry(key, path, int(subject) if subject else None, int(split), tuple(extra))
                for key, path, subject, split, *extra in csv.reader(file)
            ]

    def part_path(self, part: int) -> Path:
        """Where the result of a part is kept until the merge."""
        return self.out / WORK_NAME / _PARTS_NAME / f"{part:06d}.npz"

    def open_files(self, source: Path) -> Files:
        """The files of ``source``, with the index of a zip as the plan kept it."""
        if self.content["source"] == "code15":
            return Hdf5Files(source)
        return open_files(source, base=self.base, zip_index=self.out / WORK_NAME / _ZIP_INDEX_NAME)

    @classmethod
    def open(cls, out: Path) -> "Plan":
        """The plan in ``out``. Raises UsageError where there is none."""
        path = out / WORK_NAME / _PLAN_NAME
        try:
            content = json.loads(path.read_text())
            return cls(out, content, content.pop("base"))
        except OSError:
            raise UsageError(f"{out}: no packing under way here ({path.name} is missing); plan it first") from None
        except (ValueError, KeyError) as error:
            raise LamaeError(f"{path}: damaged ({error}); delete {out} and pack again") from None


def lock_of(out: Path) -> Lock:
    """What those who pack parts in ``out`` share, and who merges them or removes the plan has alone."""
    return Lock(out / WORK_NAME / _LOCK_NAME, what=out)


def plan(source: Path, out: Path, *, options: PackOptions, progress: Progress | None = None) -> Plan:
    """Plan the packing of ``source`` into ``out``, or take up the plan that is there when it is the same.

    Raises UsageError for bad options, an empty source and an ``out`` that holds anything else, naming the difference.
    """
    progress = progress or ignore
    try:
        options.check()
    except ValueError as error:
        raise UsageError(str(error)) from None
    refuse_unfit(out, source)
    try:
        files = open_files(source)
        listing = list_source(files, kind=options.source, ptbxl_rate_hz=options.ptbxl_rate_hz, progress=progress)
    except OSError as error:
        raise LamaeError(
            f"{error.filename or source}: {error.strerror or error}; run the same command once it is readable"
        ) from None
    if listing.kind == "code15":
        files = Hdf5Files(source)
    identity = options.identity()
    identity["ptbxl_rate_hz"] = listing.ptbxl_rate_hz or 500
    entries = listing.entries
    found = survey(files, entries, progress)
    named_by, identity["subjects_from"] = name_subjects(entries, files.base, options)
    named_by = [name for name in (listing.named_by, found.named_by) if name] + named_by
    identity["splits_from"] = decide_splits(entries, options)
    entries = capped(entries, options.max_per_subject)
    num_capped = len(listing.entries) - len(entries)
    entries = entries[: options.limit]
    patients = patients_of(entries, named_by)
    warn_of_unknown(patients)
    entries, extra_names, identity["columns_from"] = with_columns(entries, options.columns_from)
    headers = sampled_headers(files, entries)
    rate_hz, num_recorded = common_shape(files, headers)
    num_samples = num_recorded
    if options.seconds is not None:
        longest_s = max(length / rate for rate, length in _shapes(files, headers))
        if options.seconds > longest_s:
            raise UsageError(
                f"{source}: seconds={options.seconds:g}, but the longest of the {len(headers)} records looked at has "
                f"{longest_s:g} s; give at most that"
            )
        num_recorded = num_samples = max(1, round(options.seconds * rate_hz))
        extra_names = [*extra_names, WINDOW_START]
    if options.rate_hz is not None:
        num_samples = math.ceil(num_samples * options.rate_hz / rate_hz)
        rate_hz = options.rate_hz
    if num_recorded > MAX_SAMPLES_READ or num_samples > _MAX_SAMPLES:
        raise UsageError(
            f"{source}: {num_recorded} samples per lead; shard sets hold short records, up to {_MAX_SAMPLES} once "
            f"resampled and {MAX_SAMPLES_READ} before"
        )
    content: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "source": listing.kind,
        "options": identity,
        "rate_hz": rate_hz,
        "num_samples": num_samples,
        "reconciliation": listing.reconciliation.counts(),
        "patients": patients,
        "num_over_max_per_subject": num_capped,
        "num_listed": len(entries),
        "extra_columns": extra_names,
        "num_parts": -(-len(entries) // options.shard_size),
        "listing_sha256": _listing_sha256(entries),
        # Headers hold checksums of the samples, so these few distinguish another version of the source from this one.
        "headers_sha256": hashlib.sha256(b"".join(headers.values())).hexdigest(),
    }
    planned = Plan(out, content, files.base, overview(listing, found, content))
    try:
        _take_up(planned, listing.reconciliation, entries, files)
    except OSError as error:
        raise LamaeError(
            f"{error.filename or out}: cannot write the plan ({error.strerror or error}); make room or choose another "
            f"output, and run the same command again"
        ) from None
    return planned


def _take_up(planned: Plan, unmatched: Reconciliation, entries: list[Entry], files: Files) -> None:
    """Write the plan, or go on with the one that is there. Raises UsageError where that is another."""
    out, content = planned.out, planned.content
    if (out / MANIFEST_NAME).is_file():
        there_set = ShardSet.open(out)
        refuse_difference(there_set.manifest.get("plan", {}), content, out)
        if not lost_shards(there_set) or (out / WORK_NAME).is_dir():
            return
    try:
        if not (out / WORK_NAME).is_dir():
            _write(planned, unmatched, entries, files)
    except FileExistsError:
        pass  # another process has planned it meanwhile
    try:
        there = Plan.open(out)
    except UsageError:
        if not (out / MANIFEST_NAME).is_file():
            raise
        _take_up(planned, unmatched, entries, files)  # another process has finished it meanwhile
        return
    try:
        refuse_difference(there.content, content, out)
    except UsageError as error:
        if any((out / SHARDS_NAME).iterdir()):
            raise
        raise UsageError(f"{error}. Nothing is packed there yet: remove {out} to plan it anew") from None
    if isinstance(files, ZipFiles):
        _renew_zip_index(out, files)
    if there.base != planned.base:  # the source is given by another of the folders around its records
        _write_content(planned, out / WORK_NAME)


def _renew_zip_index(out: Path, files: ZipFiles) -> None:
    """Take up the directory of a zip that was made anew since. Raises UsageError where it holds other files."""
    path = out / WORK_NAME / _ZIP_INDEX_NAME
    if not path.is_file():  # begun from the unpacked directory
        with new_file(path) as partial:
            files.index.save(partial)
        return
    there = ZipIndex.load(path)
    if there.directory_sha256 == files.index.directory_sha256:
        return
    if not there.has_content_of(files.index):
        raise UsageError(
            f"{files.root}: holds other files than when the packing in {out} began; choose another output for them"
        )
    logger.warning("%s: made anew since the packing in %s began, of the same files; going on with it", files.root, out)
    with new_file(path) as partial:
        files.index.save(partial)


def sampled_headers(files: Files, entries: list[Entry]) -> dict[str, bytes]:
    """The headers of a few records spread evenly over the listing, by path; empty where one cannot be read.

    All of them where none of the few gives a sampling rate and a length.
    """
    step = max(1, len(entries) // _NUM_HEADERS_SAMPLED)
    for chosen in (entries[::step], entries):
        headers = {entry.path: _header(files, entry.path) for entry in chosen}
        if next(_shapes(files, headers), None):
            break
    return headers


def common_shape(files: Files, headers: dict[str, bytes]) -> tuple[float, int]:
    """Sampling rate and samples per lead that most of ``headers`` give. Raises UsageError where none does."""
    shapes = Counter(_shapes(files, headers))
    if not shapes:
        path, text = next(iter(headers.items()))
        raise UsageError(
            f"{files.root}: none of {len(headers)} headers gives a sampling rate and a length; "
            f"the first, {path}{HEADER_SUFFIX}: {_shape(files, path, text)}"
        )
    # The most frequent; among equals the smallest, so that the answer does not depend on the order.
    return min(shapes, key=lambda shape: (-shapes[shape], shape))


def _header(files: Files, record: str) -> bytes:
    try:
        return read_header(files, record)
    except RejectError:
        return b""


def _shapes(files: Files, headers: dict[str, bytes]) -> Iterator[tuple[float, int]]:
    """Sampling rate and samples per lead of the headers that give them."""
    for path, text in headers.items():
        if not isinstance(shape := _shape(files, path, text), RejectError):
            yield shape


def _shape(files: Files, record: str, text: bytes) -> tuple[float, int] | RejectError:
    try:
        return shape_of(files, record, text)
    except RejectError as reject:  # packing the record will report it
        return reject


def _listing_sha256(entries: Iterable[Entry]) -> str:
    digest = hashlib.sha256()
    for line in _listing_lines(entries):
        digest.update(os.fsencode(line))
    return digest.hexdigest()


def _listing_lines(entries: Iterable[Entry]) -> Iterator[str]:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    quoting = csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for entry in entries:
        subject = "" if entry.subject is None else entry.subject
        row = (entry.key, entry.path, subject, entry.split, *entry.extra)
        # Python 3.11 writes a carriage return without quotes and does not read it back.
        (quoting if any("\r" in text for text in (entry.path, *entry.extra)) else writer).writerow(row)
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()


def _write(planned: Plan, unmatched: Reconciliation, entries: list[Entry], files: Files) -> None:
    """Put the plan in place in one rename: it is there whole or not at all."""
    with new_directory(planned.out / WORK_NAME) as building:
        (building / _LISTING_NAME).mkdir()
        (building / _PARTS_NAME).mkdir()
        (planned.out / SHARDS_NAME).mkdir(exist_ok=True)
        shard_size = planned.options["shard_size"]
        for part in range(planned.num_parts):
            chunk = entries[part * shard_size : (part + 1) * shard_size]
            (building / _LISTING_NAME / f"{part:06d}.csv").write_bytes(os.fsencode("".join(_listing_lines(chunk))))
        if isinstance(files, ZipFiles):
            files.index.save(building / _ZIP_INDEX_NAME)
        statuses = ("missing", "unlisted", "unused")
        rows = ((path, status) for status in statuses for path in getattr(unmatched, status))
        write_csv(building / UNMATCHED_NAME, ("path", "status"), rows)
        _write_content(planned, building)


def _write_content(planned: Plan, folder: Path) -> None:
    with new_file(folder / _PLAN_NAME) as partial:
        partial.write_text(json.dumps(planned.content | {"base": planned.base}, indent=1, sort_keys=True))
