"""What can be measured on the twelve leads of a few records at once, cheaply.

A record has 60,000 samples, which numpy passes over in microseconds; what would cost is the number of calls. So each
record's samples are passed over a fixed few times, and everything after that is done for the whole block.

Sums of whole numbers are exact in float64 in any order, so neither the statistics that go into the index nor what the
rules see depends on the machine.
"""

from collections.abc import Sequence
from functools import cached_property, lru_cache

import numpy as np

from lamae.base.leads import LEADS, LIMB_FROM_I_II, NUM_LEADS
from lamae.sharding.format import NO_SAMPLE
from lamae.sharding.recording import Recording

_AVL, _AVF = LEADS.index("aVL"), LEADS.index("aVF")
_EXCHANGED = [*range(_AVL), _AVF, _AVL]
_LIMB_RESIDUES = np.hstack([-LIMB_FROM_I_II[2:], np.eye(4)])  # zero on limb leads that agree
_STEP = 8  # an instant is every so many samples; a lead stands still over a step where all its samples are equal
_MAINS_HZ = (50.0, 60.0)
_ROUNDING_UNITS = 2.0  # of halves and sums of whole numbers
# A header whose gain makes a microvolt of more than a hundred units is wrong: no recorder resolves 10 nV.
_MAX_GAIN, _MOVING_UNITS = 1e5, 100


