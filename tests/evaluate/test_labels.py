"""Label sources and their join: nothing is lost without being said."""

import csv

import numpy as np
import pytest

from lamae.base.errors import UsageError
from lamae.evaluate.labels.codes import CodeLists, choose_vocabulary
from lamae.evaluate.labels.headers import read_headers
from lamae.evaluate.labels.snomed import SCP
from lamae.evaluate.labels.sources import build_labels, detect_source, icd10_ancestors, read_ptbxl
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
    named = [{labels.codes[k] for k in np.flatnonzero(row)} for row in labels.label_NK]
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


def test_ptbxl_superclasses_as_listed_with_the_recordings(real_data, tmp_path):
    """The data's own manifest lists each record's superclasses: the same must come out of the SCP codes."""
    with (real_data / "manifest.csv").open() as stream:
        listed = {
            row["record"]: row["labels"] for row in csv.DictReader(stream) if row["source"] == "ptbxl_500hz_first500"
        }
    keys = sorted(listed)
    folder = real_data / "ptbxl_500hz_first500"
    shards = write_shard_set(tmp_path / "shards", random_adc(len(keys), 50), keys=keys)
    report = build_labels(
        shards, tmp_path / "l.zarr", source="ptbxl", file=folder / "ptbxl_database.csv", protocol="folds"
    )
    labels = read_labels(tmp_path / "l.zarr")
    assert report.num_matched == len(keys)
    assert set(labels.codes) == {"NORM", "MI", "STTC", "CD", "HYP"}
    for key, row, labelled in zip(keys, labels.label_NK, labels.labelled_N, strict=True):
        found = {labels.codes[k] for k in np.flatnonzero(row)}
        expected = set(listed[key].split(";")[0].removeprefix("super=").split("|")) - {""}
        assert (found, bool(labelled)) == (expected, bool(expected)), key
    assert set(labels.split_N.tolist()) == {0}, "these are folds 1 to 8"


def test_ptbxl_folds_and_likelihoods(tmp_path):
    """Four records of folds 1, 8, 9 and 10; the threshold decides which statements count."""
    keys = [f"0000{n}_hr" for n in range(1, 5)]
    shards = write_shard_set(tmp_path / "shards", random_adc(4, 50), keys=keys)
    statements = ["{'NORM': 80.0}", "{'IMI': 35.0, 'NORM': 15.0}", "{'IMI': 0.0}", "{'SR': 0.0}"]
    lines = [
        f'"{s}",{fold},records500/00000/{key},records100/00000/{key[:-2]}lr'
        for s, fold, key in zip(statements, (1, 8, 9, 10), keys, strict=True)
    ]
    file = tmp_path / "renamed.csv"
    file.write_text("\n".join(["scp_codes,strat_fold,filename_hr,filename_lr", *lines]) + "\n")
    (tmp_path / "scp_statements.csv").write_text(
        ",description,diagnostic,form,rhythm,diagnostic_class,diagnostic_subclass\n"
        "NORM,normal,1.0,,,NORM,NORM\nIMI,inferior MI,1.0,,,MI,IMI\nSR,sinus rhythm,,,1.0,,\n"
    )
    assert detect_source(file) == "ptbxl", "the columns tell, not the name"
    build_labels(shards, tmp_path / "a.zarr", source="ptbxl", file=file, protocol="folds")
    labels = read_labels(tmp_path / "a.zarr")
    assert [SPLITS[s] for s in labels.split_N] == ["train", "train", "val", "test"]
    assert labels.codes == ["MI", "NORM"]
    assert labels.label_NK.tolist() == [[0, 1], [1, 1], [1, 0], [0, 0]]
    assert labels.labelled_N.tolist() == [True, True, True, False], "a rhythm says nothing about diagnoses"
    build_labels(shards, tmp_path / "b.zarr", source="ptbxl", file=file, protocol="folds", min_likelihood=50)
    assert read_labels(tmp_path / "b.zarr").labelled_N.tolist() == [True, False, False, False]


def test_ptbxl_statements_have_names_and_unknown_ones_are_said(tmp_path):
    keys = [f"0000{n}_hr" for n in range(1, 4)]
    shards = write_shard_set(tmp_path / "shards", random_adc(3, 50), keys=keys)
    file = tmp_path / "ptbxl_database.csv"
    (tmp_path / "scp_statements.csv").write_text(
        ",description,diagnostic,form,rhythm,diagnostic_class,diagnostic_subclass\n"
        "NORM,normal ECG,1.0,0.0,0.0,NORM,NORM\nIMI,inferior infarction,1,0,0,MI,IMI\nSR,sinus rhythm,0,0,1,,\n"
    )

    def labels(first, out, **options):
        statements = [first, '{"IMI": 80, "SR": 0}', "{'NORM': 15.0}"]
        cells = [
            '"' + s.replace('"', '""') + f'",1,b/{key},b/{key[:-2]}lr' for s, key in zip(statements, keys, strict=True)
        ]
        file.write_text("\n".join(["scp_codes,strat_fold,filename_hr,filename_lr", *cells]) + "\n")
        return build_labels(shards, tmp_path / out, source="ptbxl", file=file, **options)

    report = labels("{'NORM': 80.0, 'XYZ': 100.0}", "a", task="all")
    assert report.num_positive == {"IMI": 1, "NORM": 2, "SR": 1}
    assert report.descriptions == {"IMI": "inferior infarction", "NORM": "normal ECG", "SR": "sinus rhythm"}
    assert report.notes == ["statements that scp_statements.csv does not have count for nothing: XYZ (1 records)"]
    assert labels("{'NORM': 80.0}", "b", task="rhythm").num_positive == {"SR": 1}, "0 is no, as an empty cell is"
    assert labels("{'NORM': 80.0}", "c", task="all", min_count=2).num_positive == {"NORM": 2}
    for bad in ("{'NORM': None}", "{'NORM': nan}", "{'NORM': -1.0}"):
        with pytest.raises(UsageError, match=r"ptbxl_database.csv, line 2: scp_codes is .*NORM"):
            labels(bad, "d")
    with pytest.raises(UsageError, match="--min-likelihood -1: is a percentage"):
        labels("{'NORM': 80.0}", "d", min_likelihood=-1.0)


