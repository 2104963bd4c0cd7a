"""Label sources and their join: nothing is lost without being said."""

import csv

import numpy as np
import pytest

from lamae.base.errors import UsageError
from lamae.evaluate.labels.codes import CodeLists, choose_vocabulary
from lamae.evaluate.labels.sources import build_labels, detect_source, icd10_ancestors
from lamae.evaluate.labels.store import NO_SPLIT, read_labels
from lamae.sharding.format import SPLITS, ShardSet
from tests.shardsets import random_adc, write_shard_set

STUDIES = ["40000017", "40689238", "41420867", "44458630"]


@pytest.fixture
def shards(tmp_path):
    path = write_shard_set(
        tmp_path / "shards",
        random_adc(4, 100),
        keys=STUDIES,
        subjects=[1, 1, 2, 3],
        splits=["train", "train", "val", "test"],
    )
    return ShardSet.open(path)


def mimic_csv(path, rows, *, drop=()):
    heading = [
        "file_name", "study_id", "subject_id", "ecg_no_within_stay", "ecg_taken_in_ed", "ecg_taken_in_ed_or_hosp",
        "ed_diag_ed", "all_diag_all", "fold", "strat_fold",
    ]  # fmt: skip
    heading = [name for name in heading if name not in drop]
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, heading, extrasaction="ignore", restval="[]")
        writer.writeheader()
        for row in rows:
            writer.writerow(
                {"ecg_no_within_stay": 0, "ecg_taken_in_ed": True, "ecg_taken_in_ed_or_hosp": True, "strat_fold": 0}
                | row
            )
    return path


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("I48", {"I48"}),
        ("I2510", {"I25", "I251", "I2510"}),
        ("I21.4", {"I21", "I214"}),
        ("S72001A", {"S72", "S720", "S7200"}),
        ("T391X1A", {"T39", "T391"}),
        (" i5020 ", {"I50", "I502", "I5020"}),
        ("", set()),
    ],
)
def test_codes_are_cut_stripped_and_given_their_ancestors(code, expected):
    assert icd10_ancestors(code) == expected


def test_icd_labels_land_on_their_rows(shards, tmp_path):
    file = mimic_csv(
        tmp_path / "labels.csv",
        [
            {"study_id": STUDIES[3], "all_diag_all": "['I4891']"},
            {"study_id": STUDIES[0], "all_diag_all": "['I2510', 'E119']"},
            {"study_id": STUDIES[1], "all_diag_all": "[]"},
            {"study_id": f"{STUDIES[2]}.0", "all_diag_all": "['I2510']", "ed_diag_ed": "['R079']"},
        ],
    )
    report = build_labels(shards, tmp_path / "labels.zarr", source="mimic-icd10", file=file, min_count=1)
    labels = read_labels(tmp_path / "labels.zarr")
    assert labels.codes == ["E11", "E119", "I25", "I251", "I2510", "I48", "I489", "I4891"]
    assert labels.labelled_N.tolist() == [True, False, True, True]
    named = [{labels.codes[k] for k in np.flatnonzero(row)} for row in labels.label_NC]
    assert named == [{"I25", "I251", "I2510", "E11", "E119"}, set(), {"I25", "I251", "I2510"}, {"I48", "I489", "I4891"}]
    assert [SPLITS[s] for s in labels.split_N] == ["train", "train", "val", "test"]
    assert (report.num_matched, report.num_labelled) == (4, 3)
    assert report.num_positive["I25"] == 2
    assert labels.index_hash == shards.index_hash


def test_rare_codes_go_and_only_the_most_frequent_stay(shards, tmp_path):
    file = mimic_csv(
        tmp_path / "labels.csv",
        [
            {"study_id": s, "all_diag_all": c}
            for s, c in zip(STUDIES, ["['I10']", "['I10']", "['I10','E11']", "['E11','K21']"], strict=True)
        ],
    )
    build_labels(shards, tmp_path / "two.zarr", source="mimic-icd10", file=file, min_count=2)
    assert read_labels(tmp_path / "two.zarr").codes == ["E11", "I10"]
    build_labels(shards, tmp_path / "top.zarr", source="mimic-icd10", file=file, min_count=1, top=1)
    assert read_labels(tmp_path / "top.zarr").codes == ["I10"]


def test_protocols_take_folds_and_only_first_ecgs_for_testing(shards, tmp_path):
    rows = [
        {"study_id": STUDIES[0], "strat_fold": 17, "ecg_no_within_stay": 3},
        {"study_id": STUDIES[1], "strat_fold": 18},
        {"study_id": STUDIES[2], "strat_fold": 19, "ecg_no_within_stay": 1},
        {"study_id": STUDIES[3], "strat_fold": 19, "ecg_taken_in_ed": False},
    ]
    file = mimic_csv(tmp_path / "labels.csv", [{"all_diag_all": "['I10']"} | row for row in rows])
    expected = {"ed2all": [0, 1, NO_SPLIT, NO_SPLIT], "all2all": [0, 1, NO_SPLIT, 2]}
    for protocol, split in expected.items():
        out = tmp_path / f"{protocol}.zarr"
        build_labels(shards, out, source="mimic-icd10", file=file, min_count=1, protocol=protocol)
        assert read_labels(out).split_N.tolist() == split
    file.write_text(file.read_text().replace("False", "perhaps"))
    with pytest.raises(UsageError, match="line 5: ecg_taken_in_ed is 'perhaps', neither true nor false"):
        build_labels(shards, tmp_path / "l", source="mimic-icd10", file=file, protocol="ed2all")


