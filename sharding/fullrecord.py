"""Records of any header and format: what hea(5) allows, decoded by stock wfdb, checked as the fast reader checks."""

import math
import re
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

from lamae.base.leads import lead_index
from lamae.sharding.files import Files
from lamae.sharding.format import NO_SAMPLE
from lamae.sharding.header import FullHeader, HeaderError, Signal, parse
from lamae.sharding.reading import RejectError, read_signal_file, refuse_long, signal_file_size
from lamae.sharding.stockwfdb import FORMATS, NULL_FORMAT, WfdbError, decode

_DEFAULT_RATE_HZ = 250.0  # hea(5): what a header without a sampling frequency means
_DEFAULT_GAIN = 200.0  # and one without a gain, or with 0
# Case-folded, which makes the micro sign (U+00B5) the Greek letter (U+03BC).
_VOLTAGE = re.compile(r"(n|u|μ|m|nano|micro|milli|)v(?:olts?)?")
_PER_MV = {"n": 1e6, "u": 1e3, "μ": 1e3, "m": 1.0, "": 1e-3, "nano": 1e6, "micro": 1e3, "milli": 1.0}


class FullRecord(NamedTuple):
    """What there is of a record's signals, one entry per signal in the order of the header."""

    names: tuple[str, ...]
    gains: tuple[float, ...]  # ADC units per millivolt; 1 where the signal is none of the twelve leads
    baselines: tuple[int, ...]
    rows: list[np.ndarray]  # int [T]; of leads int16 with NO_SAMPLE
    rate_hz: float
    subject: int | None
    notes: tuple[str, ...]


def read_full(files: Files, record: str, text: bytes, *, gain: float | None) -> FullRecord:
    """Read the signals of a ``record`` with the header ``text``, whose gains and units ``gain`` replaces.

    Raises RejectError; LamaeError for what may pass.
    """
    header, signals = _parsed(text)
    gains = tuple(_gain_per_mv(signal) if gain is None else gain for signal in signals)
    num_samples = header.num_samples
    rows: list[np.ndarray] = []
    for group in _by_file(signals):
        refuse_long(num_samples or 0, len(signals))
        data = read_signal_file(files, record, group[0].file)
        if num_samples is None:
            num_samples = _num_samples(group, len(data))
            refuse_long(num_samples, len(signals))
        rows += _decoded(data, group, num_samples)
    notes = _check(header, signals, rows)
    pairs = zip(rows, signals, strict=True)
    rows = [row if lead_index(signal.name) is None else _as_int16(row, signal) for row, signal in pairs]
    names, baselines = tuple(signal.name for signal in signals), tuple(signal.baseline for signal in signals)
    return FullRecord(names, gains, baselines, rows, header.rate_hz or _DEFAULT_RATE_HZ, header.subject, notes)


def full_shape(files: Files, record: str, text: bytes) -> tuple[float, int]:
    """Sampling rate and samples per lead by the header ``text`` or its signal file. Raises as ``read_full`` does."""
    header, signals = _parsed(text)
    num_samples = header.num_samples
    if num_samples is None:
        group = _by_file(signals)[0]
        num_samples = _num_samples(group, signal_file_size(files, record, group[0].file))
    return header.rate_hz or _DEFAULT_RATE_HZ, num_samples


def _parsed(text: bytes) -> tuple[FullHeader, list[Signal]]:
    """A header, and its signals that are in a file. Raises RejectError where there are none to be read."""
    try:
        header = parse(text)
    except HeaderError as error:
        raise RejectError("bad_header", str(error)) from None
    if header.num_segments is not None:
        raise RejectError("unsupported", f"several segments ({header.num_segments})")
    signals = [signal for signal in header.signals if signal.format != NULL_FORMAT]
    if not signals:
        raise RejectError("no_leads", "the header describes no signals")
    if any(signal.samples_per_frame != 1 for signal in signals):
        raise RejectError("unsupported", "several samples per frame")
    for number, signal in enumerate(signals, start=1):
        if signal.format not in FORMATS:
            raise RejectError("unsupported", f"format {signal.format}")
        if not signal.name:  # hea(5) lets it be, but so ends a header that was cut, and a lead would be lost
            raise RejectError("no_leads", f"signal {number} has no name")
    return header, signals


