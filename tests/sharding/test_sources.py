"""Recognition: whose records they are is known, or the command says where the list is; never a guess."""

import csv
import shutil
from pathlib import Path

import pytest

from lamae.base.errors import UsageError
from lamae.sharding.files import open_files
from lamae.sharding.sources import list_source
from tests.sharding.wfdbtree import MIMIC_LEADS, plausible_signal, write_mimic_tree, write_record


def write_ptbxl(root: Path, *rates: int, num_records: int = 6) -> Path:
    """PTB-XL's layout with two records a patient; signals are of no matter here."""
    rows = [["ecg_id", "patient_id", "strat_fold", "filename_lr", "filename_hr"]]
    for number in range(1, num_records + 1):
        names = [f"records{rate}/00000/{number:05d}_{end}" for rate, end in ((100, "lr"), (500, "hr"))]
        for rate, name in zip((100, 500), names, strict=True):
            if rate in rates:
                write_record(root / name, plausible_signal(MIMIC_LEADS, seed=number), rate_hz=rate)
        rows.append([number, f"{100 + number // 2}.0", 8 + number % 3, *names])
    with (root / "ptbxl_database.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return root


def listing(source: Path, **options):
    return list_source(open_files(source), **options)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize("branch", ["", "files", "files/p1000", "files/p1000/p10000037"])
def test_mimic_and_any_branch_of_it_know_their_patients(tmp_path, branch):
    write_mimic_tree(tmp_path / "tree")
    whole = listing(tmp_path / "tree")
    part = listing(tmp_path / "tree" / branch)
    assert part.kind == "mimic"
    subjects = {entry.key: entry.subject for entry in whole.entries if branch in f"{entry.path}/"}
    assert {entry.key: entry.subject for entry in part.entries} == subjects
    assert len(part.entries) == (2 if branch.endswith("37") else 12)


def test_the_layout_of_the_mimic_demo_is_mimic_with_its_list_and_without(tmp_path):
    write_mimic_tree(tmp_path / "tree")
    (tmp_path / "tree/files/p1000").rename(tmp_path / "tree/demo")
    shutil.rmtree(tmp_path / "tree/files")
    (tmp_path / "tree/demo").rename(tmp_path / "tree/files")
    edit(tmp_path / "tree/record_list.csv", "files/p1000/", "files/")
    listed = listing(tmp_path / "tree")
    assert listed.reconciliation.counts() == {"expected": 12, "found": 12, "missing": 0, "unlisted": 0, "unused": 0}
    (tmp_path / "tree/record_list.csv").unlink()
    assert [(e.key, e.subject) for e in listing(tmp_path / "tree").entries] == [
        (e.key, e.subject) for e in listed.entries
    ]


def test_a_record_list_cut_in_its_last_line_is_refused_by_line(tmp_path):
    write_mimic_tree(tmp_path / "tree")
    path = tmp_path / "tree/record_list.csv"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(UsageError, match=r"record_list\.csv, line 13: fewer cells"):
        listing(tmp_path / "tree")


@pytest.mark.parametrize(
    ("rates", "given", "taken"), [((500, 100), None, 500), ((100,), None, 100), ((500, 100), 100, 100)]
)
def test_of_ptbxls_copies_the_one_that_is_there_is_taken(tmp_path, rates, given, taken):
    found = listing(write_ptbxl(tmp_path / "tree", *rates), ptbxl_rate_hz=given)
    assert found.ptbxl_rate_hz == taken
    assert [(e.key, e.subject, e.split) for e in found.entries][:2] == [
        (f"00001_{'hr' if taken == 500 else 'lr'}", 100, 1),
        (f"00002_{'hr' if taken == 500 else 'lr'}", 101, 2),
    ]
    assert found.reconciliation.counts() == {"expected": 6, "found": 6, "missing": 0, "unlisted": 0, "unused": 0}


def test_a_copy_of_ptbxl_that_was_asked_for_and_is_not_there_is_refused_with_the_other(tmp_path):
    write_ptbxl(tmp_path / "tree", 100)
    with pytest.raises(UsageError, match="at 500 Hz is here; some at 100 are: give ptbxl_rate_hz=100"):
        listing(tmp_path / "tree", ptbxl_rate_hz=500)


def test_records_beside_ptbxls_own_are_counted_as_unused(tmp_path):
    write_record(write_ptbxl(tmp_path / "tree", 500) / "more/x", plausible_signal(MIMIC_LEADS))
    assert listing(tmp_path / "tree").reconciliation.unused == ["more/x"]


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("6,103.0,8", "1,103.0,8", None),  # the ecg_id decides nothing
        (
            "6,103.0,8,records100/00000/00006_lr,records500/00000/00006_hr",
            "6,103.0,8,x,records500/00000/00001_hr",
            "second time",
        ),
        ("6,103.0,8", "6,,8", "patient_id '' and strat_fold '8'"),
        ("6,103.0,8", "6,inf,8", "patient_id 'inf'"),
        ("6,103.0,8", "6,103.0,nan", "strat_fold 'nan'"),
        ("6,103.0,8", "6,103.0,11", "strat_fold '11'"),
        ("6,103.0,8", "6,-3,8", "patient_id '-3'"),
    ],
)
def test_a_row_of_ptbxls_list_that_cannot_be_meant_is_refused_by_line(tmp_path, old, new, complaint):
    root = write_ptbxl(tmp_path / "tree", 500)
    edit(root / "ptbxl_database.csv", old, new)
    if complaint is None:
        assert len(listing(root).entries) == 6
        return
    with pytest.raises(UsageError, match=rf"ptbxl_database\.csv, line 7: .*{complaint}"):
        listing(root)


def test_a_folder_with_nothing_but_a_zip_says_to_give_that(tmp_path):
    (tmp_path / "ptb-xl.zip").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"no WFDB header .* give ptb-xl\.zip itself"):
        listing(tmp_path)


def test_a_zip_beside_headers_is_named_since_it_is_not_read(tmp_path, caplog):
    write_record(tmp_path / "g1/x", plausible_signal(MIMIC_LEADS))
    (tmp_path / "g2.zip").write_bytes(b"x")
    assert len(listing(tmp_path).entries) == 1
    assert "1 zips such as g2.zip are not read; pack one by giving it itself, or unzip it here" in caplog.text


def test_a_list_that_covers_a_part_is_named_and_never_passed_over(tmp_path):
    write_ptbxl(tmp_path / "all/ptb-xl/1.0.3", 500)
    assert listing(tmp_path / "all").kind == "ptbxl"
    write_record(tmp_path / "all/chapman/x", plausible_signal(MIMIC_LEADS))
    with pytest.raises(UsageError, match=r"ptb-xl/1\.0\.3/ptbxl_database\.csv is the list of a part"):
        listing(tmp_path / "all")
    assert len(listing(tmp_path / "all", kind="wfdb").entries) == 7


def test_a_part_of_ptbxl_is_refused_with_the_place_of_its_list(tmp_path):
    root = write_ptbxl(tmp_path / "ptbxl", 500)
    for part in ("records500", "records500/00000"):
        with pytest.raises(UsageError, match=rf"patients and folds are in {root}/ptbxl_database\.csv"):
            listing(root / part)
    write_record(tmp_path / "ptbxl/mine/x", plausible_signal(MIMIC_LEADS))  # beside it, and none of it
    assert listing(root / "mine").kind == "wfdb"
