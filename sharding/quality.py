"""Quality control: what each lead and record looks like, and what a rule makes of it.

Every rule has a threshold in physical units and an action:

    ignore   not looked at
    flag     a bit in the index (lead_flags or record_flags), nothing else
    mask     the bit, and the lead counts as not present (lead rules only)
    reject   the record is left out of the shard set

By default only empty records are rejected and only leads without signal are masked. Amplitude is information: paced
rhythms and hypertrophy are large, so the amplitude rules flag.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np

from lamae.base.leads import LEADS
from lamae.base.validate import at_least, one_of
from lamae.sharding.measures import Measures
from lamae.sharding.reading import RejectError

ACTIONS = ("ignore", "flag", "mask", "reject")
RECORD_ACTIONS = ("ignore", "flag", "reject")
# Bit numbers are part of the shard format: append, never reorder.
LEAD_FLAGS: tuple[str, ...] = (
    "missing",  # the record does not have the lead
    "gaps",
    "zero",
    "flat",
    "flat_run",
    "saturated",
    "amplitude",
    "wander",
    "hum",
)
RECORD_FLAGS: tuple[str, ...] = (
    "limb_inconsistent",
    "avl_avf_exchanged",
    "duplicate",
    "gain_normalised",
    "gain_implausible",
)
_LEAD_BIT = {name: np.uint16(1 << bit) for bit, name in enumerate(LEAD_FLAGS)}
_RECORD_BIT = {name: np.uint16(1 << bit) for bit, name in enumerate(RECORD_FLAGS)}


@dataclass
class QualityConfig:
    """Actions and thresholds of every rule."""

    gaps: str = "mask"
    """Too many samples of a lead are missing; shorter gaps stay in the samples as "no sample"."""
    gaps_max_share: float = 0.5
    """Largest share of a lead's samples that may be missing."""
    zero: str = "mask"
    """Every sample of a lead is 0 mV."""
    flat: str = "mask"
    """A lead does not move: an electrode was off from beginning to end."""
    flat_max_range_uv: float = 20.0
    """Peak to peak at or below which a whole lead counts as flat, microvolt: a fifth of the smallest P wave."""
    flat_run: str = "flag"
    """A lead stands still for a while: an electrode came off or an amplifier was blocked."""
    flat_run_max_s: float = 1.0
    """Longest stretch of one and the same value, second: noise moves a living lead, even between beats."""
    saturated: str = "flag"
    """A lead stands at the end of its range: many samples are its very largest or smallest."""
    saturated_max_share: float = 0.02
    """Largest share of samples that may be equal to the lead's largest or smallest."""
    amplitude: str = "flag"
    """A lead lies farther from 0 mV than any heart takes it, and for longer than a spike."""
    amplitude_max_mv: float = 10.0
    """Largest plausible distance from 0 mV, millivolt: about twice the largest QRS complexes."""
    amplitude_max_s: float = 0.1
    """How long a lead may lie beyond it in all, second: a QRS complex or a pacing spike."""
    wander: str = "flag"
    """The baseline moves so far that the lead leaves its place on paper."""
    wander_max_mv: float = 2.0
    """Largest range of the lead's means over whole seconds, millivolt: the 2 cm between two leads on paper."""
    hum: str = "flag"
    """Mains hum at 50 or 60 Hz."""
    hum_max_mv: float = 0.1
    """Largest amplitude of the sine in half of all seconds, millivolt: 1 mm on paper."""
    limb_inconsistent: str = "flag"
    """The six limb leads contradict Einthoven's and Goldberger's relations."""
    avl_avf_exchanged: str = "flag"
    """The limb leads agree once aVL and aVF change names: the header has them the wrong way round."""
    gain_normalised: str = "flag"
    """The limb leads contradict each other in millivolt and agree in stored integers: gains that differ by lead bring
    each to one height (LUDB), so its millivolts are none; ``gain`` gives the right one."""
    gain_implausible: str = "flag"
    """By the header's gain, one for all leads, a unit is below 10 nV, which no recorder resolves (Challenge 2020's PTB
    has 2000000/mV where 2000 is meant); leads then do not count as flat, and ``gain`` gives the right one."""
    limb_tolerance_uv: float = 30.0
    """Largest contradiction taken for rounding, microvolt; real archives show 15."""
    limb_max_share: float = 0.05
    """Largest share of instants that may contradict: short artefacts are no swapped electrode."""

    def check(self) -> None:
        """Raises ValueError naming the field and what it may be."""
        for entry in fields(self):
            if entry.type is float:
                at_least(self, "quality", **{entry.name: 0})
            else:
                one_of(self, "quality", **{entry.name: ACTIONS if entry.name in LEAD_FLAGS else RECORD_ACTIONS})