def test_ptbxl_statements_become_the_challenges_snomed_codes(tmp_path):
    keys = [f"0000{n}_hr" for n in range(1, 5)]
    shards = write_shard_set(tmp_path / "shards", random_adc(4, 50), keys=keys)
    file = tmp_path / "ptbxl_database.csv"
    statements = [
        "{'NORM': 80.0, 'SR': 0.0}", "{'CRBBB': 100.0, 'INJAS': 35.0, 'SVARR': 0.0}", "{'INJAS': 100.0}",
        "{'AFIB': 0.0, 'LVOLT': 0.0, 'IMI': 15.0}",
    ]  # fmt: skip
    lines = [f'"{s}",1,b/{key},b/{key[:-2]}lr' for s, key in zip(statements, keys, strict=True)]
    file.write_text("\n".join(["scp_codes,strat_fold,filename_hr,filename_lr", *lines]) + "\n")
    kinds = {"diagnostic": ("NORM", "CRBBB", "INJAS", "IMI"), "form": ("LVOLT",), "rhythm": ("SR", "SVARR", "AFIB")}
    rows = [
        f"{code},text,{int(kind == 'diagnostic')},{int(kind == 'form')},{int(kind == 'rhythm')},,"
        for kind, codes in kinds.items()
        for code in codes
    ]
    heading = ",description,diagnostic,form,rhythm,diagnostic_class,diagnostic_subclass"
    (tmp_path / "scp_statements.csv").write_text("\n".join([heading, *rows]) + "\n")

    def labels(out, **options):
        return build_labels(shards, tmp_path / out, source="ptbxl", file=file, vocabulary="snomed", **options)

    report = labels("a")
    assert report.num_positive == {
        "164865005": 1, "164889003": 1, "251146004": 1, "284470004": 1, "426783006": 1, "59118001": 1,
    }  # fmt: skip
    assert report.notes[0] == "without a SNOMED CT code, left out: INJAS (2 records)"
    assert any("713427006 complete right bundle branch block" in note for note in report.notes)
    assert read_labels(tmp_path / "a").labelled_N.tolist() == [True, True, False, True]
    assert {"63593006", "713427006"} <= labels("b", merge=False).num_positive.keys()
    assert labels("c", task="rhythm").num_positive == {"164889003": 1, "284470004": 1, "426783006": 1}
    report = labels("d", min_likelihood=50)
    assert report.num_positive == {"426783006": 1, "59118001": 1}
    assert (
        "left out by --min-likelihood 50, since their likelihood is not known (0): SR (1 records)" in report.notes[-1]
    )
    with pytest.raises(UsageError, match="--task superclass: gathers statements"):
        labels("e", task="superclass")


def test_ptbxl_statements_and_the_challenges_headers_agree_on_the_same_recordings(real_data, tmp_path):
    """HRnnnnn of the Challenges is ecg_id nnnnn; their axis deviations are from another column, heart_axis."""
    axes = {"39732003", "47665007"}
    headers = read_headers(real_data / "physionet_challenge_2020_2021/ptbxl", merge=False)
    theirs = {
        int(key[2:]): set(codes) for key, codes in zip(headers.key_choices[0], headers.codes, strict=True) if codes
    }
    assert len(theirs) == 27
    assert set().union(*theirs.values()) - axes <= set(SCP.values())
    compared = {}
    for name in ("ptbxl_500hz_first500", "ptbxl_100hz_first1000", "ptbxl_zscored_100hz"):
        table = read_ptbxl(real_data / name / "ptbxl_database.csv", vocabulary="snomed", merge=False)
        for key, codes in zip(table.key_choices[0], table.codes, strict=True):
            if (ecg_id := int(key.split("_")[0])) in theirs:
                compared[ecg_id] = (codes or set(), theirs[ecg_id] - axes)
    assert compared
    assert {ecg_id: pair for ecg_id, pair in compared.items() if pair[0] != pair[1]} == {}


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
        row = labels.label_NK[keys.index(header.stem)]
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
    assert labels.label_NK.tolist() == [[0, 1], [1, 0], [0, 0], [1, 1]]


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
