"""Quality control: what each lead and record looks like, and what a rule makes of it.

Every rule has a threshold in physical units and an action:

    off      not looked at
    flag     a bit in the index (lead_flags or record_flags), nothing else
    mask     the bit, and the lead counts as not present (lead rules only)
    reject   the record is left out of the shard set

By default only empty records are rejected and only leads without signal are masked. Amplitude is information: paced
rhythms and hypertrophy are large, so the amplitude rules flag.
"""

from dataclasses import dataclass, fields

import numpy as np

from sharding.format import NO_SAMPLE
from sharding.leads import LIMB_FROM_I_II, NUM_LEADS
from sharding.recording import Recording, RejectError

ACTIONS = ("off", "flag", "mask", "reject")
# Bit numbers are part of the shard format: append, never reorder.
LEAD_FLAGS: tuple[str, ...] = ("missing", "gaps", "zero", "flat", "saturated", "amplitude", "hum", "wander")
RECORD_FLAGS: tuple[str, ...] = ("limb_inconsistent", "duplicate")
_LEAD_BIT = {name: np.uint16(1 << bit) for bit, name in enumerate(LEAD_FLAGS)}
_RECORD_BIT = {name: 1 << bit for bit, name in enumerate(RECORD_FLAGS)}


@dataclass
class QualityConfig:
    """Thresholds and actions of every rule."""

    gaps: str = "mask"
    """Action where too many samples of a lead are missing. Shorter gaps stay in the samples as "no sample"."""
    gaps_max_share: float = 0.5
    """Largest share of a lead's samples that may be missing."""
    zero: str = "mask"
    """Action where every sample of a lead is 0 mV."""
    flat: str = "mask"
    """Action where a lead does not move."""
    flat_max_range_uv: float = 20.0
    """Peak to peak at or below which a whole lead counts as flat, microvolt."""
    saturated: str = "flag"
    """Action where a lead stands at the end of its range."""
    saturated_max_share: float = 0.01
    """Largest share of samples that may lie at the 16-bit limits."""
    amplitude: str = "flag"
    """Action where a lead is implausibly large."""
    amplitude_max_mv: float = 10.0
    """Largest plausible distance of a sample from 0 mV, millivolt."""
    limb_inconsistent: str = "flag"
    """Action where the six limb leads contradict Einthoven's and Goldberger's relations."""
    limb_tolerance_uv: float = 30.0
    """Largest contradiction taken for rounding, microvolt; real archives show 15."""
    limb_max_share: float = 0.05
    """Largest share of instants that may contradict: short artefacts are no swapped electrode."""

    def check(self) -> None:
        """Raises ValueError naming the field and what it may be."""
        for name in (*LEAD_FLAGS[1:], *RECORD_FLAGS[:1]):
            action = getattr(self, name, "off")
            allowed = ACTIONS if name in LEAD_FLAGS else ("off", "flag", "reject")
            if action not in allowed:
                raise ValueError(f"quality.{name}={action!r} is none of {', '.join(allowed)}")
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, float) and not value >= 0:
                raise ValueError(f"quality.{entry.name}={value} must not be negative")


@dataclass(frozen=True)
class Assessment:
    """What quality control found in one record; arrays have one entry per canonical lead."""

    usable: np.ndarray  # bool [12], present and not masked by a rule
    mean_mv: np.ndarray  # float32 [12], over valid samples; 0 where there are none
    std_mv: np.ndarray  # float32 [12]
    min_adc: np.ndarray  # int16 [12], over valid samples; 0 where there are none
    max_adc: np.ndarray  # int16 [12]
    num_missing: np.ndarray  # int64 [12], samples equal to NO_SAMPLE
    lead_flags: np.ndarray  # uint16 [12], bits of LEAD_FLAGS
    record_flags: int  # bits of RECORD_FLAGS


