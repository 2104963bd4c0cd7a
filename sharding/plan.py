"""The first of packing's three steps: decide everything, write nothing but the plan.

The plan is a function of the source's listing and of the options. Shard membership is fixed here, before any quality
control, so packing can be killed, restarted and spread over machines and still gives the same bytes.
"""

import hashlib
import logging
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from lamae.base.errors import LamaeError, UsageError
from lamae.base.progress import Progress, ignore
from lamae.sharding.columns import with_columns
from lamae.sharding.files import HEADER_SUFFIX, Files, ZipFiles, open_files
from lamae.sharding.format import MANIFEST_NAME, SHARDS_NAME, WORK_NAME, ShardSet
from lamae.sharding.hdf5 import Hdf5Files
from lamae.sharding.options import PackOptions
from lamae.sharding.output import is_complete, lost_shards, refuse_difference, refuse_unfit
from lamae.sharding.packplan import (
    PLAN_VERSION,
    ZIP_INDEX_NAME,
    Plan,
    listing_sha256,
    lock_of,
    write_content,
    write_plan,
)
from lamae.sharding.reading import MAX_SAMPLES_READ, RejectError, header_or_nothing
from lamae.sharding.recheck import warn_of_rejects
from lamae.sharding.recording import shape_of
from lamae.sharding.resample import resampled_length
from lamae.sharding.selection import capped, coverage_of_folds, decide_splits
from lamae.sharding.sources import Entry, Reconciliation, list_source
from lamae.sharding.subjects import name_subjects, patients_of, warn_of_unknown
from lamae.sharding.survey import overview, survey
from lamae.sharding.windows import WINDOW_START
from lamae.sharding.zipindex import ZipIndex

logger = logging.getLogger(__name__)

_NUM_HEADERS_SAMPLED = 64
_MAX_SAMPLES = 65535  # what the index counts gaps in


def plan(source: Path, out: Path, *, options: PackOptions, progress: Progress = ignore) -> Plan:
    """Plan the packing of ``source`` into ``out``, or take up the plan that is there when it is the same.

    Raises UsageError for bad options, an empty source and an ``out`` that holds anything else, naming the difference.
    """
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
    folds = decide_splits(entries, options)
    identity["splits_from"] = folds.sha256 if folds else None
    entries = capped(entries, options.max_per_subject)
    num_capped = len(listing.entries) - len(entries)
    entries = entries[: options.limit]
    patients = patients_of(entries, named_by)
    warn_of_unknown(patients)
    fold_note = coverage_of_folds(folds, entries, options) if folds else ""
    entries, extra_names, identity["columns_from"], column_note = with_columns(
        entries, options.columns_from, allow_few=options.allow_unnamed
    )
    headers = sampled_headers(files, entries)
    recorded_hz, num_recorded = common_shape(files, headers, options)
    rate_hz, num_samples = _at_rate((recorded_hz, num_recorded), options.rate_hz)
    if options.seconds is not None:
        _refuse_unfit_windows(files, headers, options, extra_names)
        extra_names = [*extra_names, WINDOW_START]
    if num_recorded > MAX_SAMPLES_READ or num_samples > _MAX_SAMPLES:
        raise UsageError(
            f"{source}: {num_recorded} samples per lead; shard sets hold short records, up to {_MAX_SAMPLES} once "
            f"resampled and {MAX_SAMPLES_READ} before"
        )
    content: dict[str, Any] = {
        "format_version": PLAN_VERSION,
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
        "listing_sha256": listing_sha256(entries),
        # Headers hold checksums of the samples, so these few distinguish another version of the source from this one.
        "headers_sha256": hashlib.sha256(b"".join(headers.values())).hexdigest(),
    }
    if found.num_read == len(listing.entries) == len(entries):  # all are read anyway
        content["all_headers_sha256"] = found.headers.hexdigest()
    if partly_named := [note for note in (fold_note, column_note) if note]:
        content["partly_named"] = partly_named
    planned = Plan(out, content, files.base, overview(listing, found, content))
    try:
        _take_up(planned, listing.reconciliation, entries, files)
    except OSError as error:
        raise LamaeError(
            f"{error.filename or out}: cannot write the plan ({error.strerror or error}); make room or choose another "
            f"output, and run the same command again"
        ) from None
    if is_complete(out):
        warn_of_rejects(planned, entries, files)
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
            write_plan(planned, unmatched, entries, files)
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
        logger.warning("%s; nothing is packed there yet, so it is planned anew", error)
        with lock_of(out) as lock:
            lock.take()
            if any((out / SHARDS_NAME).iterdir()):
                raise
            shutil.rmtree(out / WORK_NAME)
        _take_up(planned, unmatched, entries, files)
        return
    if isinstance(files, ZipFiles):
        _renew_zip_index(out, files)
    if there.base != planned.base:  # the source is given by another of the folders around its records
        write_content(replace(planned, header_sums=there.header_sums), out / WORK_NAME)


