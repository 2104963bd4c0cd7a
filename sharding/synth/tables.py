"""The text files of a tree: headers and CSV rows, in the columns of the published data sets.

``record_list.csv`` and ``machine_measurements.csv`` follow MIMIC-IV-ECG 1.0, ``records_w_diag_icd10.csv`` follows
MIMIC-IV-ECG-Ext-ICD 1.0.1: lists of codes are Python list literals, ids that can be absent are written as floats,
``file_name`` carries the folder of the published zip.
"""

import numpy as np

from lamae.sharding.synth.body import GAIN_PER_MV, STORED_LEADS
from lamae.sharding.synth.findings import FINDINGS
from lamae.sharding.synth.heart import RATE_HZ
from lamae.sharding.synth.machine import BANDWIDTH, FILTERING, MEASUREMENTS, NUM_REPORT_LINES, measure, report
from lamae.sharding.synth.record import Record, Subject

RECORD_LIST_COLUMNS = ("subject_id", "study_id", "file_name", "ecg_time", "path")
MACHINE_COLUMNS = (
    "subject_id",
    "study_id",
    "cart_id",
    "ecg_time",
    *(f"report_{line}" for line in range(NUM_REPORT_LINES)),
    "bandwidth",
    "filtering",
    *MEASUREMENTS,
)
DIAGNOSIS_COLUMNS = (
    "file_name",
    "study_id",
    "subject_id",
    "ecg_time",
    "ed_stay_id",
    "ed_hadm_id",
    "hosp_hadm_id",
    "ed_diag_ed",
    "ed_diag_hosp",
    "hosp_diag_hosp",
    "all_diag_hosp",
    "all_diag_all",
    "gender",
    "age",
    "anchor_year",
    "anchor_age",
    "dod",
    "ecg_no_within_stay",
    "ecg_taken_in_ed",
    "ecg_taken_in_hosp",
    "ecg_taken_in_ed_or_hosp",
    "fold",
    "strat_fold",
)
TRUTH_COLUMNS = (
    "study_id",
    *(f"present_{finding.name}" for finding in FINDINGS),
    *(f"severity_{finding.name}" for finding in FINDINGS),
    "acuteness",
    "rate_bpm",
    "defect",
    "defect_leads",
)
_EXT_ICD_PREFIX = "mimic-iv-ecg-diagnostic-electrocardiogram-matched-subset-1.0"


def record_path(subject_id: int, study_id: int) -> str:
    """Path of a record below the root, without suffix: ``files/p1000/p10000032/s40689238/40689238``."""
    return f"files/p{subject_id // 10000}/p{subject_id}/s{study_id}/{study_id}"


def header_text(record: Record, *, subject_id: int, study_id: int) -> str:
    """A WFDB header as MIMIC-IV-ECG writes it; checksums are the sum of all samples modulo 65536."""
    checksums = record.adc_LT.sum(axis=1, dtype=np.int64) & 0xFFFF
    lines = [f"{study_id} {len(STORED_LEADS)} {RATE_HZ} {record.adc_LT.shape[1]} {record.time:%H:%M:%S %d/%m/%Y}"]
    lines += [
        f"{study_id}.dat 16 {GAIN_PER_MV:.1f}(0)/mV 16 0 {first} {checksum} 0 {name}"
        for name, first, checksum in zip(STORED_LEADS, record.adc_LT[:, 0], checksums, strict=True)
    ]
    return "\n".join([*lines, f"# <subject_id>: {subject_id}", ""])


def record_list_row(record: Record, *, subject_id: int, study_id: int) -> tuple[object, ...]:
    return (subject_id, study_id, study_id, record.time, record_path(subject_id, study_id))


def machine_row(rng: np.random.Generator, record: Record, *, subject_id: int, study_id: int) -> tuple[object, ...]:
    read = measure(rng, record)
    lines = report(record, read)
    lines += [""] * (NUM_REPORT_LINES - len(lines))
    cart_id = 6840000 + int(rng.integers(10000))
    values = (read[name] for name in MEASUREMENTS)
    return (subject_id, study_id, cart_id, record.time, *lines, BANDWIDTH, FILTERING, *values)


def diagnosis_row(
    record: Record, person: Subject, *, subject_id: int, study_id: int, stay_id: int, fold: int, strat_fold: int
) -> tuple[object, ...]:
    """``stay_id`` is below ten million and different for every stay."""
    place, codes = record.visit.place, list(record.visit.stay.codes)
    in_ed, in_hosp = place in ("ed", "ed_admitted"), place == "hosp"
    ed_diag_ed = codes[:3] if place == "ed_admitted" else codes if place == "ed" else []
    ed_diag_hosp = codes if place == "ed_admitted" else []
    hosp_diag_hosp = codes if in_hosp else []
    all_diag_hosp = ed_diag_hosp or hosp_diag_hosp
    age = person.age_years + record.time.year - person.anchor_year
    known = person.demographics_known
    return (
        f"{_EXT_ICD_PREFIX}/{record_path(subject_id, study_id)}",
        study_id,
        subject_id,
        record.time,
        f"{30000000 + stay_id}.0" if in_ed else "",
        f"{20000000 + stay_id}.0" if place == "ed_admitted" else "",
        f"{20000000 + stay_id}.0" if in_hosp else "",
        ed_diag_ed,
        ed_diag_hosp,
        hosp_diag_hosp,
        all_diag_hosp,
        all_diag_hosp or ed_diag_ed,
        ("F" if person.female else "M") if known else "missing",
        float(age) if known else "",
        float(person.anchor_year) if known else "",
        float(person.age_years) if known else "",
        "",
        record.number_within_stay,
        in_ed,
        in_hosp,
        in_ed or in_hosp,
        fold,
        strat_fold,
    )


def truth_row(record: Record, *, study_id: int) -> tuple[object, ...]:
    """What no published data set has: what the waveform was drawn from."""
    stay = record.visit.stay
    defect = record.defect
    return (
        study_id,
        *(int(stay.present[finding.name]) for finding in FINDINGS),
        *(f"{stay.severity[finding.name]:.3f}" for finding in FINDINGS),
        f"{stay.acuteness:.3f}",
        f"{60 / record.rhythm.mean_rr_s:.1f}",
        defect.kind if defect else "",
        " ".join(STORED_LEADS[lead] for lead in defect.leads) if defect else "",
    )