def test_unmatched_records_are_refused_unless_told(shards, tmp_path):
    file = mimic_csv(tmp_path / "labels.csv", [{"study_id": s, "all_diag_all": "['I10']"} for s in STUDIES[:3]])
    with pytest.raises(UsageError, match=rf"1 of 4 records .* {STUDIES[3]}.*--allow-missing"):
        build_labels(shards, tmp_path / "out.zarr", source="mimic-icd10", file=file, min_count=1)
    assert not (tmp_path / "out.zarr").exists()
    report = build_labels(
        shards, tmp_path / "out.zarr", source="mimic-icd10", file=file, min_count=1, allow_missing=True
    )
    assert report.num_matched == 3
    assert not read_labels(tmp_path / "out.zarr").labelled_N[3]


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("['I2510' 'E785']", {"I25", "I251", "I2510", "E78", "E785"}),
        ("i25.10; E78.5", {"I25", "I251", "I2510", "E78", "E785"}),
        ("['I10', None, 'nan', '']", {"I10"}),
        ("['I10', 'NoDx']", {"I10"}),
        ("nan", None),
        ("None", None),
        ("['NoDx']", None),
        ("[b'I10']", "line 2: all_diag_all is .*not a list"),
        ("['I10', ..., 'E785']", "line 2: all_diag_all is .*one that was cut"),
        ("['I10', 4280]", "line 2: all_diag_all is .*'4280' is no ICD-10 code"),
        ("['I10, E785']", "line 2: all_diag_all is .*'I10, E785' is no ICD-10 code"),
        ("I20-I25", "line 2: all_diag_all is .*'I20-I25' is no ICD-10 code"),
        ("[1.0]", "line 2: all_diag_all is .*'1.0' is no ICD-10 code"),
    ],
)
def test_no_cell_gives_codes_that_it_does_not_hold(shards, tmp_path, cell, expected):
    rows = [{"study_id": study, "all_diag_all": "['Z00']"} for study in STUDIES]
    file = mimic_csv(tmp_path / "labels.csv", [rows[0] | {"all_diag_all": cell}, *rows[1:]])
    options = {"source": "mimic-icd10", "file": file, "min_count": 1}
    if isinstance(expected, str):
        with pytest.raises(UsageError, match=expected):
            build_labels(shards, tmp_path / "l.zarr", **options)
        return
    report = build_labels(shards, tmp_path / "l.zarr", **options)
    assert {code for code, count in report.num_positive.items() if code != "Z00"} == (expected or set())
    assert report.num_labelled == (3 if expected is None else 4)
    assert any("NoDx" in note for note in report.notes) == ("NoDx" in cell)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"study_id": "1", "all_diag_all": "['I10']"}], "none of its 1 keys"),
        ([{"study_id": "x", "all_diag_all": "['I10']"}], "line 2: study_id is 'x'"),
        ([{"study_id": STUDIES[0], "all_diag_all": "__import__('os')"}], "line 2: all_diag_all"),
        ([{"study_id": STUDIES[0], "all_diag_all": "{'I10': 1}"}], "line 2: all_diag_all .* not a list"),
        ([{"study_id": STUDIES[0], "all_diag_all": "['I10']"}] * 2, "occur more than once"),
        ([{"study_id": s, "all_diag_all": "[]"} for s in STUDIES], "no code is left"),
        ([], "no code is left"),
    ],
)
def test_bad_label_files_are_named(shards, tmp_path, rows, message):
    file = mimic_csv(tmp_path / "labels.csv", rows)
    with pytest.raises(UsageError, match=message):
        build_labels(shards, tmp_path / "out.zarr", source="mimic-icd10", file=file, min_count=1)


def test_wrong_or_missing_files_are_named(shards, tmp_path):
    file = mimic_csv(tmp_path / "labels.csv", [], drop=("all_diag_all",))
    with pytest.raises(UsageError, match="no column all_diag_all"):
        build_labels(shards, tmp_path / "out.zarr", source="mimic-icd10", file=file)
    with pytest.raises(UsageError, match="No such file"):
        build_labels(shards, tmp_path / "out.zarr", source="mimic-icd10", file=tmp_path / "absent.csv")
    with pytest.raises(UsageError, match="'nonsense' is none of"):
        build_labels(shards, tmp_path / "out.zarr", source="nonsense", file=file)