def _renew_zip_index(out: Path, files: ZipFiles) -> None:
    """Take up the directory of a zip that was made anew since. Raises UsageError where it holds other files."""
    path = out / WORK_NAME / ZIP_INDEX_NAME
    if not path.is_file():  # begun from the unpacked directory
        files.index.save(path)
        return
    there = ZipIndex.load(path)
    if there.directory_sha256 == files.index.directory_sha256:
        return
    if not there.has_content_of(files.index):
        raise UsageError(
            f"{files.root}: holds other files than when the packing in {out} began; choose another output for them"
        )
    logger.warning("%s: made anew since the packing in %s began, of the same files; going on with it", files.root, out)
    files.index.save(path)


def _refuse_unfit_windows(files: Files, headers: dict[str, bytes], options: PackOptions, columns: list[str]) -> None:
    """Raise UsageError where no record fills a window, or a column has the name of the one that windows make."""
    longest_s = max(length / rate for rate, length in _shapes(files, headers, options.rate_hz))
    if cast(float, options.seconds) > longest_s:
        raise UsageError(
            f"{files.root}: seconds={options.seconds:g}, but the longest of the {len(headers)} records looked at has "
            f"{longest_s:g} s; give at most that"
        )
    if WINDOW_START in columns:
        raise UsageError(
            f"{options.columns_from}: --seconds makes a column {WINDOW_START} itself; rename or leave out this one"
        )


def sampled_headers(files: Files, entries: list[Entry]) -> dict[str, bytes]:
    """The headers of a few records spread evenly over the listing, by path; empty where one cannot be read.

    All of them where none of the few gives a length and a sampling rate.
    """
    step = max(1, len(entries) // _NUM_HEADERS_SAMPLED)
    for chosen in (entries[::step], entries):
        headers = {entry.path: header_or_nothing(files, entry.path) for entry in chosen}
        if next(_shapes(files, headers, None), None):
            break
    return headers


def common_shape(files: Files, headers: dict[str, bytes], options: PackOptions) -> tuple[float, int]:
    """Sampling rate of what most of ``headers`` describe, and how many samples per lead make a row of the set.

    Records whose rows have one shape count together. Raises UsageError where there is none that can be packed.
    """
    shapes = list(_shapes(files, headers, options.rate_hz))
    if not shapes:
        path, text = next(iter(headers.items()))
        raise UsageError(
            f"{files.root}: none of {len(headers)} headers gives a sampling rate and a length that can be packed; "
            f"the first, {path}{HEADER_SUFFIX}: {_shape(files, path, text, options.rate_hz)}"
        )
    if options.seconds is not None:
        shapes = [(rate, round(options.seconds * rate)) for rate, _ in shapes]
    rows = Counter(_at_rate(shape, options.rate_hz) for shape in shapes)
    # The most frequent; among equals the smallest with a sample, so that the answer does not depend on the order.
    common = min(shapes, key=lambda shape: (-rows[_at_rate(shape, options.rate_hz)], shape[1] < 1, shape))
    if options.seconds is not None and common[1] < 1:
        raise UsageError(f"{files.root}: seconds={options.seconds:g} is less than a sample at {common[0]:g} Hz")
    return common


def _shapes(files: Files, headers: dict[str, bytes], to_hz: float | None) -> Iterator[tuple[float, int]]:
    """Sampling rate and samples per lead of the headers that give them, where ``to_hz`` can be made of the rate."""
    for path, text in headers.items():
        if not isinstance(shape := _shape(files, path, text, to_hz), RejectError):
            yield shape


def _shape(files: Files, record: str, text: bytes, to_hz: float | None) -> tuple[float, int] | RejectError:
    try:
        shape = shape_of(files, record, text)
        _at_rate(shape, to_hz)
        return shape
    except RejectError as reject:  # packing the record will report it
        return reject


def _at_rate(shape: tuple[float, int], to_hz: float | None) -> tuple[float, int]:
    """Sampling rate and samples once they are resampled, if they are. Raises RejectError as ``resample``."""
    rate_hz, num_samples = shape
    return shape if to_hz is None else (to_hz, resampled_length(num_samples, rate_hz, to_hz))