class Measures:
    """Measures of N recordings of one length and sampling rate; arrays are [N, 12], leads in canonical order.

    ``out``, float64 [12, T], is written over where it fits: fresh memory costs as much as what is done in it.
    """

    def __init__(self, recordings: Sequence[Recording], *, out: np.ndarray | None = None) -> None:
        N, self.num_samples = len(recordings), recordings[0].samples.shape[1]
        self.rate_hz = recordings[0].rate_hz
        self._samples = [recording.samples for recording in recordings]
        self.gain = np.stack([recording.gain for recording in recordings])
        self.present = np.stack([recording.present for recording in recordings])
        self._offset = np.stack([recording.baseline for recording in recordings]).astype(np.float64)
        # int16, over valid samples; 0 where there is none
        self.min_adc, self.max_adc = np.empty((N, NUM_LEADS), np.int16), np.empty((N, NUM_LEADS), np.int16)
        self.num_missing = np.zeros((N, NUM_LEADS), np.int64)
        self._instants = np.empty((N, NUM_LEADS, -(-self.num_samples // _STEP)), np.int16)
        self._per_second = max(1, round(self.rate_hz))
        self._num_seconds = self.num_samples // self._per_second
        num_weights = len(_ones_and_sines(self._per_second))
        # Of every whole second, the sum and the products with sine and cosine at each mains frequency, ADC units.
        self._seconds = np.empty((N, num_weights, NUM_LEADS, self._num_seconds))
        self._sums, self._squares = np.empty((N, NUM_LEADS)), np.empty((N, NUM_LEADS))
        if out is None or out.shape != (NUM_LEADS, self.num_samples):
            out = np.empty((NUM_LEADS, self.num_samples))
        for n in range(N):
            self._pass_over(n, out)
        self.has_samples = self.present & (self.num_missing < self.num_samples)
        count = np.maximum(self.num_samples - self.num_missing, 1)
        mean = self._sums / count
        std = np.sqrt(np.maximum(self._squares / count - mean**2, 0.0))
        self.mean_mv = np.where(self.has_samples, (mean - self._offset) / self.gain, 0.0)
        self.std_mv = np.where(self.has_samples, std / self.gain, 0.0)

    def _pass_over(self, n: int, values: np.ndarray) -> None:
        """Fill row ``n`` of everything that needs every sample; ``values`` holds float64 [12, T]."""
        samples = self._samples[n]
        np.minimum.reduce(samples, axis=1, out=self.min_adc[n])
        np.maximum.reduce(samples, axis=1, out=self.max_adc[n])
        self._instants[n] = samples[:, ::_STEP]
        np.copyto(values, samples)
        gaps: dict[int, np.ndarray] = {}
        if NO_SAMPLE in self.min_adc[n]:
            gaps = {int(lead): samples[lead] == NO_SAMPLE for lead in np.flatnonzero(self.min_adc[n] == NO_SAMPLE)}
        for lead, gap in gaps.items():
            valid = samples[lead][~gap]
            self.num_missing[n, lead] = self.num_samples - valid.size
            self.min_adc[n, lead], self.max_adc[n, lead] = (valid.min(), valid.max()) if valid.size else (0, 0)
            values[lead][gap] = 0.0
        np.vecdot(values, values, out=self._squares[n])
        self._weigh_seconds(n, values)
        np.add.reduce(self._seconds[n, 0], axis=1, out=self._sums[n])
        in_seconds = self._num_seconds * self._per_second
        if in_seconds < self.num_samples:
            self._sums[n] += values[:, in_seconds:].sum(axis=1)
        if gaps:  # the rules on seconds see the lead's mean in its gaps
            for lead, gap in gaps.items():
                values[lead][gap] = np.rint(self._sums[n, lead] / max(1, np.count_nonzero(~gap)))
            self._weigh_seconds(n, values)

    def _weigh_seconds(self, n: int, values: np.ndarray) -> None:
        seconds = values[:, : self._num_seconds * self._per_second].reshape(-1, self._per_second)
        weights = _ones_and_sines(self._per_second)
        np.matmul(weights, seconds.T, out=self._seconds[n].reshape(len(weights), -1))

    @cached_property
    def reach_mv(self) -> np.ndarray:
        """Largest distance of a valid sample from 0 mV, millivolt."""
        return np.maximum(self.max_adc - self._offset, self._offset - self.min_adc) / self.gain

    @cached_property
    def range_mv(self) -> np.ndarray:
        """Peak to peak of the valid samples, millivolt."""
        return (self.max_adc.astype(np.int64) - self.min_adc) / self.gain

    def still_longer_than(self, seconds: float) -> np.ndarray:
        """Whether a lead has a run of one value, gaps aside, that is longer than ``seconds``."""
        num_samples = seconds * self.rate_hz
        # Such a run holds so many instants at this distance; the few leads that have them equal are looked at exactly.
        stride = max(1, int(num_samples) // (6 * _STEP))
        held = min(6, int(num_samples) // (stride * _STEP))
        found = self.has_samples.copy()
        if held > 1:
            probes = self._instants[:, :, ::stride]
            equal = probes[:, :, 1:] == probes[:, :, :-1]
            pairs = max(0, equal.shape[2] - (held - 2))  # places where held - 1 pairs in a row may begin
            in_a_row = equal[:, :, :pairs].copy()
            for later in range(1, held - 1):
                in_a_row &= equal[:, :, later : later + pairs]
            found &= in_a_row.any(axis=2)
        for n, lead in np.argwhere(found):
            found[n, lead] = _longest_run(self._samples[n][lead]) > num_samples
        return found

    def missing_more_than(self, share: float, *, num_samples: int) -> np.ndarray:
        """Whether more than ``share`` of a lead's ``num_samples`` are missing, or all; any others are missing too and
        do not count.
        """
        num_missing = self.num_missing - (self.num_samples - num_samples)
        return (num_missing > share * num_samples) | ~self.has_samples

    def at_end_more_than(self, share: float) -> np.ndarray:
        """bool [N, 12]: the lead rests at its largest or smallest value in more than ``share`` of its samples, and
        moves in between: saturated."""
        max_samples = share * (self.num_samples - self.num_missing)
        first = self._instants[:, :, : (self.num_samples - 1) // _STEP]
        at_end = (first == self.min_adc[:, :, None]) | (first == self.max_adc[:, :, None])
        count = np.bitwise_count(np.packbits(at_end, axis=2)).sum(axis=2, dtype=np.uint16)  # faster than of booleans
        found = self.has_samples & (self.max_adc > self.min_adc) & (_STEP * count > max_samples)
        for n, lead in np.argwhere(found):
            still = _still(self._samples[n][lead]) & at_end[n, lead]
            found[n, lead] = _STEP * np.count_nonzero(still) > max_samples[n, lead]
        return found

    def beyond_longer_than(self, millivolt: float, seconds: float) -> np.ndarray:
        """Whether a lead lies farther from 0 mV than ``millivolt`` for longer than ``seconds`` in all."""
        found = self.has_samples & (self.reach_mv > millivolt)
        for n, lead in np.argwhere(found):
            samples = self._samples[n][lead]
            distance_mv = np.abs(samples - self._offset[n, lead]) / self.gain[n, lead]
            beyond = (distance_mv > millivolt) & (samples != NO_SAMPLE)
            found[n, lead] = np.count_nonzero(beyond) > seconds * self.rate_hz
        return found

    @cached_property
    def wander_mv(self) -> np.ndarray:
        """Range of the lead's means over whole seconds, millivolt; 0 in records shorter than a second."""
        sums = self._seconds[:, 0]
        if not sums.size:
            return np.zeros(self.gain.shape)
        return (sums.max(axis=2) - sums.min(axis=2)) / self._per_second / self.gain

    def hum_above(self, millivolt: float) -> np.ndarray:
        """Whether the larger mains sine of a lead has a median over whole seconds above ``millivolt``.

        A second is short enough for mains that is off by a few tenths of a hertz.
        """
        squares = np.square(self._seconds[:, 1:])
        limit = np.square(millivolt * self.gain * self._per_second / 2)[:, None, :, None]
        loud = squares[:, ::2] + squares[:, 1::2] > limit  # [N, F, 12, S]
        if not loud.any():
            return np.zeros(self.gain.shape, bool)
        return (2 * np.count_nonzero(loud, axis=3) > self._num_seconds).any(axis=1)

    @property
    def moves_only_in_units(self) -> np.ndarray:
        """bool [N]: the stored integers move, but by the header's gain a unit is less than any recorder resolves.

        Only where all leads have one gain: gains that differ are those of an export that scales each lead to the whole
        range of 16 bits (wfdb.wrsamp), and say truly how little a lead moves.
        """
        units = np.where(self.has_samples, self.max_adc.astype(np.int64) - self.min_adc, 0)
        is_tiny = np.where(self.has_samples, self.gain, np.inf).min(axis=1) > _MAX_GAIN
        return (units.max(axis=1) >= _MOVING_UNITS) & is_tiny & ~self.gains_differ

    @property
    def gains_differ(self) -> np.ndarray:
        """bool [N]: not all leads with samples have one gain."""
        smallest = np.where(self.has_samples, self.gain, np.inf).min(axis=1)
        return smallest < np.where(self.has_samples, self.gain, 0.0).max(axis=1)

    def limb_agree(
        self, tolerance_uv: float, max_share: float, *, exchange_avl_avf: bool = False, as_stored: bool = False
    ) -> np.ndarray:
        """bool [N], whether III, aVR, aVL, aVF are what I and II make of them, but for a share of instants.

        True where I or II is missing; a missing one of the four is not looked at. No unit is so coarse that its
        rounding contradicts. ``as_stored`` looks at the stored integers, to rounding, whatever gains and baselines the
        header gives.
        """
        order = _EXCHANGED if exchange_avl_avf else slice(6)
        gain, offset = self.gain[:, order], self._offset[:, order]
        tolerance = tolerance_uv * self.gain[:, :1] / 1000
        if as_stored:
            gain, offset, tolerance = np.ones_like(gain), np.zeros_like(offset), np.zeros_like(tolerance)
        # III - (II - I) and so on in one product, in lead I's ADC units: exact where all leads have one gain.
        weights = _LIMB_RESIDUES * (gain[:, :1] / gain)[:, None]  # [N, 4, 6]
        limit = np.maximum(tolerance, _ROUNDING_UNITS * np.abs(weights).max(axis=2)).astype(np.float32)  # [N, 4]
        limb = self._instants[:, order]
        residues = weights.astype(np.float32) @ limb.astype(np.float32)
        residues -= (weights @ offset[:, :, None]).astype(np.float32)
        wrong = np.abs(residues, out=residues) > limit[:, :, None]  # [N, 4, instants]
        agree = ~wrong.any(axis=(1, 2)) | ~self.has_samples[:, :2].all(axis=1)
        for n in np.flatnonzero(~agree):
            there = limb[n] != NO_SAMPLE
            there = there[2:] & there[:2].all(axis=0)
            agree[n] = ((wrong[n] & there).sum(axis=1) <= max_share * there.sum(axis=1)).all()
        return agree


def _longest_run(samples: np.ndarray) -> int:
    """The longest run of one value in samples [T], gaps aside."""
    ends = np.append(np.flatnonzero(np.diff(samples)), len(samples) - 1)
    runs = np.diff(ends, prepend=-1)
    runs[samples[ends] == NO_SAMPLE] = 0
    return int(runs.max())


def _still(samples: np.ndarray) -> np.ndarray:
    """bool [W], whether samples 8w .. 8w + 8 of [T] are all equal."""
    num_steps = (len(samples) - 1) // _STEP
    same = samples[1 : 1 + _STEP * num_steps] == samples[: _STEP * num_steps]
    return np.asarray(same.reshape(num_steps, _STEP).all(axis=1))


@lru_cache(maxsize=8)
def _ones_and_sines(per_second: int) -> np.ndarray:
    """float64 [1 + 2F, per_second]: ones, and cosine and sine at each mains frequency, whole multiples of 2**-20.

    A product with a second of int16 samples then needs at most 53 bits, so it is exact.
    """
    phase = 2 * np.pi * np.arange(per_second) / per_second
    rows = [np.ones(per_second)]
    for mains_hz in _MAINS_HZ:
        if mains_hz < per_second / 2:
            rows += [np.cos(mains_hz * phase), np.sin(mains_hz * phase)]
    return np.rint(np.stack(rows) * 2**20) / 2**20
