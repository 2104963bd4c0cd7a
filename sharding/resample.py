"""Changing a record's sampling rate, for shard sets that are smaller than what was recorded.

Polyphase filtering with the filter of ``lowpass``, which the loader uses too. The result is rounded to whole ADC
units. Samples that a gap reaches through the filter become gaps.
"""

from dataclasses import replace
from fractions import Fraction

import numpy as np

from lamae.sharding.format import NO_SAMPLE
from lamae.sharding.lowpass import low_pass
from lamae.sharding.reading import RejectError
from lamae.sharding.recording import Recording

_MAX_TERM = 500  # of the fraction that the two rates make


def resample(recording: Recording, rate_hz: float) -> Recording:
    """The recording at ``rate_hz``. Raises RejectError where the two rates make no simple fraction."""
    up, down = _ratio(recording.rate_hz, rate_hz)
    missing = recording.samples == NO_SAMPLE
    values = recording.samples.astype(np.float64)
    for lead in np.flatnonzero(missing.any(axis=1) & ~missing.all(axis=1)):
        gap = missing[lead]
        values[lead, gap] = np.interp(np.flatnonzero(gap), np.flatnonzero(~gap), values[lead, ~gap])
    from scipy.signal import resample_poly  # takes most of a second, and few sets need it

    taps = low_pass(up, down)
    # Beyond its ends a lead goes on at its first and last value: zeros would ring wherever there is an offset.
    filtered = np.asarray(resample_poly(values, up, down, axis=1, window=taps, padtype="edge"))
    samples = np.clip(np.rint(filtered), NO_SAMPLE + 1, 32767).astype(np.int16)
    if missing.any():
        samples[_dilated(missing, up, down, num_taps=len(taps), num_out=samples.shape[1])] = NO_SAMPLE
    return replace(recording, samples=samples, rate_hz=rate_hz)


def resampled_length(num_samples: int, from_hz: float, to_hz: float) -> int:
    """How many samples ``num_samples`` at ``from_hz`` become. Raises RejectError as ``resample``."""
    up, down = _ratio(from_hz, to_hz)
    return -(-num_samples * up // down)


def _ratio(from_hz: float, to_hz: float) -> tuple[int, int]:
    """By how much to multiply and to divide a rate. Raises RejectError where the two make no simple fraction."""
    ratio = Fraction(to_hz / from_hz).limit_denominator(_MAX_TERM)
    up, down = ratio.numerator, ratio.denominator
    if not 0 < up <= _MAX_TERM or abs(up / down * from_hz - to_hz) > 1e-6 * to_hz:
        raise RejectError("wrong_rate", f"{from_hz:g} Hz cannot be resampled to {to_hz:g}; choose another --rate")
    return up, down


def _dilated(missing: np.ndarray, up: int, down: int, *, num_taps: int, num_out: int) -> np.ndarray:
    """bool [12, num_out], output samples whose filter support holds a missing input sample."""
    reach = num_taps // 2
    center = np.arange(num_out) * down  # at up times the input rate, where input sample i lies at i * up
    first = np.maximum(-((reach - center) // up), 0)  # ceil((center - reach) / up)
    last = np.minimum((center + reach) // up, missing.shape[1] - 1)
    count = np.pad(np.cumsum(missing, axis=1), ((0, 0), (1, 0)))
    return count[:, last + 1] > count[:, first]