def test_finished_labels_are_left_as_they_are_and_others_refused(shards, tmp_path):
    file = mimic_csv(tmp_path / "labels.csv", [{"study_id": s, "all_diag_all": "['I10']"} for s in STUDIES])
    build_labels(shards, tmp_path / "out.zarr", source="mimic-icd10", file=file, min_count=1)
    again = build_labels(shards, tmp_path / "out.zarr", source="mimic-icd10", file=file, min_count=1)
    assert not again.made
    with pytest.raises(UsageError, match="exists and is another one"):
        build_labels(shards, tmp_path / "out.zarr", source="mimic-icd10", file=file, min_count=1, protocol="ed2all")


def test_a_source_is_told_from_its_columns(tmp_path):
    (tmp_path / "a.csv").write_text("study_id,all_diag_all,strat_fold\n")
    (tmp_path / "b.csv").write_text("key,paced\n")
    (tmp_path / "c.csv").write_text("id,age,bmi\n")
    assert detect_source(tmp_path / "a.csv") == "mimic-icd10"
    assert detect_source(tmp_path / "b.csv") == "csv"
    assert detect_source(tmp_path / "c.csv", key_column="id") == "csv"
    assert detect_source(tmp_path) == "snomed"
    (tmp_path / "ptbxl").mkdir()
    (tmp_path / "ptbxl" / "ptbxl_database.csv").touch()
    with pytest.raises(UsageError, match=r"is PTB-XL's folder; its labels are in .*ptbxl_database.csv"):
        detect_source(tmp_path / "ptbxl")
    with pytest.raises(UsageError, match=r"c.csv: its columns \(id, age, bmi\) fit no label source.*--key-column"):
        detect_source(tmp_path / "c.csv")


def test_distinct_vocabulary_counts_no_diagnosis_twice():
    counts = [("I21", 30), ("I210", 20), ("I2109", 20), ("I211", 10), ("K21", 5), ("K219", 5)]
    assert choose_vocabulary(counts, min_count=5, distinct=True) == ["I21", "I2109", "I211", "K219"]
    assert len(choose_vocabulary(counts, min_count=5)) == len(counts)


def test_snomed_codes_of_real_headers(real_data, tmp_path):
    folder = real_data / "physionet_challenge_2020_2021"
    headers = sorted(folder.rglob("*.hea"))
    keys = sorted(header.stem for header in headers)
    shards = write_shard_set(tmp_path / "shards", random_adc(len(keys), 50), keys=keys)
    report = build_labels(shards, tmp_path / "l.zarr", source="snomed", file=folder, min_count=1)
    labels = read_labels(tmp_path / "l.zarr")
    assert report.num_matched == len(keys)
    for header in headers[:5]:
        (line,) = [line for line in header.read_text().splitlines() if line.replace(" ", "").startswith("#Dx:")]
        row = labels.label_NC[keys.index(header.stem)]
        assert {labels.codes[k] for k in np.flatnonzero(row)} == set(line.split(":")[1].replace(" ", "").split(","))


def test_any_csv_with_zeros_and_ones(shards, tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text(
        "record,age,paced,low_ef\n"
        f"{STUDIES[0]},61,1,0\n{STUDIES[1]},48,,1\n{STUDIES[2]},70,,\n{STUDIES[3]},55,True,1.0\n"
    )
    build_labels(shards, tmp_path / "l.zarr", source="csv", file=file, key_column="record", min_count=1)
    labels = read_labels(tmp_path / "l.zarr")
    assert labels.codes == ["low_ef", "paced"]
    assert labels.labelled_N.tolist() == [True, True, False, True]
    assert labels.label_NC.tolist() == [[0, 1], [1, 0], [0, 0], [1, 1]]


def test_csv_without_labels_or_keys_and_folders_without_headers_are_named(shards, tmp_path):
    (tmp_path / "a.csv").write_text(f"key,age\n{STUDIES[0]},61\n")
    with pytest.raises(
        UsageError, match=r"no column is left to take labels from: age \('61' in line 2 is not 0 or 1\)"
    ):
        build_labels(shards, tmp_path / "l.zarr", source="csv", file=tmp_path / "a.csv", min_count=1)
    with pytest.raises(UsageError, match="no column record"):
        build_labels(shards, tmp_path / "l.zarr", source="csv", file=tmp_path / "a.csv", key_column="record")
    with pytest.raises(UsageError, match="no directory with WFDB headers"):
        build_labels(shards, tmp_path / "l.zarr", source="snomed", file=tmp_path / "absent")


def test_more_codes_than_two_bytes_tell_apart_are_kept_apart():
    names = [f"c{number:06d}" for number in range(70_000)]
    lists = CodeLists([[name] for name in names] + [None, names[-1:]])
    assert [codes and sorted(codes) for codes in list(lists)[65_534:65_538]] == [
        [name] for name in names[65_534:65_538]
    ]
    label, labelled = lists.columns([names[0], names[-1]], np.arange(70_002)[::-1] - 1, 70_002)
    assert np.argwhere(label.toarray()).tolist() == [[1, 1], [70_000, 0]]
    assert labelled.sum() == 70_000
