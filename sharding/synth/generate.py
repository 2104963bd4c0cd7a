"""Write a synthetic MIMIC-IV-ECG: the waveform tree, its tables, the diagnoses.

OUT/
  files/pNNNN/pNNNNNNNN/sNNNNNNNN/NNNNNNNN.{hea,dat}   WFDB, format 16, 200 units per millivolt, 500 Hz, 10 s
  record_list.csv, machine_measurements.csv             as in MIMIC-IV-ECG 1.0
  records_w_diag_icd10.csv                              as in MIMIC-IV-ECG-Ext-ICD 1.0.1
  synthetic.json, ground_truth.csv                      the arguments, and what each waveform was drawn from
"""

import csv
import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from lamae.base.errors import LamaeError, UsageError
from lamae.base.files import named, new_directory
from lamae.base.outputs import refuse_foreign
from lamae.base.progress import Progress, ignore
from lamae.sharding.synth import tables
from lamae.sharding.synth.plan import ID_SPACE, Ids, StratifiedFolds, fold_of_subject, records_per_subject
from lamae.sharding.synth.record import Record, draw_records, draw_subject
from lamae.sharding.synth.streams import Stream, random_stream

GENERATOR_VERSION = 1


def synthesize(
    out: Path,
    *,
    num_records: int,
    num_subjects: int,
    seed: int,
    defect_rate: float = 0.01,
    progress: Progress = ignore,
) -> None:
    """Write ``num_records`` recordings of ``num_subjects`` subjects below ``out``, which must not hold anything yet.

    The tree is built beside ``out`` and renamed at the end. Subject s is a pure function of (seed, s) and its record
    j of (seed, s, j); which subject has how many records depends on ``num_subjects`` too. So with the same seed and
    number of subjects, more records keep every earlier file and its id; with more subjects the earlier subjects stay
    the same people with the same first records, under the same subject ids but other study ids.

    Raises UsageError when the numbers make no sense or ``out`` holds something, LamaeError when writing fails.
    """
    _check(out, num_records, num_subjects, seed, defect_rate)
    out = named(out)
    try:
        with new_directory(out) as partial:
            _write_tree(partial, num_records, num_subjects, seed, defect_rate, progress)
    except FileExistsError as error:
        raise LamaeError(f"{out}: {error.strerror}; choose another directory") from None
    except OSError as error:
        raise LamaeError(f"{error.filename or out}: {error.strerror}; nothing was left at {out}") from None


def _check(out: Path, num_records: int, num_subjects: int, seed: int, defect_rate: float) -> None:
    if num_subjects < 1:
        raise UsageError(f"subjects is {num_subjects}; at least 1 is needed")
    if num_records < num_subjects:
        raise UsageError(
            f"records is {num_records}, fewer than the {num_subjects} subjects, who have at least one each; "
            f"ask for {num_subjects} records or more"
        )
    if num_records > ID_SPACE:
        raise UsageError(f"records is {num_records}; study ids have room for {ID_SPACE}")
    if seed < 0:
        raise UsageError(f"seed is {seed}; it must not be negative")
    if not 0 <= defect_rate <= 1:
        raise UsageError(f"defect rate is {defect_rate}; it is a share of records, 0 to 1")
    refuse_foreign(out)


class _Tables:
    """The CSV files of a tree, open for writing; the columns of each are the keys of its first row."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._files = ExitStack()
        self._writers: dict[str, csv.DictWriter[str]] = {}

    def add(self, rows: Mapping[str, tables.Row]) -> None:
        """One row for each file."""
        for name, row in rows.items():
            if name not in self._writers:
                file = self._files.enter_context((self._root / name).open("w", newline=""))
                self._writers[name] = csv.DictWriter(file, list(row), lineterminator="\n")
                self._writers[name].writeheader()
            self._writers[name].writerow(row)

    def __enter__(self) -> "_Tables":
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()


def _write_tree(
    root: Path, num_records: int, num_subjects: int, seed: int, defect_rate: float, progress: Progress
) -> None:
    record_numbers = records_per_subject(seed, num_records=num_records, num_subjects=num_subjects)
    subject_ids, study_ids = Ids(seed, first_digit=1), Ids(seed, first_digit=4)
    stratified_folds = StratifiedFolds()
    num_done = 0
    with _Tables(root) as csv_files:
        for subject in sorted(range(num_subjects), key=subject_ids.__getitem__):
            person = draw_subject(seed, subject)
            folds: dict[str, int] = {}
            rows_by_study = {}
            first_study_of_stay: dict[int, int] = {}
            num_own = len(record_numbers[subject])
            for record in draw_records(seed, subject, person, num_records=num_own, defect_rate=defect_rate):
                if not folds:
                    strat_fold = stratified_folds.deal(record.visit.stay.codes)
                    folds = {"fold": fold_of_subject(seed, subject), "strat_fold": strat_fold}
                study_id = study_ids[record_numbers[subject][record.number]]
                ids = {"subject_id": subject_ids[subject], "study_id": study_id}
                stay_id = study_ids.number_part(first_study_of_stay.setdefault(record.visit.number, study_id))
                _write_record(root, record, **ids)
                rng = random_stream(seed, Stream.MACHINE, subject, record.number)
                rows_by_study[study_id] = tables.csv_rows(record, person, rng, **ids, stay_id=stay_id, folds=folds)
                num_done += 1
                progress("synthesising records", num_done, num_records)
            for _, rows in sorted(rows_by_study.items()):
                csv_files.add(rows)
    arguments = {
        "generator": GENERATOR_VERSION,
        "records": num_records,
        "subjects": num_subjects,
        "seed": seed,
        "defect_rate": defect_rate,
    }
    (root / "synthetic.json").write_text(json.dumps(arguments, indent=2) + "\n")


def _write_record(root: Path, record: Record, *, subject_id: int, study_id: int) -> None:
    stem = root / tables.record_path(subject_id, study_id)
    os.makedirs(stem.parent)
    with open(f"{stem}.dat", "wb", buffering=0) as file:
        file.write(np.ascontiguousarray(record.adc_LT.T, dtype="<i2").tobytes())
    with open(f"{stem}.hea", "w", newline="\n") as header:
        header.write(tables.header_text(record, subject_id=subject_id, study_id=study_id))
