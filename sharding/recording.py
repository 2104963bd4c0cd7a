"""One WFDB record from its files to samples in canonical lead order, with nothing taken on trust.

    .hea ── strict parser ──▶ .dat as int16 ── size, header checksums ──▶ Recording
      └──── any other shape ──▶ stock wfdb ── header checksums ──────────────▲

A record that cannot be taken is a ``RejectError`` with a reason from REJECT_REASONS: packing counts it and goes on.
"""

import posixpath
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from lamae.sharding.errors import LamaeError
from lamae.sharding.files import HEADER_SUFFIX, DamagedFileError, Files
from lamae.sharding.format import NO_SAMPLE
from lamae.sharding.header import Header, parse_strict, subject_comment
from lamae.sharding.leads import NUM_LEADS, canonical_columns, lead_index

REJECT_REASONS: dict[str, str] = {
    "missing_file": "the header or a signal file it names is not there",
    "bad_header": "the header is no WFDB header that wfdb can read",
    "no_leads": "the header names none of the twelve standard leads",
    "duplicate_lead": "the header names one of the twelve leads twice",
    "unsupported": "several segments, or signals of several rates",
    "truncated": "a signal file is shorter than the header says",
    "unreadable": "wfdb cannot read the signal file",
    "checksum": "the samples do not add up to the checksum in the header",
    "units": "a lead is recorded in units that are no voltage",
    "gain": "a lead's gain is negative or not finite",
    "not_16_bit": "samples or baselines do not fit 16 bits",
    "wrong_rate": "another sampling rate than the shard set's",
    "wrong_length": "another number of samples than the shard set's",
    "subject_mismatch": "the header's subject comment contradicts the listing",
    "no_usable_lead": "no lead holds a usable sample",
}

# Samples per lead of the longest record that is read at all, whatever a header says: a worker's memory is bounded.
MAX_SAMPLES_READ = 1 << 17

_GAIN_PER_MV = {"mv": 1.0, "uv": 1e3, "µv": 1e3, "v": 1e-3}


