"""What is true of the synthetic patients: how often, how independent, and where it shows in the waveform."""

from statistics import NormalDist

import numpy as np
import pytest

from lamae.base.leads import canonical_columns, lead_index
from lamae.sharding.synth.body import STORED_LEADS, record_leads
from lamae.sharding.synth.findings import (
    AGE_SEX_CODE,
    FINDINGS,
    NULL_CODE,
    NULL_PREVALENCE,
    REASON_CODES,
    Stay,
    age_sex_probability,
    draw_stay,
)
from lamae.sharding.synth.heart import RATE_HZ, Rhythm, apply_findings, draw_rhythm, render_sources
from lamae.sharding.synth.realism import r_peaks
from lamae.sharding.synth.record import draw_records, draw_subject
from lamae.sharding.synth.streams import Stream, random_stream

HEALTHY = {finding.name: 0.0 for finding in FINDINGS}
CANONICAL = canonical_columns(STORED_LEADS)


@pytest.fixture(scope="module")
def population() -> tuple[np.ndarray, np.ndarray, list[Stay]]:
    """Ages, sexes (1 is female) and stays of 4,000 people."""
    rng = np.random.default_rng(5)
    ages, females = rng.normal(63, 17, 4000).clip(18, 91), rng.uniform(size=4000) < 0.5
    stays = [
        draw_stay(rng, rng.standard_normal(len(FINDINGS)), age_years=float(age), female=bool(female))
        for age, female in zip(ages, females, strict=True)
    ]
    return ages, females, stays


def has_code(stays: list[Stay], code: str) -> np.ndarray:
    return np.array([code in stay.codes for stay in stays])


@pytest.mark.parametrize("finding", FINDINGS, ids=lambda finding: finding.name)
def test_prevalence_severity_and_coding_errors_are_as_stated(population, finding):
    stays = population[2]
    present = np.array([stay.present[finding.name] for stay in stays])
    severity = np.array([stay.severity[finding.name] for stay in stays])
    coded = has_code(stays, finding.icd10)
    assert 0.6 * finding.prevalence < present.mean() < 1.15 * finding.prevalence
    assert abs(coded[present].mean() - finding.sensitivity) < 0.05
    assert abs(coded[~present].mean() - finding.false_positive_rate) < 0.008
    assert severity[present].min() > severity[~present].max() or finding.name == "atrial_fibrillation"
    assert np.percentile(severity[present], 75) - np.percentile(severity[present], 25) > 0.2


def test_findings_that_exclude_each_other_never_meet(population):
    for stay in population[2]:
        present = {name for name, holds in stay.present.items() if holds}
        assert not {"sinus_bradycardia", "sinus_tachycardia"} <= present
        assert not {"left_bundle_branch_block", "right_bundle_branch_block"} <= present
        if "atrial_fibrillation" in present:
            assert not present & {"sinus_bradycardia", "sinus_tachycardia", "first_degree_av_block"}
        assert set(stay.codes) & set(REASON_CODES)


def test_the_null_code_knows_nothing(population):
    ages, females, stays = population
    null = has_code(stays, NULL_CODE)
    assert abs(null.mean() - NULL_PREVALENCE) < 4 * np.sqrt(NULL_PREVALENCE * (1 - NULL_PREVALENCE) / len(stays))
    others = [ages, females, *(has_code(stays, code) for code in (*REASON_CODES, AGE_SEX_CODE))]
    others += [np.array([stay.severity[finding.name] for stay in stays]) for finding in FINDINGS]
    for other in others:
        assert abs(np.corrcoef(null, other)[0, 1]) < 3.5 / np.sqrt(len(stays))


def test_the_age_and_sex_code_depends_on_nothing_else(population):
    ages, females, stays = population
    expected = np.array(
        [age_sex_probability(age_years=age, female=female) for age, female in zip(ages, females, strict=True)]
    )
    surprise = has_code(stays, AGE_SEX_CODE) - expected
    assert 0.1 < expected.mean() < 0.3
    assert abs(surprise.mean()) < 4 * surprise.std() / np.sqrt(len(stays))
    for finding in FINDINGS:
        severity = [stay.severity[finding.name] for stay in stays]
        assert abs(np.corrcoef(surprise, severity)[0, 1]) < 3.5 / np.sqrt(len(stays))


def average_beat_mv(subject: int, severity: dict[str, float], *, acuteness: float = 0.5) -> np.ndarray:
    """Noise-free beat of a subject, canonical leads: ``[12, 0.8 s]`` with the R peak 0.4 s after its start."""
    person = draw_subject(1, subject)
    beat = apply_findings(person.beat, HEALTHY | severity, acuteness=acuteness)
    rhythm = Rhythm(r_s_K=np.arange(0.6, 11.0), fibrillation_mv=0.0)
    rng = random_stream(1, Stream.RECORD, subject)
    adc_LT = record_leads(render_sources(rng, beat, rhythm), person.torso, np.zeros((9, 5000), dtype=np.float32))
    beat_LT = adc_LT[CANONICAL].reshape(12, 10, RATE_HZ).mean(axis=1) / 200
    return beat_LT[:, round(0.2 * RATE_HZ) :]


def value_mv(beat_LT: np.ndarray, lead: str, start_s: float, end_s: float) -> float:
    """Mean of a lead between two times relative to the R peak."""
    index = lead_index(lead)
    start, end = (round((0.4 + time_s) * RATE_HZ) for time_s in (start_s, end_s))
    return float(beat_LT[index, start:end].mean())


