"""Subjects and their records: everything that is drawn, each as a pure function of (seed, subject, number).

subject s             body, heartbeat, resting rate, age, sex, lasting liabilities
stay k of subject s   findings and their severity, discharge codes, dates, where the patient was
record j of subject s which stay it belongs to, electrode placement, beats, noise, defect
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from lamae.sharding.synth.body import Torso, draw_noise, draw_torso, reattach, record_leads
from lamae.sharding.synth.defects import Defect, draw_defect
from lamae.sharding.synth.findings import AGE_MEAN_YEARS, AGE_STD_YEARS, FINDINGS, Stay, draw_stay
from lamae.sharding.synth.heart import Beat, Rhythm, apply_findings, draw_beat, draw_rhythm, render_sources
from lamae.sharding.synth.streams import Stream, random_stream


@dataclass(frozen=True)
class Subject:
    """One patient."""

    female: bool
    demographics_known: bool
    """False in one of 200: gender reads "missing" and age is empty, as in MIMIC-IV-ECG-Ext-ICD."""
    age_years: int
    """At the first stay."""
    anchor_year: int
    first_visit: datetime
    torso: Torso
    beat: Beat
    resting_rate_bpm: float
    liability: np.ndarray


def draw_subject(seed: int, subject: int) -> Subject:
    """Subject number ``subject``, 0-based."""
    rng = random_stream(seed, Stream.SUBJECT, subject)
    female = bool(rng.uniform() < 0.49)
    age = max(18, round(rng.normal(AGE_MEAN_YEARS, AGE_STD_YEARS)))
    age = 91 if age > 89 else age  # as MIMIC-IV conceals it
    anchor_year = int(rng.integers(2110, 2200))
    first_visit = datetime(anchor_year, 1, 1) + timedelta(minutes=int(rng.integers(365 * 24 * 60)))
    return Subject(
        female=female,
        demographics_known=bool(rng.uniform() >= 0.005),
        age_years=age,
        anchor_year=anchor_year,
        first_visit=first_visit,
        torso=draw_torso(rng),
        beat=draw_beat(rng, age_years=age, female=female),
        resting_rate_bpm=float(rng.normal(76 if female else 73, 8.5)),
        liability=rng.standard_normal(len(FINDINGS)),
    )


@dataclass(frozen=True)
class Visit:
    """Where and when a stay took place, beside what was found in it."""

    number: int
    place: str
    """``ed`` (sent home), ``ed_admitted``, ``hosp`` or ``outside`` (no stay, hence no diagnoses)."""
    start: datetime
    stay: Stay


# MIMIC-IV-ECG-Ext-ICD links 58.5 % of its records to a stay; here nearly all are, so that small sets have labels.
_PLACES, _PLACE_SHARES = ("ed", "ed_admitted", "hosp", "outside"), (0.22, 0.25, 0.48, 0.05)


def _draw_visit(seed: int, subject: int, person: Subject, *, number: int, after: datetime) -> Visit:
    """Stay ``number`` of a subject. Returns come sooner each time, so that many of them fit into one life."""
    rng = random_stream(seed, Stream.STAY, subject, number)
    gap_days = 0.0 if number == 0 else 0.5 + rng.exponential(400 / number)
    start = after + timedelta(minutes=round(gap_days * 24 * 60))
    place = str(rng.choice(_PLACES, p=_PLACE_SHARES))
    age = person.age_years + start.year - person.anchor_year
    return Visit(number, place, start, draw_stay(rng, person.liability, age_years=age, female=person.female))


@dataclass(frozen=True)
class Record:
    """One ten-second recording and all that is known about it."""

    number: int
    """0-based among the subject's records."""
    time: datetime
    visit: Visit
    number_within_stay: int
    """-1 outside any stay."""
    adc_LT: np.ndarray
    """int16 ``[12, 5000]``, stored lead order."""
    beat: Beat
    torso: Torso
    rhythm: Rhythm
    defect: Defect | None


def draw_records(seed: int, subject: int, person: Subject, *, num_records: int, defect_rate: float) -> Iterator[Record]:
    """The first ``num_records`` records of a subject, in order of time."""
    visit = _draw_visit(seed, subject, person, number=0, after=person.first_visit)
    time, number_within_stay = visit.start, 0
    for number in range(num_records):
        rng = random_stream(seed, Stream.RECORD, subject, number)
        starts_stay, minutes = rng.uniform() < 0.7, int(rng.integers(20, 36 * 60))
        if number > 0 and starts_stay:
            visit = _draw_visit(seed, subject, person, number=visit.number + 1, after=time)
            time, number_within_stay = visit.start, 0
        elif number > 0:
            time, number_within_stay = time + timedelta(minutes=minutes), number_within_stay + 1
        severity = visit.stay.severity
        beat = apply_findings(person.beat, severity, acuteness=visit.stay.acuteness)
        torso = reattach(rng, person.torso)
        rate_bpm = person.resting_rate_bpm + float(rng.normal(0, 5))
        rhythm = draw_rhythm(rng, severity, sinus_rate_bpm=rate_bpm)
        adc_LT = record_leads(render_sources(rng, beat, rhythm), torso, draw_noise(rng))
        defect = draw_defect(
            random_stream(seed, Stream.DEFECT, subject, number),
            rate=defect_rate,
            num_leads=adc_LT.shape[0],
            num_samples=adc_LT.shape[1],
        )
        if defect is not None:
            defect.apply(adc_LT)
        within = -1 if visit.place == "outside" else number_within_stay
        yield Record(number, time, visit, within, adc_LT, beat, torso, rhythm, defect)
