"""Labels from header comments: SNOMED codes and their names, words, and records that share a name."""

import os
import re
import zipfile
from pathlib import Path

import pytest

from lamae.base.errors import UsageError
from lamae.evaluate.labels.snomed import CHAPMAN, CPSC, EQUIVALENT, NAMES, SCORED, SCP, names_to_codes
from lamae.evaluate.labels.sources import build_labels
from lamae.evaluate.labels.store import read_labels
from lamae.sharding.sources import keys_of
from tests.shardsets import random_adc, write_shard_set


@pytest.fixture
def make(tmp_path):
    """Labels of headers with these comments, by path: codes with their records, and the report."""

    def label(comments, keys=None, root="tree", folder=None, **options):
        number = len(list(tmp_path.iterdir()))
        for path, lines in comments.items():
            header = tmp_path / f"{root}/{path}.hea"
            header.parent.mkdir(parents=True, exist_ok=True)
            header.write_text("\n".join([f"{header.stem} 0 500 10", *lines]) + "\n")
        keys = sorted(keys_of(comments) if keys is None else keys)
        shards = write_shard_set(tmp_path / f"shards{number}", random_adc(len(keys), 50), keys=keys)
        report = build_labels(
            shards, tmp_path / f"{number}.zarr", source="snomed", file=tmp_path / (folder or root), **options
        )
        return report.num_positive, report

    return label


def test_codes_are_numbers_whatever_separates_them(make):
    spellings = (
        "#Dx: 426783006,164889003", "#Dx: 426783006;164889003", "# Dx: 426783006 164889003", "#Dx:426783006|164889003",
        "#Dx: [426783006, 164889003]", "#Dx: (426783006; 164889003)", "#Dx: '426783006', '164889003'",
        "#DX : 426783006 , 164889003,",
    )  # fmt: skip
    codes, report = make({f"r{k}": [line] for k, line in enumerate(spellings)})
    assert codes == {"164889003": len(spellings), "426783006": len(spellings)}
    assert report.descriptions["164889003"] == "atrial fibrillation (AF)"


def test_words_among_snomed_codes_are_refused_by_header_and_line_or_read_as_words(make):
    comments = {"a": ["#Dx: 426783006"], "b": ["#Age: 5", "#Dx: RBBB,Afib"]}
    with pytest.raises(UsageError, match=r"b.hea, line 3: Dx is 'RBBB,Afib', and 'Afib' is no SNOMED CT code"):
        make(comments)
    with pytest.raises(UsageError, match=r"a.hea, line 2: Dx .*'4267' is no SNOMED CT code"):
        make({"a": ["#Dx: 4267"]})
    codes, _ = make({"a": ["#Dx: Normal"], "b": ["#Dx: AF,RBBB"]}, label_column="Dx", separator=",")
    assert codes == {"AF": 1, "Normal": 1, "RBBB": 1}


def test_records_without_a_diagnosis_are_unlabelled(make):
    codes, report = make({"a": ["#Dx: 426783006"], "b": ["#Dx:"], "c": ["#Dx: Unknown"], "d": ["#Age: 7"]})
    assert codes == {"426783006": 1}
    assert (report.num_matched, report.num_labelled) == (4, 1)


def test_equivalent_codes_are_one_as_the_challenge_scores_them(make, tmp_path):
    pairs = sorted(EQUIVALENT.items())
    comments = {f"r{k}{n}": [f"#Dx: {code}"] for k, pair in enumerate(pairs) for n, code in enumerate(pair)}
    comments["both"] = ["#Dx: 713427006,59118001"]
    codes, report = make(comments)
    assert codes == {"59118001": 3, "164909002": 2, "284470004": 2, "427172004": 2}
    assert any("713427006 complete right bundle branch block (CRBBB) counts as 59118001" in n for n in report.notes)
    attributes = read_labels(next(tmp_path.glob("*.zarr")))
    assert "equivalent codes merged" in attributes.protocol
    assert make(comments, vocabulary="snomed")[0] == codes, "the option may be given for every set"
    with pytest.raises(UsageError, match="--vocabulary is for ptbxl and csv"):
        make(comments, vocabulary="snomed", label_column="Dx")
    codes, report = make(comments, merge=False)
    assert len(codes) == 8
    assert not report.notes


def test_names_of_the_first_release_of_cpsc_2018_are_the_codes_of_the_later_ones(make, real_data, tmp_path):
    comments = {"a": ["#Dx: AF,RBBB"], "b": ["#Dx: Normal"], "c": ["#Dx: 164889003,713427006"], "d": ["#Dx: I-AVB"]}
    codes, report = make(comments)
    assert codes == {"164889003": 2, "59118001": 2, "426783006": 1, "270492004": 1}
    assert "names of CPSC 2018's classes count as their codes in the Challenges: 3 records" in report.notes
    folder = real_data / "physionet_challenge_2020_2021_more"
    keys = sorted(path.stem for path in folder.rglob("*.hea"))
    shards = write_shard_set(tmp_path / "more", random_adc(len(keys), 20), keys=keys)
    report = build_labels(shards, tmp_path / "more.zarr", source="snomed", file=folder)
    counts = {report.descriptions[code].rpartition("(")[2][:-1]: n for code, n in report.num_positive.items()}
    assert counts == {
        "RBBB": 20, "AF": 14, "NSR": 13, "VEB": 13, "STD": 11, "LBBB": 8, "STE": 7, "PAC": 7, "IAVB": 4,
        "NSSTTA": 4, "PVC": 1, "LVH": 1,
    }  # fmt: skip
    assert report.num_labelled == len(keys) - 6, "PTB's have an empty comment"


