"""The synthetic tree as its readers see it: WFDB, the CSV columns, what stays the same, what is refused."""

import ast
import csv
import filecmp
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import wfdb

from lamae.base.errors import LamaeError, UsageError
from lamae.base.leads import LIMB_FROM_I_II, canonical_columns
from lamae.sharding.synth import synthesize

NUM_RECORDS, NUM_SUBJECTS, SEED = 60, 24, 3


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("synth") / "tree"
    synthesize(out, num_records=NUM_RECORDS, num_subjects=NUM_SUBJECTS, seed=SEED, defect_rate=0.0)
    return out


def table(root: Path, name: str) -> list[dict[str, str]]:
    with (root / name).open(newline="") as file:
        return list(csv.DictReader(file))


def files_below(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def test_tree_has_the_layout_of_mimic_iv_ecg(tree):
    rows = table(tree, "record_list.csv")
    assert len(rows) == NUM_RECORDS
    assert len({row["subject_id"] for row in rows}) == NUM_SUBJECTS
    for row in rows:
        subject, study = row["subject_id"], row["study_id"]
        assert re.fullmatch(r"1\d{7}", subject)
        assert re.fullmatch(r"4\d{7}", study)
        assert row["path"] == f"files/p{subject[:4]}/p{subject}/s{study}/{study}"
    expected = [row["path"] + suffix for row in rows for suffix in (".dat", ".hea")]
    tables = ["ground_truth.csv", "machine_measurements.csv", "record_list.csv", "records_w_diag_icd10.csv"]
    assert files_below(tree) == sorted([*expected, *tables, "synthetic.json"])


def test_headers_and_columns_are_those_of_real_files(tree, real_data):
    def shape(header: str) -> str:
        header = re.sub(r"\d{2}:\d{2}:\d{2} \d{2}/\d{2}/\d{4}", "TIME", header.strip())
        return re.sub(r" 0 -?\d+ \d+ 0 ", " 0 FIRST CHECKSUM 0 ", re.sub(r"\d{8}", "ID", header))

    real = real_data / "mimic_iv_ecg_headers_only"
    ours = next(tree.rglob("*.hea")).read_text()
    assert shape(ours) == shape((real / "40689238.hea").read_text())
    for name in ("record_list", "machine_measurements"):
        first_line = (real / f"{name}_sample.csv").read_text().splitlines()[0]
        assert (tree / f"{name}.csv").read_text().splitlines()[0] == first_line


def test_wfdb_reads_every_record_and_its_checksums_hold(tree):
    for row in table(tree, "record_list.csv"):
        record = wfdb.rdrecord(str(tree / row["path"]), physical=False)
        assert record.d_signal.shape == (5000, 12)
        assert record.calc_checksum() == record.checksum
        assert record.d_signal[0].tolist() == record.init_value
        assert record.comments == [f"<subject_id>: {row['subject_id']}"]
        assert str(record.base_datetime) == row["ecg_time"]


def test_limb_identities_hold_to_rounding(tree):
    for row in table(tree, "record_list.csv"):
        record = wfdb.rdrecord(str(tree / row["path"]), physical=False)
        adc_LT = record.d_signal.T[canonical_columns(record.sig_name)]
        assert np.abs(adc_LT[:6] - LIMB_FROM_I_II @ adc_LT[:2]).max() <= 1.5
        assert adc_LT.std(axis=1).min() > 2


def test_diagnoses_have_the_columns_and_meaning_of_mimic_iv_ecg_ext_icd(tree):
    rows = table(tree, "records_w_diag_icd10.csv")
    assert list(rows[0]) == [
        *("file_name", "study_id", "subject_id", "ecg_time", "ed_stay_id", "ed_hadm_id", "hosp_hadm_id"),
        *("ed_diag_ed", "ed_diag_hosp", "hosp_diag_hosp", "all_diag_hosp", "all_diag_all"),
        *("gender", "age", "anchor_year", "anchor_age", "dod", "ecg_no_within_stay"),
        *("ecg_taken_in_ed", "ecg_taken_in_hosp", "ecg_taken_in_ed_or_hosp", "fold", "strat_fold"),
    ]
    paths = {row["study_id"]: row["path"] for row in table(tree, "record_list.csv")}
    for row in rows:
        assert row["file_name"].partition("/")[2] == paths[row["study_id"]]
        lists = {name: ast.literal_eval(row[name]) for name in row if "_diag_" in name}
        assert lists["all_diag_hosp"] == sorted(
            {*lists["ed_diag_hosp"], *lists["hosp_diag_hosp"]}, key=lists["all_diag_hosp"].index
        )
        assert lists["all_diag_all"] == (lists["all_diag_hosp"] or lists["ed_diag_ed"])
        in_stay = row["ecg_taken_in_ed_or_hosp"] == "True"
        assert in_stay == bool(row["ed_stay_id"] or row["hosp_hadm_id"]) == bool(lists["all_diag_all"])
        assert (int(row["ecg_no_within_stay"]) >= 0) == in_stay
        assert all(re.fullmatch(r"[A-Z]\d[0-9A-Z]{1,5}", code) for code in lists["all_diag_all"])


@pytest.mark.parametrize("column", ["fold", "strat_fold"])
def test_folds_are_by_subject_and_even(tree, column):
    fold_of_subject: dict[str, set[int]] = {}
    for row in table(tree, "records_w_diag_icd10.csv"):
        fold_of_subject.setdefault(row["subject_id"], set()).add(int(row[column]))
    assert all(len(folds) == 1 and min(folds) in range(20) for folds in fold_of_subject.values())
    if column == "fold":
        assert len(set.union(*fold_of_subject.values())) == 20


def test_same_arguments_give_the_same_bytes_and_another_seed_does_not(tree, tmp_path):
    synthesize(tmp_path / "again", num_records=NUM_RECORDS, num_subjects=NUM_SUBJECTS, seed=SEED, defect_rate=0.0)
    names = files_below(tree)
    assert files_below(tmp_path / "again") == names
    assert filecmp.cmpfiles(tree, tmp_path / "again", names, shallow=False)[1:] == ([], [])
    synthesize(tmp_path / "other", num_records=4, num_subjects=4, seed=SEED + 1)
    assert not set(files_below(tmp_path / "other")) & {name for name in names if name.endswith(".dat")}


def test_more_records_of_as_many_subjects_only_add(tree, tmp_path):
    synthesize(tmp_path / "more", num_records=80, num_subjects=NUM_SUBJECTS, seed=SEED, defect_rate=0.0)
    waveforms = [name for name in files_below(tree) if name.startswith("files/")]
    assert filecmp.cmpfiles(tree, tmp_path / "more", waveforms, shallow=False)[1:] == ([], [])
    for name in ("record_list.csv", "machine_measurements.csv", "records_w_diag_icd10.csv", "ground_truth.csv"):
        assert set((tree / name).read_text().splitlines()) <= set((tmp_path / "more" / name).read_text().splitlines())


def test_more_subjects_keep_the_earlier_people(tree, tmp_path):
    synthesize(tmp_path / "more", num_records=40, num_subjects=40, seed=SEED, defect_rate=0.0)

    def first_waveforms(root: Path) -> dict[str, bytes]:
        rows = sorted(table(root, "record_list.csv"), key=lambda row: row["ecg_time"], reverse=True)
        return {row["subject_id"]: (root / f"{row['path']}.dat").read_bytes() for row in rows}

    more = first_waveforms(tmp_path / "more")
    assert {subject: more[subject] for subject in first_waveforms(tree)} == first_waveforms(tree)


def test_defects_touch_some_waveforms_and_nothing_else(tree, tmp_path):
    out = tmp_path / "defects"
    synthesize(out, num_records=NUM_RECORDS, num_subjects=NUM_SUBJECTS, seed=SEED, defect_rate=0.3)
    assert filecmp.cmp(tree / "records_w_diag_icd10.csv", out / "records_w_diag_icd10.csv", shallow=False)
    kinds = set()
    for row in table(out, "ground_truth.csv"):
        path = next(name for name in files_below(out) if name.endswith(f"{row['study_id']}.dat"))
        damaged = wfdb.rdrecord(str(out / path)[:-4], physical=False)
        intact = wfdb.rdrecord(str(tree / path)[:-4], physical=False)
        changed = (damaged.d_signal != intact.d_signal).any(axis=0)
        assert [name for name, is_changed in zip(damaged.sig_name, changed, strict=True) if is_changed] == row[
            "defect_leads"
        ].split()
        assert damaged.calc_checksum() == damaged.checksum
        kinds.add(row["defect"])
    assert kinds == {"", "missing_run", "flat", "missing", "saturated"}


@pytest.mark.parametrize(
    ("numbers", "complaint"),
    [
        ({"num_records": 3, "num_subjects": 4}, "fewer than the 4 subjects"),
        ({"num_records": 0, "num_subjects": 0}, "subjects is 0"),
        ({"num_records": 10**8}, "room for"),
        ({"seed": -1}, "seed"),
        ({"defect_rate": 1.5}, "defect rate"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(tmp_path, numbers, complaint):
    arguments = {"num_records": 4, "num_subjects": 2, "seed": 0} | numbers
    with pytest.raises(UsageError, match=complaint):
        synthesize(tmp_path / "out", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_in_use_is_refused_and_left_alone(tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        synthesize(tmp_path, num_records=2, num_subjects=2, seed=0)
    with pytest.raises(UsageError, match="no directory"):
        synthesize(tmp_path / "note.txt", num_records=2, num_subjects=2, seed=0)
    with pytest.raises(LamaeError, match=r"note\.txt"):
        synthesize(tmp_path / "note.txt" / "below", num_records=2, num_subjects=2, seed=0)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]
    assert (tmp_path / "note.txt").read_text() == "mine"


def test_a_subject_with_many_records_has_them_in_order_within_one_life(tmp_path):
    synthesize(tmp_path / "out", num_records=300, num_subjects=1, seed=0)
    rows = sorted(table(tmp_path / "out", "records_w_diag_icd10.csv"), key=lambda row: row["ecg_time"])
    assert float(rows[-1]["age"]) - float(rows[0]["age"]) < 30
    place_in_stay = [int(row["ecg_no_within_stay"]) for row in rows]
    assert all(after in (-1, 0, before + 1) for before, after in pairwise(place_in_stay))
    assert len({row["ecg_time"] for row in rows}) == 300


def test_an_empty_directory_will_do(tmp_path):
    synthesize(tmp_path, num_records=2, num_subjects=1, seed=0)
    assert len(table(tmp_path, "record_list.csv")) == 2


def test_an_interrupted_run_leaves_nothing_behind(tmp_path):
    def interrupt(_stage: str, done: int, _total: int | None) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesize(tmp_path / "out", num_records=6, num_subjects=2, seed=0, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_every_record(tmp_path):
    seen = []
    synthesize(tmp_path / "out", num_records=5, num_subjects=2, seed=0, progress=lambda *step: seen.append(step))
    assert [(done, total) for _, done, total in seen] == [(done, 5) for done in range(1, 6)]
