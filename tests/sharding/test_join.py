"""A CSV beside the records: its ids are known in any spelling, and where it fits only some records that is said."""

import csv

import numpy as np
import pytest

from lamae.base.errors import UsageError
from lamae.reports.datacard import write_card
from lamae.sharding.format import ShardSet
from lamae.sharding.keys import RecordNames
from lamae.sharding.options import PackOptions
from lamae.sharding.pack import pack, plan
from tests.sharding.wfdbtree import MIMIC_LEADS, plausible_signal, write_record


def write_tree(root, *names: str):
    for number, name in enumerate(names):
        write_record(root / name, plausible_signal(MIMIC_LEADS, seed=number), comments=[f"Patient ID: {number}"])
    return root


def splits_in(planned):
    return {entry.key: entry.split for part in range(planned.num_parts) for entry in planned.entries(part)}


@pytest.mark.parametrize(
    ("text", "keys", "found"),
    [
        ("1e3", ["1e3", "1000"], "1e3"),
        (" 007 ", ["007", "7"], "007"),
        ("007.0", ["7"], "7"),
        ("a.0", ["a"], None),
        ("1.0", ["00001_hr", "00002_hr"], "00001_hr"),  # PTB-XL's ecg_id
        ("17", ["00017_lr"], "00017_lr"),
        ("9990", ["09990", "10009"], "09990"),
        ("7.0", ["00007", "12"], "00007"),
        ("7", ["07", "007"], None),
        ("files/p10/s7/7", ["7", "8"], "7"),
        ("records500/00000/00001_hr.dat", ["00001_hr"], "00001_hr"),
        ("data/a/r0", ["a__r0", "b__r0"], "a__r0"),
        ("c/r0", ["a__r0", "b__r0"], None),
        ("r0", ["a__r0", "b__r0"], None),
        ("visit.1", ["visit_1"], "visit_1"),
        ("", ["a"], None),
    ],
)
def test_a_cell_means_the_one_record_that_it_spells(text, keys, found):
    assert RecordNames(keys).find(text) == found


def test_a_path_is_of_no_record_of_another_folder():
    names = RecordNames(["r4"], {"r4": "a/r4"})
    assert [names.find(text) for text in ("a/r4", "all/a/r4.hea", "r4.hea", "c/r4")] == ["r4", "r4", "r4", None]


def test_ids_that_pandas_wrote_without_leading_zeros_are_those_of_the_records(tmp_path):
    ids = range(9990, 10010)
    tree = write_tree(tmp_path / "tree", *(f"{number:05d}" for number in ids))
    table = tmp_path / "table.csv"
    table.write_text("record,strat_fold,age\n" + "".join(f"{n},{1 + n % 10},{n - 9950}\n" for n in ids))
    manifest = pack(tree, tmp_path / "out", options=PackOptions(splits_from=str(table), columns_from=str(table)))
    shard_set = ShardSet.open(tmp_path / "out")
    assert shard_set.column("split").tolist() == [{8: 1, 9: 2}.get(int(key) % 10, 0) for key in shard_set.keys]
    np.testing.assert_array_equal(shard_set.column("extra/age"), [n - 9950 for n in ids])
    assert "partly_named" not in manifest["plan"]


def test_a_file_that_names_only_some_records_is_packed_and_log_plan_manifest_and_card_say_so(tmp_path, caplog):
    tree = write_tree(tmp_path / "tree", "a/r0", "b/r0", *(f"a/r{n}" for n in range(1, 7)))
    folds, ages = tmp_path / "folds.csv", tmp_path / "ages.csv"
    folds.write_text("record,split\n" + "".join(f"r{n},test\n" for n in range(7)))
    ages.write_text("record,age\nr1,1\nr2,2\nr3,3\nr4,4\n")
    options = PackOptions(splits_from=str(folds), columns_from=str(ages), split_fractions=[1, 0, 0])
    words = "folds for 6 of 8 records; columns for 4 of 8 records"
    assert dict(plan(tree, tmp_path / "out", options=options).overview)["tables"] == words
    assert f"{folds}: folds for 6 of 8 records; not for a__r0, b__r0: the others follow their subject" in caplog.text
    assert f"{ages}: columns for 4 of 8 records; not for a__r0, b__r0, r5, and 1 more: the others" in caplog.text
    manifest = pack(tree, tmp_path / "out", options=options)
    assert manifest["plan"]["partly_named"] == words.split("; ")
    assert manifest["splits"]["test"]["records"] == 6
    write_card(tmp_path / "out", tmp_path / "card.html", examples=False)
    assert words in (tmp_path / "card.html").read_text()
    assert pack(tree, tmp_path / "out", options=options) == manifest


@pytest.mark.parametrize("option", ["splits_from", "columns_from"])
def test_a_file_that_names_less_than_half_of_the_records_is_refused_unless_that_is_allowed(tmp_path, option):
    tree = write_tree(tmp_path / "tree", *(f"{folder}/r{n}" for folder in "ab" for n in range(4)), "a/r4", "a/r5")
    table = tmp_path / "table.csv"
    table.write_text("record,split\n" + "".join(f"r{n},test\n" for n in range(6)))
    options = PackOptions(**{option: str(table)})
    with pytest.raises(
        UsageError, match=r"for 2 of 10 records; not for a__r0, a__r1, a__r2, and 5 more; .*allow_unnamed=true"
    ):
        plan(tree, tmp_path / "out", options=options)
    options.allow_unnamed = True
    assert "2 of 10" in plan(tree, tmp_path / "out", options=options).content["partly_named"][0]


def test_a_file_has_to_name_the_records_that_are_packed_and_no_others(tmp_path):
    tree = write_tree(tmp_path / "tree", *(f"r{n}" for n in range(9)))
    (tmp_path / "folds.csv").write_text("key,split\nr0,test\nr1,val\n")
    options = PackOptions(splits_from=str(tmp_path / "folds.csv"), limit=2)
    planned = plan(tree, tmp_path / "out", options=options)
    assert splits_in(planned) == {"r0": 2, "r1": 1}
    assert "partly_named" not in planned.content


def test_the_sources_own_folds_stay_for_records_that_the_file_does_not_name(real_data, tmp_path):
    source = real_data / "ptbxl_500hz_first500"
    own = splits_in(plan(source, tmp_path / "own", options=PackOptions()))
    with (source / "ptbxl_database.csv").open() as file:
        patient = {f"{int(row['ecg_id']):05d}_hr": row["patient_id"] for row in csv.DictReader(file)}
    moved = next(key for key, split in own.items() if split == 0)
    (tmp_path / "one.csv").write_text(f"ecg_id,split\n{int(moved[:5])},test\n")
    options = PackOptions(splits_from=str(tmp_path / "one.csv"), allow_unnamed=True)
    planned = plan(source, tmp_path / "one", options=options)
    of_the_patient = {key: 2 for key in own if patient[key] == patient[moved]}
    assert splits_in(planned) == own | of_the_patient
    assert planned.content["partly_named"] == [f"folds for 1 of {len(own)} records"]