def assess(recording: Recording, config: QualityConfig) -> Assessment:
    """Apply every rule to a record. Raises RejectError where a rule or an empty record asks for it."""
    samples = recording.samples
    num_samples = samples.shape[1]
    low, high = samples.min(axis=1), samples.max(axis=1)
    num_missing = np.zeros(NUM_LEADS, np.int64)
    total, squares = _sums(samples)
    for lead in np.flatnonzero(low == NO_SAMPLE):
        valid = samples[lead][samples[lead] != NO_SAMPLE]
        num_missing[lead] = num_samples - valid.size
        low[lead], high[lead] = (valid.min(), valid.max()) if valid.size else (0, 0)
        wide = valid.astype(np.float64)
        total[lead], squares[lead] = wide.sum(), wide @ wide
    count = np.maximum(num_samples - num_missing, 1)
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0.0))
    offset = recording.baseline.astype(np.float64)
    has_samples = recording.present & (num_missing < num_samples)

    low_mv, high_mv = (low - offset) / recording.gain, (high - offset) / recording.gain
    found = {
        "gaps": num_missing > config.gaps_max_share * num_samples,
        "zero": (low_mv == 0) & (high_mv == 0),
        "flat": high_mv - low_mv <= 1e-3 * config.flat_max_range_uv,
        "saturated": _saturated(samples, low, high, count, config),
        "amplitude": np.maximum(high_mv, -low_mv) > config.amplitude_max_mv,
    }
    lead_flags = np.where(recording.present, np.uint16(0), _LEAD_BIT["missing"])
    lead_flags[recording.present & ~has_samples] |= _LEAD_BIT["gaps"]
    usable = has_samples.copy()
    for name, leads in found.items():
        action = getattr(config, name)
        leads = leads & has_samples
        if action == "off" or not leads.any():
            continue
        if action == "reject":
            raise RejectError(f"quality_{name}", f"{int(leads.sum())} leads")
        lead_flags[leads] |= _LEAD_BIT[name]
        if action == "mask":
            usable &= ~leads
    if not usable.any():
        raise RejectError("no_usable_lead", "every lead is missing, empty or masked")

    record_flags = 0
    if config.limb_inconsistent != "off" and _limb_inconsistent(recording, has_samples, config):
        if config.limb_inconsistent == "reject":
            raise RejectError("quality_limb_inconsistent", "the limb leads contradict each other")
        record_flags |= _RECORD_BIT["limb_inconsistent"]
    return Assessment(
        usable=usable,
        mean_mv=np.where(has_samples, (mean - offset) / recording.gain, 0.0).astype(np.float32),
        std_mv=np.where(has_samples, std / recording.gain, 0.0).astype(np.float32),
        min_adc=low,
        max_adc=high,
        num_missing=num_missing,
        lead_flags=lead_flags,
        record_flags=record_flags,
    )


def _sums(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum and sum of squares of every lead, float64 [12]; squares in float32 are good to six digits."""
    values = samples.astype(np.float32)
    total = values.sum(axis=1, dtype=np.float64)
    return total, np.einsum("lt,lt->l", values, values).astype(np.float64)


def _saturated(
    samples: np.ndarray, low: np.ndarray, high: np.ndarray, count: np.ndarray, config: QualityConfig
) -> np.ndarray:
    """Leads with too many samples at the 16-bit limits."""
    found = np.zeros(NUM_LEADS, bool)
    for lead in np.flatnonzero((low <= -32767) | (high >= 32767)):
        at_limit = np.count_nonzero((samples[lead] == 32767) | (samples[lead] == -32767))
        found[lead] = at_limit > config.saturated_max_share * count[lead]
    return found


def _limb_inconsistent(recording: Recording, has_samples: np.ndarray, config: QualityConfig) -> bool:
    """Whether III, aVR, aVL, aVF differ from what I and II make of them at too many instants (every fourth is read)."""
    if not has_samples[:2].all():
        return False
    limb = recording.samples[:6, ::4].astype(np.float32)
    valid = (limb[:2] != NO_SAMPLE).all(axis=0)
    limb -= recording.baseline[:6, None].astype(np.float32)
    limb *= (1 / recording.gain[:6, None]).astype(np.float32)
    expected = LIMB_FROM_I_II.astype(np.float32)[2:] @ limb[:2]
    for lead in np.flatnonzero(has_samples[2:6]):
        here = valid & (recording.samples[2 + lead, ::4] != NO_SAMPLE)
        wrong = np.abs(limb[2 + lead] - expected[lead]) > config.limb_tolerance_uv * 1e-3
        if np.count_nonzero(wrong & here) > config.limb_max_share * max(int(here.sum()), 1):
            return True
    return False