# Rules on leads: bool [N, 12] of the leads that break them.
_LEAD_RULES: dict[str, Callable[[Measures, QualityConfig], np.ndarray]] = {
    "gaps": lambda m, c: m.missing_more_than(c.gaps_max_share, num_samples=m.num_samples),
    "zero": lambda m, c: m.has_samples & (m.reach_mv == 0),
    "flat": lambda m, c: m.has_samples & (m.range_mv <= c.flat_max_range_uv / 1000) & ~m.moves_only_in_units[:, None],
    "flat_run": lambda m, c: m.still_longer_than(c.flat_run_max_s),
    "saturated": lambda m, c: m.at_end_more_than(c.saturated_max_share),
    "amplitude": lambda m, c: m.beyond_longer_than(c.amplitude_max_mv, c.amplitude_max_s),
    "wander": lambda m, c: m.wander_mv > c.wander_max_mv,
    "hum": lambda m, c: m.hum_above(c.hum_max_mv),
}


@dataclass(frozen=True)
class Assessment:
    """What quality control found in N records."""

    usable: np.ndarray  # bool [N, 12], present and not masked by a rule
    lead_flags: np.ndarray  # uint16 [N, 12], bits of LEAD_FLAGS
    record_flags: np.ndarray  # uint16 [N], bits of RECORD_FLAGS
    rejects: dict[int, RejectError]  # by position, the records to be left out


def assess(measures: Measures, config: QualityConfig, *, stored: Measures | None = None) -> Assessment:
    """Apply every rule to each record. A record that several rules reject has the first one's reason.

    ``stored``: of what is kept of the records, in which resampling has made gaps larger; what fills it up to the length
    of a row is not looked at.
    """
    stored = stored or measures
    present = measures.present
    lead_flags = np.where(present, np.uint16(0), _LEAD_BIT["missing"])
    usable = measures.has_samples & stored.has_samples
    num_kept = min(stored.num_samples, int(measures.num_samples * stored.rate_hz / measures.rate_hz))
    rejects: dict[int, RejectError] = {}
    for name, breaks_rule in _LEAD_RULES.items():
        action = getattr(config, name)
        if action == "ignore":
            continue
        broken = breaks_rule(measures, config) & present
        if name == "gaps":
            has_gaps = present & (measures.num_missing > 0)  # else all that is missing is what fills the row
            broken |= stored.missing_more_than(config.gaps_max_share, num_samples=num_kept) & has_gaps
        if not broken.any():
            continue
        lead_flags[broken] |= _LEAD_BIT[name]
        if action == "mask":
            usable &= ~broken
        if action == "reject":
            for n in np.flatnonzero(broken.any(axis=1)).tolist():
                leads = " ".join(LEADS[lead] for lead in np.flatnonzero(broken[n]))
                rejects.setdefault(n, _reject(name, leads))
    for n in np.flatnonzero(~usable.any(axis=1)).tolist():
        rejects.setdefault(n, RejectError("no_usable_lead", "every lead is missing, empty or masked"))
    return Assessment(usable, lead_flags, _record_flags(measures, config, rejects), rejects)


def _reject(rule: str, detail: str) -> RejectError:
    return RejectError(f"quality_{rule}", f"{detail}; quality.{rule}=flag takes such records")


def _record_flags(measures: Measures, config: QualityConfig, rejects: dict[int, RejectError]) -> np.ndarray:
    """uint16 [N], bits of RECORD_FLAGS; adds to ``rejects`` where a rule says so."""
    flags = np.zeros(len(measures.present), np.uint16)
    found = {"gain_implausible": (measures.moves_only_in_units, "the gain makes nothing of what was recorded")}
    limits = (config.limb_tolerance_uv, config.limb_max_share)
    contradict = ~measures.limb_agree(*limits)
    # What explains a contradiction, first come first served; what nothing explains is the last one's.
    for name, explanation in (
        ("gain_normalised", {"as_stored": True}),
        ("avl_avf_exchanged", {"exchange_avl_avf": True}),
        ("limb_inconsistent", {}),
    ):
        if getattr(config, name) == "ignore" or not contradict.any():
            continue
        explained = contradict & measures.limb_agree(*limits, **explanation) if explanation else contradict
        if name == "gain_normalised":
            explained = explained & measures.gains_differ
        found[name] = (explained, "the limb leads contradict each other")
        contradict = contradict & ~explained
    for name, (records, why) in found.items():
        action = getattr(config, name)
        if action != "ignore":
            flags[records] |= _RECORD_BIT[name]
        if action == "reject":
            for n in np.flatnonzero(records).tolist():
                rejects.setdefault(n, _reject(name, why))
    return flags
