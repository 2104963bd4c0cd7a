"""The text files of a tree: headers and CSV rows, in the columns of the published data sets.

``record_list.csv`` and ``machine_measurements.csv`` follow MIMIC-IV-ECG 1.0, ``records_w_diag_icd10.csv`` follows
MIMIC-IV-ECG-Ext-ICD 1.0.1: lists of codes are Python list literals, ids that can be absent are written as floats,
``file_name`` carries the folder of the published zip. ``ground_truth.csv`` has what no published data set has: what the
waveform was drawn from.
"""

from typing import Any

import numpy as np

from lamae.sharding.sources import MIMIC_DIAGNOSES
from lamae.sharding.synth.body import GAIN_PER_MV, STORED_LEADS
from lamae.sharding.synth.heart import RATE_HZ
from lamae.sharding.synth.machine import BANDWIDTH, FILTERING, NUM_REPORT_LINES, measure, report
from lamae.sharding.synth.record import Record, Subject

Row = dict[str, Any]
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


def csv_rows(
    record: Record,
    person: Subject,
    rng: np.random.Generator,
    *,
    subject_id: int,
    study_id: int,
    stay_id: int,
    folds: dict[str, int],
) -> dict[str, Row]:
    """A record's row of every CSV file, by file, then by column.

    ``rng`` is for the machine's readings; ``stay_id`` is below ten million and different for every stay.
    """
    path, ids = record_path(subject_id, study_id), {"subject_id": subject_id, "study_id": study_id}
    listed = ids | {"file_name": study_id, "ecg_time": record.time, "path": path}
    named = {"file_name": f"{_EXT_ICD_PREFIX}/{path}", "study_id": study_id, "subject_id": subject_id}
    return {
        "record_list.csv": listed,
        "machine_measurements.csv": ids | _machine_row(rng, record),
        MIMIC_DIAGNOSES: named | _diagnosis_row(record, person, stay_id) | folds,
        "ground_truth.csv": {"study_id": study_id} | _truth_row(record),
    }


def _machine_row(rng: np.random.Generator, record: Record) -> Row:
    read = measure(rng, record)
    lines = report(record, read)
    lines += [""] * (NUM_REPORT_LINES - len(lines))
    return {
        "cart_id": 6840000 + int(rng.integers(10000)),
        "ecg_time": record.time,
        **{f"report_{number}": line for number, line in enumerate(lines)},
        "bandwidth": BANDWIDTH,
        "filtering": FILTERING,
        **read,
    }


def _diagnosis_row(record: Record, person: Subject, stay_id: int) -> Row:
    place, codes, known = record.visit.place, list(record.visit.stay.codes), person.demographics_known
    in_ed, admitted, in_hosp = place in ("ed", "ed_admitted"), place == "ed_admitted", place == "hosp"
    of_ed = codes[:3] if admitted else codes if in_ed else []
    of_hosp = codes if admitted or in_hosp else []
    age = person.age_years + record.time.year - person.anchor_year
    return {
        "ecg_time": record.time,
        "ed_stay_id": f"{30000000 + stay_id}.0" if in_ed else "",
        "ed_hadm_id": f"{20000000 + stay_id}.0" if admitted else "",
        "hosp_hadm_id": f"{20000000 + stay_id}.0" if in_hosp else "",
        "ed_diag_ed": of_ed,
        "ed_diag_hosp": of_hosp if admitted else [],
        "hosp_diag_hosp": of_hosp if in_hosp else [],
        "all_diag_hosp": of_hosp,
        "all_diag_all": of_hosp or of_ed,
        "gender": ("F" if person.female else "M") if known else "missing",
        "age": float(age) if known else "",
        "anchor_year": float(person.anchor_year) if known else "",
        "anchor_age": float(person.age_years) if known else "",
        "dod": "",
        "ecg_no_within_stay": record.number_within_stay,
        "ecg_taken_in_ed": in_ed,
        "ecg_taken_in_hosp": in_hosp,
        "ecg_taken_in_ed_or_hosp": in_ed or in_hosp,
    }


def _truth_row(record: Record) -> Row:
    stay, defect = record.visit.stay, record.defect
    return {
        **{f"present_{name}": int(holds) for name, holds in stay.present.items()},
        **{f"severity_{name}": f"{severity:.3f}" for name, severity in stay.severity.items()},
        "acuteness": f"{stay.acuteness:.3f}",
        "rate_bpm": f"{60 / record.rhythm.mean_rr_s:.1f}",
        "defect": defect.kind if defect else "",
        "defect_leads": " ".join(STORED_LEADS[lead] for lead in defect.leads) if defect else "",
    }
