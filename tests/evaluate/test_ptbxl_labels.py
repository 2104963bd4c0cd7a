"""PTB-XL's labels: superclasses, statements with their likelihoods, and the codes of the Challenges."""

import csv

import numpy as np
import pytest

from lamae.base.errors import UsageError
from lamae.evaluate.labels.headers import read_headers
from lamae.evaluate.labels.snomed import SCP
from lamae.evaluate.labels.sources import build_labels, detect_source, read_ptbxl
from lamae.evaluate.labels.store import read_labels
from lamae.sharding.format import SPLITS
from tests.shardsets import random_adc, write_shard_set


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
    for key, row, labelled in zip(keys, labels.label_NC, labels.labelled_N, strict=True):
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
    assert labels.label_NC.tolist() == [[0, 1], [1, 1], [1, 0], [0, 0]]
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


@pytest.mark.parametrize(
    ("heading", "row"),
    [
        ("description,,D", "normal,NORM,1"),
        ("Unnamed: 0,description,D", "NORM,normal,1"),
        (",Unnamed: 0,description,D", "0,NORM,normal,1"),
        ("statement,description,D", "NORM,normal,1"),
        (",description,statement,D", "0,normal,NORM,1"),
        ("description,statement,D", "normal,NORM,1"),
    ],
)
def test_ptbxl_statements_are_found_where_pandas_puts_them_or_their_file_is_refused(tmp_path, heading, row):
    shards = write_shard_set(tmp_path / "shards", random_adc(1, 50), keys=["00001_hr"])
    names = "diagnostic,form,rhythm,diagnostic_class,diagnostic_subclass"
    text = f"{heading}\n{row}\n".replace("D\n", f"{names}\n").replace(",1\n", ",1.0,,,NORM,NORM\n")
    (tmp_path / "scp_statements.csv").write_text(text)
    file = tmp_path / "ptbxl_database.csv"
    file.write_text("SCP_codes,Strat_Fold,FILENAME_HR,filename_lr\n\"{'NORM': 80.0}\",1,a/00001_hr,a/00001_lr\n")
    assert detect_source(file) == "ptbxl"
    if row.startswith(("0,normal", "normal,NORM,1")) and heading != "description,,D":
        with pytest.raises(UsageError, match=r"scp_statements\.csv: no SCP statement such as NORM is in its column"):
            build_labels(shards, tmp_path / "l", source="ptbxl", file=file)
        return
    assert build_labels(shards, tmp_path / "l", source="ptbxl", file=file).num_positive == {"NORM": 1}


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
