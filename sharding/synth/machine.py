"""What the ECG machine would print: intervals, axes, and a report in words.

Both come from what the waveform is drawn from plus a reading error, never from the discharge codes. 29999 means "not
measured", as in MIMIC-IV-ECG's ``machine_measurements.csv``.
"""

import numpy as np

from lamae.sharding.synth.body import LEADS_FROM_ELECTRODES, STORED_LEADS
from lamae.sharding.synth.heart import P_WAVES, QRS_WAVES, T_WAVES
from lamae.sharding.synth.record import Record

NOT_MEASURED = 29999
NUM_REPORT_LINES = 18
BANDWIDTH, FILTERING = "0.005-150 Hz", "60 Hz notch Baseline filter"


def measure(rng: np.random.Generator, record: Record) -> dict[str, int]:
    """Intervals in milliseconds from the start of an averaged beat, axes in degrees of the frontal plane."""
    beat, rhythm = record.beat, record.rhythm
    p_onset = 40
    qrs_onset = p_onset + 1000 * beat.pr_s
    values = {
        "rr_interval": 1000 * rhythm.mean_rr_s,
        "p_onset": p_onset,
        "p_end": p_onset + 1000 * float((beat.centre_W + 2 * beat.width_W)[P_WAVES].max()),
        "qrs_onset": qrs_onset,
        "qrs_end": qrs_onset + 1000 * (beat.qrs_end_s - beat.qrs_onset_s),
        "t_end": qrs_onset + 1000 * float(beat.qt_s(np.array(rhythm.mean_rr_s))),
    }
    read = {name: round(value + rng.normal(0, 4)) for name, value in values.items()}
    field_LS = LEADS_FROM_ELECTRODES @ record.torso.field_ES()
    lead_1, lead_avf = field_LS[STORED_LEADS.index("I")], field_LS[STORED_LEADS.index("aVF")]
    for name, waves in (("p_axis", P_WAVES), ("qrs_axis", QRS_WAVES), ("t_axis", T_WAVES)):
        area_S = beat.area_S(waves)
        angle = np.degrees(np.arctan2(lead_avf @ area_S * 2 / np.sqrt(3), lead_1 @ area_S))
        read[name] = round(angle + rng.normal(0, 3))
    if rhythm.fibrillation_mv > 0:
        read |= dict.fromkeys(("p_onset", "p_end", "p_axis"), NOT_MEASURED)
    if rng.uniform() < 0.01:
        read |= dict.fromkeys(("t_end", "t_axis"), NOT_MEASURED)
    return read


def report(record: Record, read: dict[str, int]) -> list[str]:
    """Lines of text, at most NUM_REPORT_LINES: rhythm, conduction, voltage, infarction, overall verdict."""
    severity = record.visit.stay.severity
    rate_bpm = 60000 / read["rr_interval"]
    qrs_ms = read["qrs_end"] - read["qrs_onset"]
    lines, abnormal = [], True
    if record.rhythm.fibrillation_mv > 0:
        lines.append("Atrial fibrillation")
    elif rate_bpm < 60:
        lines.append("Sinus bradycardia")
    elif rate_bpm > 100:
        lines.append("Sinus tachycardia")
    else:
        lines.append("Sinus rhythm")
        abnormal = False
    findings = (
        ("First degree A-V block", read["p_onset"] != NOT_MEASURED and read["qrs_onset"] - read["p_onset"] > 200),
        ("Left bundle branch block", severity["left_bundle_branch_block"] > 0.4 and qrs_ms > 115),
        ("Right bundle branch block", severity["right_bundle_branch_block"] > 0.4 and qrs_ms > 105),
        ("Left ventricular hypertrophy", severity["left_ventricular_hypertrophy"] > 0.5),
        ("Anterior infarct - age undetermined", severity["anterior_infarction"] > 0.4),
        ("Inferior infarct - age undetermined", severity["inferior_infarction"] > 0.4),
        ("Left axis deviation", -90 < read["qrs_axis"] < -30),
    )
    lines += [text for text, holds in findings if holds]
    abnormal |= len(lines) > 1
    lines += ["", "Abnormal ECG" if abnormal else "Normal ECG"]
    return lines
