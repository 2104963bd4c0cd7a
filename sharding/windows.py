"""Recordings of any length as rows of one length: windows of the longer ones, the shorter ones ended by "no sample"."""

from dataclasses import replace

import numpy as np

from lamae.sharding.format import NO_SAMPLE, WINDOW_MARK
from lamae.sharding.reading import RejectError
from lamae.sharding.recording import Recording
from lamae.sharding.tar import MAX_NAME

WINDOW_START = "window_start_s"
"""Column of the index (as extra/NAME): where a row begins in its record, seconds."""


def window_starts(length: int, window: int, *, kind: str, overlap: float) -> list[int]:
    """Where windows of ``window`` samples begin in a record of ``length`` samples.

    ``all`` tiles the record, neighbours sharing ``overlap`` of a window; what is left at the end is a window of its own
    where it is at least half a window.
    """
    excess = length - window
    if excess <= 0 or kind == "first":
        return [0]
    if kind == "centre":
        return [excess // 2]
    step = max(1, round(window * (1 - overlap)))
    num_whole = 1 + excess // step
    rest = num_whole * step
    is_enough = (num_whole - 1) * step < excess and 2 * (length - rest) >= window
    return [step * n for n in range(num_whole + is_enough)]


def cut(recording: Recording, start: int, *, num_samples: int) -> Recording:
    """``num_samples`` from sample ``start`` on; past the recording's end there is no sample."""
    if start == 0 and recording.samples.shape[1] == num_samples:
        return recording
    kept = recording.samples[:, start : start + num_samples]
    samples = np.full((len(kept), num_samples), NO_SAMPLE, np.int16)
    samples[:, : kept.shape[1]] = kept
    return replace(recording, samples=samples)


def mark_padding(recording: Recording, *, min_samples: int) -> tuple[int, int]:
    """Turn a stretch at either end in which all leads lie at 0 mV, or have no sample, into "no sample"; returns where
    the rest begins and ends.

    Archives of fixed length are filled up so (CODE-15 %, on both sides). A lead that is silent while others are not,
    anything shorter than ``min_samples``, and a record that is silent throughout are left as they are.
    """
    length, silent = recording.samples.shape[1], recording.baseline[recording.present, None]

    def sounds(samples: np.ndarray) -> np.ndarray:
        there = samples[recording.present]
        return np.asarray(((there != silent) & (there != NO_SAMPLE)).any(axis=0))

    if min_samples == 0 or sounds(recording.samples[:, [0, -1]]).all():
        return 0, length
    sounding = np.flatnonzero(sounds(recording.samples))
    if not len(sounding):
        return 0, length
    begin, end = int(sounding[0]), int(sounding[-1]) + 1
    begin, end = begin if begin >= min_samples else 0, end if length - end >= min_samples else length
    recording.samples[recording.present, :begin] = NO_SAMPLE
    recording.samples[recording.present, end:] = NO_SAMPLE
    return begin, end


def window_key(key: str, number: int, of: int) -> str:
    """The key of one of a record's ``of`` windows: its number has as many digits as the last one's, four at least, so
    that keys sort as windows do. Raises RejectError where a tar cannot name it.
    """
    found = f"{key}{WINDOW_MARK}{number:0{max(4, len(str(of - 1)))}d}"
    if len(f"{found}.json") > MAX_NAME:
        raise RejectError("long_name", f"{of} windows, and no window may have more than {MAX_NAME} characters in a tar")
    return found
