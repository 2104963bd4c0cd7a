"""What can be measured on a record's twelve leads, cheaply: packing has a fifth of a millisecond for all of it.

Each quantity is computed when a rule first asks for it. Sums of whole numbers are exact in float64 in any order, so
the statistics that go into the index do not depend on the machine.
"""

from functools import cached_property, lru_cache

import numpy as np

from sharding.format import NO_SAMPLE
from sharding.leads import LEADS, LIMB_FROM_I_II, NUM_LEADS
from sharding.recording import Recording

_AVL, _AVF = LEADS.index("aVL"), LEADS.index("aVF")
_EXCHANGED = [*range(_AVL), _AVF, _AVL]
_LIMB_RESIDUES = np.hstack([-LIMB_FROM_I_II[2:], np.eye(4)])  # zero on limb leads that agree
_LIMB_STEP = 8  # the limb relations are looked at every so many samples
_MAINS_HZ = (50.0, 60.0)


class Measures:
    """Measures of one recording; arrays have one entry per canonical lead."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        samples = recording.samples
        self.num_samples = samples.shape[1]
        self.min_adc, self.max_adc = samples.min(axis=1), samples.max(axis=1)  # int16, over valid samples; 0 if none
        self.num_missing = np.zeros(NUM_LEADS, np.int64)
        self._values = samples.astype(np.float64)  # ADC units, gaps filled with the lead's mean
        gaps: dict[int, np.ndarray] = {}
        if NO_SAMPLE in self.min_adc:
            gaps = {int(lead): samples[lead] == NO_SAMPLE for lead in np.flatnonzero(self.min_adc == NO_SAMPLE)}
        for lead, gap in gaps.items():
            valid = samples[lead][~gap]
            self.num_missing[lead] = self.num_samples - valid.size
            self.min_adc[lead], self.max_adc[lead] = (valid.min(), valid.max()) if valid.size else (0, 0)
            self._values[lead][gap] = 0.0
        count = np.maximum(self.num_samples - self.num_missing, 1)
        mean = self._values @ np.ones(self.num_samples) / count
        std = np.sqrt(np.maximum(np.vecdot(self._values, self._values) / count - mean**2, 0.0))
        for lead, gap in gaps.items():
            self._values[lead][gap] = mean[lead]
        self.has_samples = recording.present & (self.num_missing < self.num_samples)
        self._offset = recording.baseline.astype(np.float64)
        self.mean_mv = np.where(self.has_samples, (mean - self._offset) / recording.gain, 0.0)
        self.std_mv = np.where(self.has_samples, std / recording.gain, 0.0)

    @cached_property
    def reach_mv(self) -> np.ndarray:
        """Largest distance of a valid sample from 0 mV, millivolt."""
        return np.maximum(self.max_adc - self._offset, self._offset - self.min_adc) / self.recording.gain

    @cached_property
    def range_mv(self) -> np.ndarray:
        """Peak to peak of the valid samples, millivolt."""
        return (self.max_adc.astype(np.int64) - self.min_adc) / self.recording.gain

    @cached_property
    def _still(self) -> np.ndarray:
        """bool [12, W], whether samples 8w .. 8w + 8 are all equal: eight comparisons read as one 64-bit word."""
        samples = self.recording.samples
        num_words = (self.num_samples - 1) // 8
        same = np.empty((NUM_LEADS, 8 * num_words), bool)
        np.equal(samples[:, 1 : 1 + 8 * num_words], samples[:, : 8 * num_words], out=same)
        return same.view(np.uint64) == np.uint64(0x0101010101010101)

    @cached_property
    def _num_still(self) -> np.ndarray:
        """Samples that stand still, by whole words."""
        return 8 * np.array([np.count_nonzero(lead) for lead in self._still])  # faster than a sum along an axis

    def still_longer_than(self, seconds: float) -> np.ndarray:
        """bool [12], leads with a run of one value, gaps aside, that is longer than ``seconds``."""
        found = np.zeros(NUM_LEADS, bool)
        num_samples = seconds * self.recording.rate_hz
        if self._num_still.max() < num_samples - 16:  # up to 14 samples of a run lie outside its words
            return found
        # Such a run holds five words at this distance from each other; the few leads that do are looked at exactly.
        stride = max(1, (int(num_samples) - 16) // 8 // 5)
        probes = self._still[:, ::stride]
        in_a_row = probes[:, 4:] & probes[:, 3:-1] & probes[:, 2:-2] & probes[:, 1:-3] & probes[:, :-4]
        for lead in np.flatnonzero(in_a_row.any(axis=1)):
            samples = self.recording.samples[lead]
            ends = np.append(np.flatnonzero(np.diff(samples)), self.num_samples - 1)
            runs = np.diff(ends, prepend=-1)
            runs[samples[ends] == NO_SAMPLE] = 0
            found[lead] = runs.max() > num_samples
        return found

    def at_end_more_than(self, share: float) -> np.ndarray:
        """bool [12], leads that move, but stand still at their own largest or smallest value in more than a share."""
        max_samples = share * (self.num_samples - self.num_missing)
        if (self._num_still <= max_samples).all():
            return np.zeros(NUM_LEADS, bool)
        first = self.recording.samples[:, : 8 * self._still.shape[1] : 8]
        at_end = self._still & ((first == self.min_adc[:, None]) | (first == self.max_adc[:, None]))
        return (self.max_adc > self.min_adc) & (8 * at_end.sum(axis=1) > max_samples)

    def beyond_longer_than(self, millivolt: float, seconds: float) -> np.ndarray:
        """bool [12], leads that lie farther from 0 mV than ``millivolt`` for longer than ``seconds`` in all."""
        found = np.zeros(NUM_LEADS, bool)
        for lead in np.flatnonzero(self.has_samples & (self.reach_mv > millivolt)):
            samples = self.recording.samples[lead]
            distance_mv = np.abs(samples - self._offset[lead]) / self.recording.gain[lead]
            beyond = (distance_mv > millivolt) & (samples != NO_SAMPLE)
            found[lead] = np.count_nonzero(beyond) > seconds * self.recording.rate_hz
        return found

    @cached_property
    def _seconds(self) -> np.ndarray:
        """float64 [12, S, 1 + 2F]: of every whole second, the mean and the cosine and sine at each mains frequency.

        One matrix product; ADC units. A second is short enough for mains that is off by a few tenths of a hertz.
        """
        per_second = max(1, round(self.recording.rate_hz))
        weights = _mean_and_sines(per_second)
        num_seconds = self.num_samples // per_second
        seconds = self._values[:, : num_seconds * per_second].reshape(NUM_LEADS * num_seconds, per_second)
        return (seconds @ weights).reshape(NUM_LEADS, num_seconds, weights.shape[1])

    @cached_property
    def wander_mv(self) -> np.ndarray:
        """Range of the lead's means over whole seconds, millivolt; 0 in records shorter than a second."""
        means = self._seconds[:, :, 0]
        return (means.max(axis=1) - means.min(axis=1)) / self.recording.gain if means.size else np.zeros(NUM_LEADS)

    def hum_above(self, millivolt: float) -> np.ndarray:
        """bool [12], leads whose larger mains sine has a median over whole seconds above ``millivolt``."""
        squares = np.square(self._seconds[:, :, 1:])
        limit = np.square(millivolt * self.recording.gain)[:, None, None]
        loud = squares[:, :, ::2] + squares[:, :, 1::2] > limit  # [12, S, F]
        if not loud.any():
            return np.zeros(NUM_LEADS, bool)
        return (2 * loud.sum(axis=1) > loud.shape[1]).any(axis=1)

    def limb_agree(self, tolerance_uv: float, max_share: float, *, exchange_avl_avf: bool = False) -> bool:
        """Whether III, aVR, aVL, aVF are what I and II make of them, but for a share of instants.

        True where I or II is missing; a missing one of the four is not looked at.
        """
        if not self.has_samples[:2].all():
            return True
        order = _EXCHANGED if exchange_avl_avf else slice(6)
        # III - (II - I) and so on in one product: [4, 6] weights on ADC units, and what the baselines make of them.
        weights = _LIMB_RESIDUES / self.recording.gain[order]
        residues_mv = weights @ self._values[order, ::_LIMB_STEP]
        residues_mv -= (weights @ self._offset[order])[:, None]
        wrong = np.abs(residues_mv) > tolerance_uv * 1e-3
        if not wrong.any():
            return True
        there = self.recording.samples[order, ::_LIMB_STEP] != NO_SAMPLE
        there = there[2:] & there[:2].all(axis=0)
        return bool(((wrong & there).sum(axis=1) <= max_share * there.sum(axis=1)).all())


@lru_cache(maxsize=8)
def _mean_and_sines(per_second: int) -> np.ndarray:
    """float64 [per_second, 1 + 2F]: weights of a second's mean, and of cosine and sine at each mains frequency."""
    phase = 2 * np.pi * np.arange(per_second) / per_second
    columns = [np.full(per_second, 1 / per_second)]
    for mains_hz in _MAINS_HZ:
        if mains_hz < per_second / 2:
            columns += [np.cos(mains_hz * phase) * 2 / per_second, np.sin(mains_hz * phase) * 2 / per_second]
    return np.stack(columns, axis=1)