def test_names_of_codes_have_the_check_digit_of_snomed():
    """SNOMED CT identifiers end in a Verhoeff check digit, which any single wrong digit or swap breaks."""
    assert len(SCORED) == 30
    assert EQUIVALENT.keys() | set(EQUIVALENT.values()) <= SCORED.keys()
    assert {
        *SCP.values(),
        *CPSC.values(),
        *CHAPMAN.values(),
        *names_to_codes(["1dAVb"], Path(), []).values(),
    } <= NAMES.keys()
    for code in NAMES:
        assert _verhoeff(code) == 0, code
    abbreviations = [name.rpartition(" (")[2] for name in NAMES.values()]
    assert len(set(abbreviations)) == len(NAMES)


def _verhoeff(code):
    permutation, check = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4), 0
    for place, digit in enumerate(map(int, reversed(code))):
        for _ in range(place % 8):
            digit = permutation[digit]
        rotated = (check % 5 + digit % 5) % 5 if check < 5 else (check % 5 - digit % 5) % 5
        check = rotated if (check < 5) == (digit < 5) else rotated + 5
    return check


def test_records_that_share_a_name_are_found_by_their_folder(make):
    comments = {"a/JS1": ["#Dx: 426783006"], "a/JS2": ["#Dx: 426783006"], "b/JS1": ["#Dx: 164889003"]}
    assert keys_of(comments) == ["a__JS1", "JS2", "b__JS1"]
    assert make(comments)[0] == {"164889003": 1, "426783006": 2}
    around = {f"more/d/{path}": lines for path, lines in comments.items()} | {"other/JS9": ["#Dx: 164890007"]}
    assert make(around, keys_of(comments), root="around")[0] == {"164889003": 1, "164890007": 0, "426783006": 2}


def test_two_headers_for_one_record_are_refused_by_name(make):
    comments = {"a/JS1": ["#Dx: 426783006"], "b/JS1": ["#Dx: 164889003"]}
    with pytest.raises(UsageError, match=r"JS1 in a/JS1.hea and b/JS1.hea; keep one"):
        make(comments, keys=["JS1"])


def test_a_header_that_cannot_be_read_is_said_and_does_not_end_the_command(make, tmp_path):
    (tmp_path / "tree").mkdir()
    os.mkfifo(tmp_path / "tree/pipe.hea")
    codes, report = make({"a": ["#Dx: 426783006"]})
    assert codes == {"426783006": 1}
    (note,) = report.notes
    assert note.startswith("unreadable headers, taken as unlabelled: pipe.hea (pipe.hea is no regular file")


def test_a_zip_of_headers_gives_what_the_tree_gives(make, tmp_path):
    comments = {"a/JS1": ["#Dx: 426783006"], "b/JS1": ["#Dx: 164889003"]}
    expected, _ = make(comments)
    with zipfile.ZipFile(tmp_path / "tree.zip", "w") as archive:
        for path in comments:
            archive.write(tmp_path / f"tree/{path}.hea", f"around/{path}.hea")
    assert make(comments, folder="tree.zip")[0] == expected


def test_other_comments_are_labels_by_their_name(make):
    comments = {
        "a": ["# Chagas label: True", "# Source: X", "#<age>: 51", "#<diagnoses>:", "#Rhythm: Sinus rhythm.", "#LVH. "],
        "b": ["# Chagas label: False", "# Source: Y", "#<age>: 52", "#<diagnoses>:", "#Rhythm: Sinus rhythm."],
    }
    assert make(comments, label_column="chagas label")[0] == {"chagas label": 1}
    assert make(comments, label_column="Source")[0] == {"X": 1, "Y": 1}
    assert make(comments, label_column="Rhythm")[0] == {"Sinus rhythm": 2}
    assert make(comments, label_column="diagnoses")[0] == {"LVH": 1, "Rhythm: Sinus rhythm": 2}
    with pytest.raises(UsageError, match=r"no header has a comment Dx; name another .*there: .*Chagas label"):
        make(comments)


@pytest.mark.parametrize(
    ("folder", "comment", "some"),
    [
        ("challenge2025_code15_samitrop", "Chagas label", {"Chagas label": 79}),
        ("ludb", "Rhythm", {"Atrial fibrillation": 10, "Sinus rhythm": 101}),
        ("ludb", "diagnoses", {"Left ventricular hypertrophy": 79, "I degree AV block": 7}),
        ("physionet_challenge_2020_2021_more", "Dx", {"RBBB": 16}),
    ],
)
def test_comments_of_real_headers(real_data, tmp_path, folder, comment, some):
    paths = [
        path.relative_to(real_data / folder).with_suffix("").as_posix() for path in (real_data / folder).rglob("*.hea")
    ]
    keys = sorted(keys_of(paths))
    shards = write_shard_set(tmp_path / "shards", random_adc(len(keys), 20), keys=keys)
    file = real_data / folder
    report = build_labels(shards, tmp_path / "l.zarr", source="snomed", file=file, label_column=comment)
    assert report.num_matched == len(keys)
    assert some.items() <= report.num_positive.items()
    assert not any(re.search("[.:]$", code) for code in report.num_positive)