class RejectError(Exception):
    """This record is left out of the shard set."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Recording:
    """One record as recorded."""

    samples: np.ndarray  # int16 [12, T], canonical lead order; NO_SAMPLE where there is none
    gain: np.ndarray  # float64 [12], ADC units per millivolt; 1 where the lead is missing
    baseline: np.ndarray  # int16 [12], ADC value of 0 mV
    present: np.ndarray  # bool [12], whether the record has the lead
    rate_hz: float
    subject: int | None  # of the header comment
    fast: bool  # read by the strict parser, not by stock wfdb


def read_recording(files: Files, record: str, *, room: np.ndarray | None = None) -> Recording:
    """Read ``record`` (its path without suffix), into ``room`` where its samples fit there. Raises RejectError."""
    header_text = _read(files, record + HEADER_SUFFIX)
    header = parse_strict(header_text, record=posixpath.basename(record))
    if header is not None:
        _refuse_long(header.num_samples)
        data = _read(files, posixpath.join(posixpath.dirname(record), header.data_file))
        expected = 2 * len(header.names) * header.num_samples
        if len(data) < expected:
            raise RejectError("truncated", f"{header.data_file} has {len(data)} of {expected} bytes")
        if len(data) == expected:
            return _decode(header, data, room)
    return read_with_wfdb(files, record)


def read_with_wfdb(files: Files, record: str) -> Recording:
    """Read ``record`` by stock wfdb, then apply the same checks. Raises RejectError."""
    from wfdb.io._signal import _digi_nan

    header, read = _wfdb_header_and_signals(files, record)
    names, digital = read.sig_name, read.d_signal
    if digital is None or any(name is None for name in names):
        raise RejectError("no_leads", "the header names no signals")
    gains, baselines = [1.0] * len(names), [0] * len(names)
    for column, name in enumerate(names):
        if lead_index(name) is not None:
            factor = _GAIN_PER_MV.get(str(read.units[column]).strip().casefold())
            if factor is None:
                raise RejectError("units", f"lead {name} is in {read.units[column]!r}")
            gains[column], baselines[column] = float(read.adc_gain[column]) * factor, int(read.baseline[column])
    layout = _layout(tuple(names), tuple(gains), tuple(baselines))
    checksums = getattr(header, "checksum", None) or [None] * len(names)
    for name, samples, checksum in zip(names, digital.T, checksums, strict=True):
        if checksum is not None and (int(samples.sum()) - checksum) % 65536:
            raise RejectError("checksum", f"lead {name}")
    samples = np.full((NUM_LEADS, len(digital)), NO_SAMPLE, np.int16)
    for lead, at in enumerate(layout.columns):
        if at is not None:
            values = digital[:, at]
            values = np.where(values == _digi_nan(read.fmt[at]), NO_SAMPLE, values)
            if values.size and (values.min() < NO_SAMPLE or values.max() > 32767):
                raise RejectError("not_16_bit", f"lead {names[at]} spans {values.min()}..{values.max()}")
            samples[lead] = values
    subject = subject_comment("\n".join(f"# {comment}" for comment in read.comments))
    return Recording(samples, layout.gain, layout.baseline, layout.present, float(read.fs), subject, fast=False)


def _wfdb_header_and_signals(files: Files, record: str) -> tuple[Any, Any]:
    """What wfdb makes of the header alone, and of header and signals. Raises RejectError."""
    import wfdb  # slow to import (pandas) and needed by few records

    try:
        with files.on_disk(record) as path:
            try:
                header: Any = wfdb.rdheader(str(path))
            except FileNotFoundError:
                raise RejectError("missing_file", f"{record}{HEADER_SUFFIX}") from None
            except Exception:  # wfdb raises whatever its parser trips over
                raise RejectError(
                    "bad_header", f"no WFDB header; it begins with {_first_line(files, record)!r}"
                ) from None
            if isinstance(header, wfdb.MultiRecord):
                raise RejectError("unsupported", "several segments")
            if not header.n_sig or not header.samps_per_frame:
                raise RejectError("no_leads", "the header describes no signals")
            if set(header.samps_per_frame) != {1}:
                raise RejectError("unsupported", "several samples per frame")
            _refuse_long(header.sig_len or 0)
            try:
                return header, wfdb.rdrecord(str(path), physical=False)
            except FileNotFoundError as error:
                raise RejectError("missing_file", posixpath.basename(str(error.filename))) from None
            except Exception as error:
                raise RejectError("unreadable", f"wfdb cannot decode the signals ({_one_line(error)})") from None
    except DamagedFileError as error:
        raise RejectError("unreadable", str(error)) from None


def audit(files: Files, record: str, recording: Recording) -> None:
    """Compare a fast read with stock wfdb bit for bit. Raises LamaeError naming the record where they differ."""
    try:
        reference = read_with_wfdb(files, record)
    except RejectError as reject:
        raise LamaeError(f"{record}: the fast reader accepts what wfdb does not ({reject}); please report it") from None
    for name in ("samples", "gain", "baseline", "present", "rate_hz", "subject"):
        if not np.array_equal(getattr(recording, name), getattr(reference, name)):
            raise LamaeError(f"{record}: the fast reader and wfdb disagree on {name}; please report it")


def _decode(header: Header, data: bytes, room: np.ndarray | None) -> Recording:
    layout = _layout(header.names, header.gains, header.baselines)
    shape = (len(layout.order), header.num_samples)
    signals = room if room is not None and room.shape == shape else np.empty(shape, np.int16)
    recorded = np.frombuffer(data, "<i2").reshape(shape[::-1])
    for row, column in enumerate(layout.order):
        signals[row] = recorded[:, column]
    # Along contiguous rows, and wrapping modulo 65536 by themselves.
    sums = np.add.reduce(signals.view(np.uint16), axis=1, dtype=np.uint16).tolist()
    for column, total in zip(layout.order, sums, strict=True):
        if total != header.checksums[column]:
            raise RejectError("checksum", f"lead {header.names[column]}")
    if layout.is_complete:
        samples = signals[:NUM_LEADS]
    else:
        samples = np.full((NUM_LEADS, header.num_samples), NO_SAMPLE, np.int16)
        samples[layout.present] = signals[: np.count_nonzero(layout.present)]
    return Recording(samples, layout.gain, layout.baseline, layout.present, header.rate_hz, header.subject, fast=True)


@dataclass(frozen=True)
class _Layout:
    """Where a file keeps the twelve leads, and their calibration; arrays are [12] and read-only."""

    columns: tuple[int | None, ...]
    order: list[int]  # every column: first those of the leads that are there, in canonical order, then the rest
    is_complete: bool  # all twelve leads are there
    gain: np.ndarray
    baseline: np.ndarray
    present: np.ndarray


@lru_cache(maxsize=256)  # an archive has few different layouts
def _layout(names: tuple[str, ...], gains: tuple[float, ...], baselines: tuple[int, ...]) -> _Layout:
    """Raises RejectError where the twelve leads cannot be told, or their gains or baselines cannot be used.

    A gain of 0 never comes here: WFDB defines it as 200 per millivolt.
    """
    try:
        columns = canonical_columns(names)
    except ValueError as error:
        raise RejectError("duplicate_lead", str(error)) from None
    if all(column is None for column in columns):
        raise RejectError("no_leads", f"signals are {', '.join(names)}")
    gain = np.array([1.0 if column is None else gains[column] for column in columns])
    if not ((gain > 0) & np.isfinite(gain)).all():
        raise RejectError("gain", f"gains per mV are {', '.join(f'{value:g}' for value in gain)}")
    baseline = np.array([0 if column is None else baselines[column] for column in columns])
    if baseline.min() < NO_SAMPLE or baseline.max() > 32767:
        raise RejectError("not_16_bit", f"baselines {baseline.min()}..{baseline.max()}")
    present = np.array([column is not None for column in columns])
    arrays = (gain, baseline.astype(np.int16), present)
    for array in arrays:
        array.flags.writeable = False
    leads = [column for column in columns if column is not None]
    others = [column for column in range(len(names)) if column not in leads]
    return _Layout(tuple(columns), leads + others, len(leads) == NUM_LEADS, *arrays)


def _read(files: Files, path: str) -> bytes:
    try:
        return files.read(path)
    except FileNotFoundError:
        raise RejectError("missing_file", path) from None
    except OSError as error:
        raise RejectError("unreadable", f"{path}: {error.strerror or error}") from None


def _refuse_long(num_samples: int) -> None:
    if num_samples > MAX_SAMPLES_READ:
        raise RejectError("wrong_length", f"{num_samples} samples per lead; at most {MAX_SAMPLES_READ} are read")


def _first_line(files: Files, record: str) -> str:
    lines = files.read(record + HEADER_SUFFIX).decode("ascii", "replace").splitlines()
    return lines[0][:80] if lines else ""


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or "it does not say why"
