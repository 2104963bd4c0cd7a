"""What a synthetic patient can have, how often, and which ICD-10-CM code says so.

Every finding rests on a liability, a standard normal number that rises with age (Falconer's threshold model): the
stays whose liability lies above the finding's threshold have it, and the further above, the more severe. Just below
the threshold lie borderline cases that already change the waveform a little and carry no code. Coding is then noisy
in both directions, so no reader of the waveform can reach an AUROC of 1.

Sinus rhythm is the absence of atrial fibrillation. It has no ICD-10-CM code; the machine's report says it in words.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

_BORDERLINE = 0.35  # a liability this far below the threshold starts to show in the waveform
_SEVERITY_RANGE = 1.35  # and one this much higher is as severe as it gets


@dataclass(frozen=True)
class Finding:
    """A diagnosis that the waveform shows."""

    name: str
    icd10: str
    """ICD-10-CM without the dot, as MIMIC-IV writes it."""
    prevalence: float
    """Share of stays that have it, before exclusions (see ``draw_stay``)."""
    age_slope: float = 0.0
    """Shift of the liability per standard deviation of age."""
    sensitivity: float = 0.92
    """Share of the stays that have it that carry the code."""
    false_positive_rate: float = 0.012
    """Share of the stays that do not have it that carry the code all the same."""

    @property
    def threshold(self) -> float:
        return NormalDist().inv_cdf(1 - self.prevalence)

    def severity(self, liability: np.ndarray | float) -> np.ndarray:
        """0 (nothing to see) to 1 (as pronounced as it gets), rising linearly through the threshold."""
        excess = np.asarray(liability) - self.threshold
        return np.clip((excess + _BORDERLINE) / _SEVERITY_RANGE, 0.0, 1.0)


FINDINGS: tuple[Finding, ...] = (
    Finding("sinus_bradycardia", "R001", 0.12),
    Finding("sinus_tachycardia", "R000", 0.12),
    Finding("atrial_fibrillation", "I4891", 0.12, age_slope=0.6),
    Finding("first_degree_av_block", "I440", 0.12, age_slope=0.3),
    Finding("left_bundle_branch_block", "I447", 0.08, age_slope=0.3),
    Finding("right_bundle_branch_block", "I4510", 0.10, age_slope=0.4),
    Finding("left_ventricular_hypertrophy", "I517", 0.15, age_slope=0.2),
    Finding("anterior_infarction", "I2109", 0.10, age_slope=0.3),
    Finding("inferior_infarction", "I2119", 0.10, age_slope=0.3),
)

# Gastro-oesophageal reflux disease: drawn by a coin that knows nothing of the patient or of the waveform.
NULL_CODE, NULL_PREVALENCE = "K219", 0.20
# Age-related osteoporosis: drawn from age and sex alone.
AGE_SEX_CODE = "M810"
# Why the ECG was taken (chest pain, shortness of breath, syncope, dizziness): a coin too. Every stay has at least one,
# so that a stay without findings still differs from a record outside any stay, whose code lists are empty.
REASON_CODES, REASON_PREVALENCE = ("R079", "R0602", "R55", "R42"), (0.35, 0.30, 0.12, 0.10)

AGE_MEAN_YEARS, AGE_STD_YEARS = 63.0, 17.0


def age_sex_probability(*, age_years: float, female: bool) -> float:
    """Probability of AGE_SEX_CODE: logistic in age, much higher in women."""
    logit = 0.09 * (age_years - 76.0) if female else 0.06 * (age_years - 118.0)
    return float(1.0 / (1.0 + np.exp(-logit)))


@dataclass(frozen=True)
class Stay:
    """What is true, and what was coded, during one emergency department or hospital stay."""

    severity: dict[str, float]
    """Of every finding, 0 to 1; what the waveform is drawn from."""
    present: dict[str, bool]
    """Whether the finding is there: its severity is beyond the threshold."""
    codes: tuple[str, ...]
    """The discharge diagnoses, with their errors."""
    acuteness: float
    """0 an old infarction (Q waves, inverted T), 1 a fresh one (ST elevation)."""


def draw_stay(rng: np.random.Generator, subject_liability: np.ndarray, *, age_years: float, female: bool) -> Stay:
    """Draw one stay of a subject whose lasting liabilities are ``subject_liability`` ``[len(FINDINGS)]``.

    The liabilities of two stays of a subject correlate .8: they are alike and not equal.

    Exclusions: fibrillating atria have neither a sinus rate nor a PR interval; the heart is not slow and fast at
    once; one bundle branch is blocked at a time. Of two, the one with the higher excess stays.
    """
    mixed = np.sqrt(0.8) * subject_liability + np.sqrt(0.2) * rng.standard_normal(len(FINDINGS))
    slope = np.array([finding.age_slope for finding in FINDINGS])
    liability = (mixed + slope * (age_years - AGE_MEAN_YEARS) / AGE_STD_YEARS) / np.sqrt(1 + slope**2)
    excess = {f.name: float(value - f.threshold) for f, value in zip(FINDINGS, liability, strict=True)}
    severity = {f.name: float(f.severity(value)) for f, value in zip(FINDINGS, liability, strict=True)}

    def rule_out(name: str) -> None:
        severity[name], excess[name] = 0.0, -np.inf

    for one, other in (
        ("sinus_bradycardia", "sinus_tachycardia"),
        ("left_bundle_branch_block", "right_bundle_branch_block"),
    ):
        rule_out(one if excess[one] < excess[other] else other)
    if excess["atrial_fibrillation"] > 0:
        for name in ("sinus_bradycardia", "sinus_tachycardia", "first_degree_av_block"):
            rule_out(name)
    else:
        severity["atrial_fibrillation"] = 0.0  # there is no borderline fibrillation
    present = {name: value > 0 for name, value in excess.items()}
    return Stay(severity, present, _draw_codes(rng, present, age_years, female), float(rng.uniform()))


def _draw_codes(
    rng: np.random.Generator, present: Mapping[str, bool], age_years: float, female: bool
) -> tuple[str, ...]:
    u_findings, u_reasons = rng.uniform(size=len(FINDINGS)), rng.uniform(size=len(REASON_CODES))
    codes = [
        finding.icd10
        for finding, u in zip(FINDINGS, u_findings, strict=True)
        if u < (finding.sensitivity if present[finding.name] else finding.false_positive_rate)
    ]
    if rng.uniform() < NULL_PREVALENCE:
        codes.append(NULL_CODE)
    if rng.uniform() < age_sex_probability(age_years=age_years, female=female):
        codes.append(AGE_SEX_CODE)
    margins = u_reasons - np.array(REASON_PREVALENCE)
    reasons = np.flatnonzero(margins < max(0.0, margins.min() + 1e-12))
    codes.extend(REASON_CODES[index] for index in reasons)
    return tuple(codes)
