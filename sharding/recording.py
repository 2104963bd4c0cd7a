"""One WFDB record from its files to samples in canonical lead order, with nothing taken on trust.

    .hea ── strict parser ──▶ .dat as int16 ── size, header checksums ────────────────▶ Recording
      └──── full parser ──▶ files decoded by stock wfdb ── size, header checksums ──────────▲

A record that cannot be taken is a ``RejectError`` with its reason: packing counts it and goes on.
"""

import posixpath
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from lamae.base.errors import LamaeError
from lamae.base.leads import NUM_LEADS, canonical_columns
from lamae.sharding.files import Files
from lamae.sharding.format import NO_SAMPLE
from lamae.sharding.fullrecord import full_shape, read_full
from lamae.sharding.header import Header, parse_strict, subject_comment
from lamae.sharding.reading import RejectError, read_header, read_signal_file, refuse_long
from lamae.sharding.stockwfdb import WfdbError, read_renamed

MIN_GAIN, MAX_GAIN = 1e-20, 1e20
"""Units per millivolt; a gain outside is one that no recorder has."""
_MAX_BASELINE = np.iinfo(np.int32).max


@dataclass(frozen=True)
class Recording:
    """One record as recorded."""

    samples: np.ndarray  # int16 [12, T], canonical lead order; NO_SAMPLE where there is none
    gain: np.ndarray  # float64 [12], ADC units per millivolt; 1 where the lead is missing
    baseline: np.ndarray  # int32 [12], ADC value of 0 mV; beyond int16 where a lead has a large offset
    present: np.ndarray  # bool [12], whether the record has the lead
    rate_hz: float
    subject: int | None  # of the header comment
    fast: bool  # read by the strict parser, not by stock wfdb
    notes: tuple[str, ...] = ()  # what to count, such as "unchecked": no checksums
    columns: tuple[int | None, ...] = ()  # of the signal file: where it keeps the twelve leads


def read_recording(files: Files, record: str, *, out: np.ndarray | None = None, gain: float | None = None) -> Recording:
    """Read ``record`` (its path without suffix), into ``out`` where its samples fit there.

    ``gain``, units per millivolt, takes the place of the header's gains and units.
    Raises RejectError, and LamaeError where a file cannot be read for a reason that may pass.
    """
    text = read_header(files, record)
    header = parse_strict(text, record=posixpath.basename(record))
    if header is not None:
        refuse_long(header.num_samples, len(header.names))
        data = read_signal_file(files, record, header.data_file)
        expected = 2 * len(header.names) * header.num_samples
        if len(data) < expected:
            raise RejectError("truncated", f"{header.data_file} has {len(data)} of {expected} bytes")
        if len(data) == expected:
            return _decode(header if gain is None else header._replace(gains=(gain,) * len(header.names)), data, out)
    full = read_full(files, record, text, gain=gain)
    layout = _layout(full.names, full.gains, full.baselines)
    samples = _canonical(full.rows, layout)
    of_record = full.rate_hz, full.subject
    return Recording(samples, layout.gain, layout.baseline, layout.present, *of_record, fast=False, notes=full.notes)


def shape_of(files: Files, record: str, text: bytes) -> tuple[float, int]:
    """Sampling rate and samples per lead by the header ``text``, or by its signal file. Raises RejectError."""
    header = parse_strict(text, record=posixpath.basename(record))
    return (header.rate_hz, header.num_samples) if header is not None else full_shape(files, record, text)