@pytest.mark.parametrize(
    ("name", "lead", "start_s", "end_s", "sign", "acuteness"),
    [
        ("right_bundle_branch_block", "V1", 0.055, 0.085, +1, 0.5),
        ("right_bundle_branch_block", "I", 0.055, 0.085, -1, 0.5),
        ("left_bundle_branch_block", "I", 0.03, 0.07, +1, 0.5),
        ("left_bundle_branch_block", "V1", 0.03, 0.07, -1, 0.5),
        ("left_bundle_branch_block", "V6", 0.25, 0.35, -1, 0.5),
        ("left_ventricular_hypertrophy", "V5", -0.01, 0.01, +1, 0.5),
        ("left_ventricular_hypertrophy", "V2", 0.0, 0.02, -1, 0.5),
        ("anterior_infarction", "V3", -0.03, 0.0, -1, 0.5),
        ("anterior_infarction", "V3", 0.10, 0.15, +1, 1.0),
        ("anterior_infarction", "V3", 0.25, 0.32, -1, 0.0),
        ("inferior_infarction", "aVF", -0.03, -0.01, -1, 0.5),
        ("inferior_infarction", "III", 0.10, 0.15, +1, 1.0),
        ("inferior_infarction", "aVF", 0.25, 0.32, -1, 0.0),
    ],
)
def test_a_finding_shows_where_it_should_and_by_its_severity(name, lead, start_s, end_s, sign, acuteness):
    means = []
    for severity in (0.0, 0.3, 0.6, 1.0):
        beats = (average_beat_mv(subject, {name: severity}, acuteness=acuteness) for subject in range(8))
        means.append(np.mean([value_mv(beat, lead, start_s, end_s) for beat in beats]))
    assert (sign * np.diff(means) > 0.005).all()


def test_av_block_moves_the_p_wave_away_from_the_qrs():
    def p_peak_s(severity: float) -> float:
        beat = average_beat_mv(0, {"first_degree_av_block": severity})[lead_index("II")]
        return float(np.argmax(beat[: round(0.34 * RATE_HZ)])) / RATE_HZ

    assert p_peak_s(0.0) - p_peak_s(1.0) == pytest.approx(0.125, abs=0.005)


def test_rhythms_differ_in_rate_regularity_and_p_waves():
    def rhythms(**severity: float) -> list[Rhythm]:
        streams = (np.random.default_rng(seed) for seed in range(30))
        return [draw_rhythm(rng, HEALTHY | severity, sinus_rate_bpm=74.0) for rng in streams]

    def rate_bpm(rhythm: Rhythm) -> float:
        return 60 / rhythm.mean_rr_s

    def irregularity(rhythm: Rhythm) -> float:
        return float(np.diff(rhythm.r_s_K).std() / rhythm.mean_rr_s)

    sinus, fibrillation = rhythms(), rhythms(atrial_fibrillation=0.8)
    assert max(map(rate_bpm, rhythms(sinus_bradycardia=1.0))) < min(map(rate_bpm, sinus))
    assert min(map(rate_bpm, rhythms(sinus_tachycardia=1.0))) > max(map(rate_bpm, sinus))
    assert np.median([*map(irregularity, fibrillation)]) > 3 * np.median([*map(irregularity, sinus)])
    assert all(rhythm.fibrillation_mv > 0 for rhythm in fibrillation)
    assert all(rhythm.fibrillation_mv == 0 for rhythm in sinus)


def _median_beat(mv_LT: np.ndarray, peaks: np.ndarray) -> np.ndarray:
    inside = [peak for peak in peaks if 150 < peak < mv_LT.shape[1] - 250]
    return np.median([mv_LT[:, peak - 150 : peak + 250 : 5] for peak in inside], axis=0).ravel()


def _auroc(scores: np.ndarray, is_positive: np.ndarray) -> float:
    ranks = scores.argsort().argsort() + 1
    positives = is_positive.sum()
    return float((ranks[is_positive].sum() - positives * (positives + 1) / 2) / (positives * (~is_positive).sum()))


def test_a_plain_reader_finds_the_findings_and_not_the_null_code():
    independent = [lead for lead in range(12) if lead not in (2, 3, 4, 5)]
    features, codes = [], []
    for subject in range(500):
        for record in draw_records(9, subject, draw_subject(9, subject), num_records=1, defect_rate=0.0):
            mv_LT = record.adc_LT[CANONICAL][independent] / np.float32(200)
            mv_LT -= np.median(mv_LT, axis=1, keepdims=True)
            peaks = r_peaks(mv_LT)
            rr_s = np.diff(peaks) / RATE_HZ
            features.append([*_median_beat(mv_LT, peaks), 6 / np.median(rr_s), 20 * rr_s.std() / rr_s.mean()])
            codes.append(record.visit.stay.codes)
    x = np.array(features)
    x -= x.mean(axis=0)

    def reader_auroc(code: str) -> float:
        """Of ridge regression; each half of the people is read with weights from the other half."""
        y = np.array([code in own for own in codes])
        scores = np.empty(len(y))
        for half in (0, 1):
            train, test = slice(half, None, 2), slice(1 - half, None, 2)
            gram = x[train] @ x[train].T + 5.0 * np.eye(len(x[train]))
            weights = x[train].T @ np.linalg.solve(gram, y[train] - y[train].mean())
            scores[test] = x[test] @ weights
        return _auroc(scores, y)

    aurocs = {finding.name: reader_auroc(finding.icd10) for finding in FINDINGS}
    assert min(aurocs.values()) > 0.6, aurocs
    assert max(aurocs.values()) < 0.985, aurocs
    assert np.mean(list(aurocs.values())) > 0.75, aurocs
    num_positive = sum(NULL_CODE in own for own in codes)
    error = np.sqrt((len(codes) + 1) / (12 * num_positive * (len(codes) - num_positive)))
    assert abs(reader_auroc(NULL_CODE) - 0.5) < NormalDist().inv_cdf(0.995) * error
