"""Patients: named by the source, by headers, by a file or by a pattern, and where by none, that is said everywhere."""

import dataclasses
import logging

import numpy as np
import pytest

from lamae.base.errors import UsageError
from lamae.base.tables import subject_number
from lamae.evaluate.labels.sources import build_labels
from lamae.evaluate.labels.store import read_labels
from lamae.evaluate.probe.protocol import split_rows
from lamae.reports.datacard import write_card
from lamae.sharding.format import ShardSet
from lamae.sharding.options import PackOptions
from lamae.sharding.pack import pack, plan
from tests.sharding.wfdbtree import MIMIC_LEADS, plausible_signal, write_record


def write_tree(root, comments: dict[str, str]):
    for number, (name, comment) in enumerate(comments.items()):
        write_record(root / name, plausible_signal(MIMIC_LEADS, seed=number), comments=[comment] if comment else [])
    return root


def subjects_in(out):
    shard_set = ShardSet.open(out)
    return dict(zip(shard_set.keys, shard_set.column("subject").tolist(), strict=True))


@pytest.mark.parametrize(
    "comment",
    [
        "<subject_id>: 7",
        "Patient ID: 7",
        "patient_id: 7.0",
        "Subject ID : 007",
        "<patient_id>: 7\t",
        "Patient number: 7",
        "patient 7",
        "Patient: 007",
    ],
)
def test_header_comments_name_patients(tmp_path, comment):
    tree = write_tree(
        tmp_path / "tree", {"a": comment, "b": comment, "c": "Patient ID: -1", "d": "patient 60 years old"}
    )
    manifest = pack(tree, tmp_path / "out", options=PackOptions(source="wfdb"))
    assert subjects_in(tmp_path / "out") == {"a": 7, "b": 7, "c": -3, "d": -4}
    assert manifest["plan"]["patients"] == {
        "known": 1,
        "records_without": 2,
        "named_by": ["header comments"],
        "note": "splits by patient, but by record for 2 of 4 records: patients unknown",
    }


def test_the_headers_of_the_2025_challenge_name_patients(real_data, tmp_path):
    planned = plan(real_data / "challenge2025_code15_samitrop", tmp_path / "out", options=PackOptions())
    assert planned.content["patients"]["known"] == 199
    assert planned.content["patients"]["records_without"] == 139


def test_where_patients_are_unknown_warning_manifest_card_and_labels_say_so(tmp_path, caplog):
    tree = write_tree(tmp_path / "tree", dict.fromkeys("abcdefgh", ""))
    with caplog.at_level(logging.WARNING):
        pack(tree, tmp_path / "out", options=PackOptions())
    words = "splits by record: patients unknown"
    assert words in caplog.text
    assert words in (tmp_path / "out/dataset.json").read_text()
    write_card(tmp_path / "out", tmp_path / "card.html", examples=False)
    assert words in (tmp_path / "card.html").read_text()
    (tmp_path / "labels.csv").write_text("key,AF\n" + "".join(f"{key},{key in 'ab':d}\n" for key in "abcdefgh"))
    build_labels(tmp_path / "out", tmp_path / "labels.zarr", source="csv", file=tmp_path / "labels.csv", min_count=1)
    labels = read_labels(tmp_path / "labels.zarr")
    labels = dataclasses.replace(labels, split_N=np.arange(8, dtype=np.uint8) % 3)
    rows_of = labels, np.arange(8), np.zeros(8, np.uint8), np.ones(8, bool)
    _, said_of_results = split_rows(*rows_of, name="model", transductive=False)
    assert words in said_of_results


def test_a_file_names_patients_by_record_in_any_spelling(tmp_path, caplog):
    tree = write_tree(tmp_path / "tree", {"101": "", "102": "", "103": "", "104": "Patient ID: 9"})
    (tmp_path / "exams.csv").write_text("exam_id,Patient_ID\n101.0,5.0\n102.0,5.0\n103.0,P-17\n")
    pack(tree, tmp_path / "out", options=PackOptions(subjects_from=str(tmp_path / "exams.csv")))
    assert subjects_in(tmp_path / "out") == {"101": 5, "102": 5, "103": subject_number("P-17"), "104": 9}
    assert "unknown" not in caplog.text
    assert str(tmp_path) not in (tmp_path / "out/dataset.json").read_text()
    (tmp_path / "exams.csv").write_text("exam_id,Patient_ID\n101.0,6.0\n102.0,5.0\n103.0,P-17\n")
    with pytest.raises(UsageError, match="subjects_from is another file"):
        pack(tree, tmp_path / "out", options=PackOptions(subjects_from=str(tmp_path / "exams.csv")))