def audit(files: Files, record: str, recording: Recording, *, gain: float | None = None) -> None:
    """Compare a fast read, with that ``gain``, with stock wfdb bit for bit.

    Raises LamaeError naming the record where they differ.
    """
    name = posixpath.basename(record)
    try:
        reference = read_renamed(
            read_header(files, record), read_signal_file(files, record, f"{name}.dat"), record=name
        )
    except WfdbError as error:
        raise LamaeError(f"{record}: the fast reader accepts what wfdb does not ({error}); please report it") from None
    gains = tuple(reference.adc_gain) if gain is None else (gain,) * len(reference.sig_name)
    layout = _layout(tuple(reference.sig_name), gains, tuple(reference.baseline))
    expected = {
        "samples": _canonical(list(reference.d_signal.T), layout),
        "gain": layout.gain,
        "baseline": layout.baseline,
        "present": layout.present,
        "rate_hz": reference.fs,
        "subject": subject_comment("\n".join(f"# {comment}" for comment in reference.comments)),
    }
    for what, value in expected.items():
        if not np.array_equal(getattr(recording, what), value):
            raise LamaeError(f"{record}: the fast reader and wfdb disagree on {what}; please report it")


def _canonical(rows: list[np.ndarray], layout: "_Layout") -> np.ndarray:
    """The rows [T] of a file's signals as int16 [12, T]."""
    samples = np.full((NUM_LEADS, len(rows[0])), NO_SAMPLE, np.int16)
    for lead, at in enumerate(layout.columns):
        if at is not None:
            samples[lead] = rows[at]
    return samples


def _decode(header: Header, data: bytes, out: np.ndarray | None) -> Recording:
    layout = _layout(header.names, header.gains, header.baselines)
    shape = (len(layout.order), header.num_samples)
    signals = out if out is not None and out.shape == shape else np.empty(shape, np.int16)
    recorded = np.frombuffer(data, "<i2").reshape(shape[::-1])
    for row, column in enumerate(layout.order):
        signals[row] = recorded[:, column]
    # Along contiguous rows, and wrapping modulo 65536 by themselves.
    sums = np.add.reduce(signals.view(np.uint16), axis=1, dtype=np.uint16).tolist()
    notes: tuple[str, ...] = ()
    for column, total in zip(layout.order, sums, strict=True):
        if total != header.checksums[column]:
            if any(header.checksums):
                raise RejectError("checksum", f"lead {header.names[column]}")
            notes = ("unchecked",)  # 0 in every line: whoever wrote the header did not fill them in
    if layout.is_complete:
        samples = signals[:NUM_LEADS]
    else:
        samples = np.full((NUM_LEADS, header.num_samples), NO_SAMPLE, np.int16)
        samples[layout.present] = signals[: np.count_nonzero(layout.present)]
    of_record = header.rate_hz, header.subject
    return Recording(
        samples,
        layout.gain,
        layout.baseline,
        layout.present,
        *of_record,
        fast=True,
        notes=notes,
        columns=layout.columns,
    )


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
    """Raises RejectError where the twelve leads cannot be identified, or their gains or baselines cannot be used.

    A gain of 0 never comes here: WFDB defines it as 200 per millivolt.
    """
    try:
        columns = canonical_columns(names)
    except ValueError as error:
        raise RejectError("duplicate_lead", str(error)) from None
    if all(column is None for column in columns):
        raise RejectError("no_leads", f"signals are {', '.join(names)}")
    gain = np.array([1.0 if column is None else gains[column] for column in columns])
    if not ((gain >= MIN_GAIN) & (gain <= MAX_GAIN)).all():
        raise RejectError("gain", f"gains per mV are {', '.join(f'{value:g}' for value in gain)}")
    baseline = np.array([0 if column is None else baselines[column] for column in columns])
    if abs(baseline).max() > _MAX_BASELINE:
        raise RejectError("baseline", f"baselines are {', '.join(map(str, baseline.tolist()))}")
    present = np.array([column is not None for column in columns])
    arrays = (gain, baseline.astype(np.int32), present)
    for array in arrays:
        array.flags.writeable = False
    leads = [column for column in columns if column is not None]
    others = [column for column in range(len(names)) if column not in leads]
    return _Layout(tuple(columns), leads + others, len(leads) == NUM_LEADS, *arrays)