def _by_file(signals: Sequence[Signal]) -> list[list[Signal]]:
    """The signals by the file they are in. Raises RejectError where lines of one file do not go together."""
    groups = [list(group) for _, group in groupby(signals, lambda signal: (signal.file, signal.format, signal.offset))]
    files = [group[0].file for group in groups]
    for file in files:
        if files.count(file) > 1:
            raise RejectError("bad_header", f"the lines of {file} differ in format or offset, or are not in a row")
    return groups


def _decoded(data: bytes, group: Sequence[Signal], num_samples: int) -> list[np.ndarray]:
    first = group[0]
    expected = first.offset + math.ceil(FORMATS[first.format].num_bytes * len(group) * num_samples)
    if len(data) < expected:
        raise RejectError("truncated", f"{first.file} has {len(data)} of {expected} bytes")
    try:
        return decode(data, group, num_samples)
    except WfdbError as error:
        raise RejectError("unreadable", f"wfdb cannot decode {first.file} ({error})") from None


def _check(header: FullHeader, signals: Sequence[Signal], rows: Sequence[np.ndarray]) -> tuple[str, ...]:
    """Compare the samples with the header's checksums; returns what is to be counted. Raises RejectError."""
    has_checksums = any(signal.checksum for signal in signals)  # 0 in every line: nobody filled them in
    wrong = [
        signal.name
        for signal, row in zip(signals, rows, strict=True)
        if has_checksums and signal.checksum is not None and (int(row.sum()) - signal.checksum) % 65536
    ]
    if header.num_signal_lines > len(header.signals) and (wrong or not has_checksums):
        # hea(5) has readers ignore lines beyond the number declared; the samples say whether that is what was meant.
        lines = f"{len(header.signals)} signals declared, {header.num_signal_lines} signal lines"
        raise RejectError("bad_header", f"{lines}, and the checksums do not show that the number is right")
    if wrong:
        raise RejectError("checksum", f"lead {wrong[0]}")
    return (() if header.rate_hz else ("no_rate",)) + (() if has_checksums else ("unchecked",))


def _num_samples(group: Sequence[Signal], size: int) -> int:
    """Samples per signal in a file of ``size`` bytes. Raises RejectError where they cannot be counted."""
    first = group[0]
    if not FORMATS[first.format].num_bytes:
        raise RejectError("bad_header", f"no length, and {first.file} is compressed (format {first.format})")
    num_samples = int((size - first.offset) / (FORMATS[first.format].num_bytes * len(group)))
    if num_samples < 1:
        raise RejectError("truncated", f"{first.file} has {size} bytes and holds no sample")
    return num_samples


def _gain_per_mv(signal: Signal) -> float:
    if lead_index(signal.name) is None:
        return 1.0
    match = _VOLTAGE.fullmatch(signal.units.replace("\udcb5", "µ").casefold())  # of Latin-1
    if match is None:
        raise RejectError("units", f"lead {signal.name} is in {signal.units!r}")
    if signal.gain:
        return signal.gain * _PER_MV[match[1]]
    if _PER_MV[match[1]] != 1:
        raise RejectError("gain", f"lead {signal.name} is in {signal.units} and not calibrated")
    return _DEFAULT_GAIN


def _as_int16(values: np.ndarray, signal: Signal) -> np.ndarray:
    """One signal, int [T], as it is stored: moved by its skew, with NO_SAMPLE where there is none."""
    is_sample = values != FORMATS[signal.format].no_sample
    found = values[is_sample]
    if found.size and (found.min() <= NO_SAMPLE or found.max() > 32767):
        raise RejectError("not_16_bit", f"lead {signal.name} spans {found.min()}..{found.max()}")
    stored = np.full(len(values), NO_SAMPLE, np.int16)
    moved = np.where(is_sample, values, NO_SAMPLE)[signal.skew :]
    stored[: len(moved)] = moved
    return stored