def test_patients_decide_the_splits_and_not_the_records(tmp_path):
    tree = write_tree(tmp_path / "tree", {f"patient{n // 3:03d}/r{n}": "" for n in range(30)})
    options = PackOptions(split_fractions=[0.4, 0.3, 0.3])
    pack(tree, tmp_path / "folders", options=options)
    options.subject_pattern = r"patient(\d+)/"
    pack(tree, tmp_path / "pattern", options=options)
    assert subjects_in(tmp_path / "folders") == subjects_in(tmp_path / "pattern")
    shard_set = ShardSet.open(tmp_path / "folders")
    assert sorted(subjects_in(tmp_path / "folders").values()) == [n // 3 for n in range(30)]
    splits = {}
    for subject, split in zip(shard_set.column("subject"), shard_set.column("split"), strict=True):
        assert splits.setdefault(subject, split) == split
    assert len(set(splits.values())) == 3


def test_folders_of_patients_that_contradict_the_headers_name_nobody(tmp_path, caplog):
    comments = {f"patient{n:03d}/r{n}": f"Patient ID: {911000 + n}" if n > 1 else "" for n in range(1, 6)}
    with caplog.at_level(logging.WARNING):
        planned = plan(write_tree(tmp_path / "tree", comments), tmp_path / "out", options=PackOptions())
    assert planned.content["patients"]["named_by"] == ["header comments"]
    assert [entry.subject for entry in planned.entries(0)] == [None, *range(911002, 911006)]
    assert "folders patientNNN are no patients here: patient002/r2 is of patient 911002" in caplog.text


def test_folders_of_patients_that_agree_with_the_headers_name_the_rest(tmp_path):
    tree = write_tree(
        tmp_path / "tree", {f"patient{n:03d}/r{n}": f"Patient ID: {n}" if n > 1 else "" for n in range(4)}
    )
    planned = plan(tree, tmp_path / "out", options=PackOptions())
    assert planned.content["patients"]["named_by"] == ["header comments", "folders patientNNN"]
    assert [entry.subject for entry in planned.entries(0)] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ("key,patient\na,1\n", "no subject for 2 of 3 records, such as b; allow_unknown_subjects=true"),
        ("key,patient\na,1\nb,\nc,nan\n", "no subject for 2 of 3 records, such as b"),
        ("key,patient\na,1\nb,2\nc,3\na,2\n", "key a a second time, with 2 instead of 1"),
        ("key,person\na,1\n", "needs a column subject or subject_id or patient or patient_id; it has key, person"),
        ("key,patient\nx,1\n", r"such as 'x'\) is the key"),
    ],
)
def test_a_subjects_file_that_does_not_fit_is_refused(tmp_path, table, complaint):
    tree = write_tree(tmp_path / "tree", dict.fromkeys("abc", ""))
    (tmp_path / "subjects.csv").write_text(table)
    with pytest.raises(UsageError, match=complaint):
        plan(tree, tmp_path / "out", options=PackOptions(subjects_from=str(tmp_path / "subjects.csv")))


@pytest.mark.parametrize(
    ("pattern", "complaint"),
    [
        (r"patient\d+", "has 0 groups"),
        (r"(patient)(\d+)", "has 2 groups"),
        (r"visit(\d+)", "is in no path, such as p1/a"),
        (r"p(\d+", "no regular expression"),
        (r"p1/(\w)", "no subject for 1 of 3 records, such as c"),
    ],
)
def test_a_pattern_that_does_not_fit_is_refused(tmp_path, pattern, complaint):
    tree = write_tree(tmp_path / "tree", dict.fromkeys(("p1/a", "p1/b", "p2/c"), ""))
    with pytest.raises(UsageError, match=complaint):
        plan(tree, tmp_path / "out", options=PackOptions(subject_pattern=pattern))
    if "no subject" in complaint:
        options = PackOptions(subject_pattern=pattern, allow_unknown_subjects=True)
        assert plan(tree, tmp_path / "out", options=options).content["patients"]["records_without"] == 1


def test_an_option_that_contradicts_the_source_is_refused_with_the_record(tmp_path):
    tree = write_tree(tmp_path / "tree", {"a": "Patient ID: 5", "b": "Patient ID: 6"})
    (tmp_path / "subjects.csv").write_text("key,subject\na,5\nb,7\n")
    with pytest.raises(UsageError, match="b is of subject 7 there, and of 6 by what is known"):
        plan(tree, tmp_path / "out", options=PackOptions(subjects_from=str(tmp_path / "subjects.csv")))


def test_the_plan_says_what_is_there_before_anything_is_packed(tmp_path):
    tree = write_tree(tmp_path / "tree", {f"r{n:02d}": "" for n in range(20)})
    write_record(tree / "r00", plausible_signal(MIMIC_LEADS, num_samples=250), rate_hz=250)
    write_record(tree / "r01", plausible_signal(MIMIC_LEADS, num_samples=700))
    write_record(tree / "r02", plausible_signal(MIMIC_LEADS[:6]), names=(*MIMIC_LEADS[:5], "V7"))
    (tree / "r03.hea").write_text("no header")
    text = dict(plan(tree, tmp_path / "out", options=PackOptions()).overview)
    assert text["kind"].startswith("wfdb: neither")
    assert text["patients"] == "0; splits by record: patients unknown"
    assert text["rates × lengths"] == "500 Hz × 500: 17; 250 Hz × 250: 1; 500 Hz × 700: 1"
    assert text["leads"].endswith("18; other names or orders: 1; not among the twelve and left out: V7")
    assert text["to be rejected"] == (
        "3 of 20 (15.0%): 1 which --rate 500 keeps, 1 which --seconds 1 keeps, 1 with a header that cannot be used"
    )
    options = PackOptions(rate_hz=500.0, seconds=1.0, min_seconds=1.2)
    text = dict(plan(tree, tmp_path / "out2", options=options).overview)
    assert (
        text["to be rejected"] == "19 of 20 (95.0%): 18 shorter than min_seconds, 1 with a header that cannot be used"
    )
