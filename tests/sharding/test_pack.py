"""Packing whole sources: what comes out, and that it is the same for any number of workers."""

import csv
import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import wfdb

from lamae.base.errors import LamaeError, UsageError
from lamae.base.leads import LEADS
from lamae.data.reader import RecordReader
from lamae.sharding.format import SPLITS, ShardSet
from lamae.sharding.merge import merge
from lamae.sharding.pack import PackOptions, pack, pack_part, pending_parts, plan
from lamae.sharding.part import is_done
from lamae.sharding.quality import RECORD_FLAGS
from lamae.sharding.verify import verify
from tests.sharding.packing import digests, small
from tests.sharding.wfdbtree import MIMIC_LEADS, plausible_signal, write_record

REAL_SOURCES = ("ptbxl_500hz_first500", "challenge2011_seta_subset", "physionet_challenge_2020_2021")


def test_mimic_tree_becomes_a_sound_shard_set(mimic, tmp_path):
    manifest = pack(mimic, tmp_path / "out", options=small())
    assert (manifest["source"], manifest["num_records"], manifest["num_subjects"]) == ("mimic", 12, 6)
    assert manifest["reconciliation"] == {"expected": 12, "found": 12, "missing": 0, "unlisted": 0, "unused": 0}
    assert manifest["readers"]["fast"] == 12
    assert len(manifest["shards"]) == 3
    shard_set = ShardSet.open(tmp_path / "out")
    assert shard_set.keys == sorted(shard_set.keys)
    for row, key in enumerate(shard_set.keys):
        path = next(mimic.rglob(f"{key}.hea"))
        assert f"p{shard_set.column('subject')[row]}" in path.parts
        digital = wfdb.rdrecord(str(path.with_suffix("")), physical=False).d_signal
        expected = digital[:, [MIMIC_LEADS.index(name) for name in LEADS]].T
        np.testing.assert_array_equal(shard_set.read(row), expected)
    assert (shard_set.column("lead_mask") == 0xFFF).all()
    assert (shard_set.column("gain") == 200).all()
    assert verify(tmp_path / "out").problems == []
    assert not (tmp_path / "out" / ".packing").exists()


def test_bytes_do_not_depend_on_workers_or_place(mimic, tmp_path):
    pack(mimic, tmp_path / "one", options=small(workers=1))
    (tmp_path / "elsewhere").mkdir()
    mimic.rename(tmp_path / "elsewhere" / "moved")
    pack(tmp_path / "elsewhere" / "moved", tmp_path / "two", options=small(workers=2))
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    text = (tmp_path / "one" / "dataset.json").read_text()
    assert str(tmp_path) not in text
    assert "/" not in json.dumps(json.loads(text)["plan"])


def test_statistics_are_those_of_the_samples(mimic, tmp_path):
    signal = plausible_signal(MIMIC_LEADS, seed=99)
    signal[10:60, 0] = -32768
    path = next(mimic.rglob("*.hea")).with_suffix("")
    write_record(path, signal, baseline=-20, gain=100.0)
    pack(mimic, tmp_path / "out", options=small())
    shard_set = ShardSet.open(tmp_path / "out")
    row = shard_set.row_of(path.name)
    valid = signal[:, 0][signal[:, 0] != -32768].astype(float)
    assert shard_set.column("num_missing")[row].tolist() == [50] + [0] * 11
    assert shard_set.column("min_adc")[row, 0] == valid.min()
    assert shard_set.column("max_adc")[row, 0] == valid.max()
    np.testing.assert_allclose(shard_set.column("mean_mv")[row, 0], (valid.mean() + 20) / 100, rtol=1e-5)
    np.testing.assert_allclose(shard_set.column("std_mv")[row, 0], valid.std() / 100, rtol=1e-4)


def test_reconciliation_names_missing_and_unlisted(mimic, tmp_path):
    gone = sorted(mimic.rglob("*.hea"))[0]
    gone.unlink()
    extra = mimic / "files/p1000/p10000999/s49999999/49999999"
    write_record(extra, plausible_signal(MIMIC_LEADS))
    write_record(mimic / "stray", plausible_signal(MIMIC_LEADS))
    manifest = pack(mimic, tmp_path / "out", options=small())
    assert manifest["reconciliation"] == {"expected": 12, "found": 13, "missing": 1, "unlisted": 2, "unused": 1}
    lines = (tmp_path / "out" / "unmatched.csv").read_text().splitlines()
    assert f"{gone.relative_to(mimic).with_suffix('').as_posix()},missing" in lines
    assert "files/p1000/p10000999/s49999999/49999999,unlisted" in lines
    assert "stray,unused" in lines
    assert manifest["num_records"] == 12


def test_a_lead_with_an_offset_of_many_millivolts_is_kept_in_millivolt(tmp_path):
    """wfdb.wrsamp gives every lead a gain and a baseline of its own, and this V2 a baseline beyond 16 bits."""
    v2 = LEADS.index("V2")
    millivolt = plausible_signal(LEADS, seed=3) / 200.0
    millivolt[:, v2] += 12
    units, fmt = ["mV"] * 12, ["16"] * 12
    (tmp_path / "in").mkdir()
    wfdb.wrsamp("a", 500, units, list(LEADS), millivolt, fmt=fmt, write_dir=str(tmp_path / "in"))
    manifest = pack(tmp_path / "in", tmp_path / "out", options=small(split_fractions=[1.0, 0.0, 0.0]))
    assert (manifest["rejects"], manifest["readers"]["wfdb"]) == ({}, 1)
    shard_set = ShardSet.open(tmp_path / "out")
    assert shard_set.column("baseline")[0, v2] < -(1 << 15)
    with tarfile.open(tmp_path / "out/shards/000000.tar") as tar:
        described = json.load(tar.extractfile("a.json"))
    assert described["baseline"] == shard_set.column("baseline")[0].tolist()
    batch = RecordReader(shard_set).read([0])
    mv_LT = (batch.adc[0].float() - batch.baseline[0, :, None]) / batch.gain[0, :, None]
    np.testing.assert_allclose(mv_LT.numpy(), millivolt.T, atol=1e-3)
    assert verify(tmp_path / "out").problems == []


def test_splits_are_by_subject_and_stable_when_files_are_added(mimic, tmp_path):
    pack(mimic, tmp_path / "before", options=small(split_fractions=[0.4, 0.3, 0.3]))
    write_record(mimic / "files/p1999/p19990000/s1/1", plausible_signal(MIMIC_LEADS))
    pack(mimic, tmp_path / "after", options=small(split_fractions=[0.4, 0.3, 0.3]))
    before, after = ShardSet.open(tmp_path / "before"), ShardSet.open(tmp_path / "after")
    assert len(set(before.column("split").tolist())) > 1
    assert before.column("baseline").dtype == np.int16, "32 bits are for a set that needs them"
    for row, key in enumerate(before.keys):
        assert before.column("split")[row] == after.column("split")[after.row_of(key)]


def test_splits_from_a_file_of_folds(mimic, tmp_path):
    with (mimic / "record_list.csv").open() as file:
        rows = list(csv.DictReader(file))
    subjects = sorted({row["subject_id"] for row in rows})
    fold = {subject: {0: 18, 1: 19}.get(number, number) for number, subject in enumerate(subjects)}
    folds = tmp_path / "records_w_diag_icd10.csv"
    folds.write_text("study_id,strat_fold\n" + "".join(f"{r['study_id']},{fold[r['subject_id']]}\n" for r in rows))
    pack(mimic, tmp_path / "out", options=small(splits_from=str(folds)))
    shard_set = ShardSet.open(tmp_path / "out")
    for subject, split in zip(shard_set.column("subject"), shard_set.column("split"), strict=True):
        assert SPLITS[split] == {18: "val", 19: "test"}.get(fold[str(subject)], "train")
    folds.write_text("study_id,strat_fold\n" + "".join(f"{r['study_id']},{n}\n" for n, r in enumerate(rows)))
    with pytest.raises(UsageError, match=r"subject \d+ is in two splits"):
        pack(mimic, tmp_path / "leaky", options=small(splits_from=str(folds)))


def test_records_of_any_directory_have_unique_keys_and_subjects(tmp_path):
    for name in ("a/x.1", "b/x_1", "b/y", "c/y", "z"):
        write_record(tmp_path / "tree" / name, plausible_signal(MIMIC_LEADS))
    manifest = pack(tmp_path / "tree", tmp_path / "out", options=small())
    shard_set = ShardSet.open(tmp_path / "out")
    assert manifest["source"] == "wfdb"
    assert {"a__x_1", "b__x_1", "b__y", "c__y", "z"} == set(shard_set.keys)
    assert shard_set.column("subject").tolist() == [-1, -2, -3, -4, -5]


def test_parts_may_be_packed_in_any_order(mimic, tmp_path):
    pack(mimic, tmp_path / "whole", options=small())
    planned = plan(mimic, tmp_path / "parts", options=small())
    assert pending_parts(planned) == [0, 1, 2]
    with pytest.raises(LamaeError, match="3 of 3 parts are not packed yet"):
        merge(tmp_path / "parts")
    for part in (2, 0, 1):
        pack_part(mimic, tmp_path / "parts", part)
        assert is_done(planned, part)
    merge(tmp_path / "parts")
    pack(mimic, tmp_path / "parts", options=small())
    assert digests(tmp_path / "parts") == digests(tmp_path / "whole")


@pytest.mark.parametrize("folder", REAL_SOURCES)
def test_real_sources_pack_and_verify(real_data, tmp_path, folder):
    manifest = pack(real_data / folder, tmp_path / "out", options=PackOptions(limit=40, shard_size=16))
    assert manifest["num_records"] >= 27
    assert (manifest["rate_hz"], manifest["num_samples"]) == (500.0, 5000)
    assert verify(tmp_path / "out").problems == []
    shard_set = ShardSet.open(tmp_path / "out")
    stems = {path.stem: path.with_suffix("") for path in (real_data / folder).rglob("*.hea")}
    for row in (0, 7, len(shard_set.keys) - 1):
        reference = wfdb.rdrecord(str(stems[shard_set.keys[row]]), physical=False)
        names = [name.casefold() for name in reference.sig_name]
        expected = reference.d_signal[:, [names.index(lead.casefold()) for lead in LEADS]].T
        np.testing.assert_array_equal(shard_set.read(row), expected)


def test_ptbxl_takes_patients_and_folds_from_its_database(real_data, tmp_path):
    pack(real_data / "ptbxl_500hz_first500", tmp_path / "out", options=PackOptions(limit=60))
    with (real_data / "ptbxl_500hz_first500" / "ptbxl_database.csv").open() as file:
        database = {Path(row["filename_hr"]).name: row for row in csv.DictReader(file)}
    shard_set = ShardSet.open(tmp_path / "out")
    for key, subject, split in zip(shard_set.keys, shard_set.column("subject"), shard_set.column("split"), strict=True):
        assert subject == int(float(database[key]["patient_id"]))
        assert SPLITS[split] == {9: "val", 10: "test"}.get(int(database[key]["strat_fold"]), "train")

    pack(real_data / "ptbxl_500hz_first500", tmp_path / "hashed", options=PackOptions(limit=60, source_folds=False))
    assert set(ShardSet.open(tmp_path / "hashed").column("split")) == {0, 1, 2}


def test_identical_waveforms_are_flagged_as_duplicates(mimic, tmp_path):
    paths = [path.with_suffix("") for path in sorted(mimic.rglob("*.hea"))]
    for path in (paths[3], paths[9]):
        write_record(path, plausible_signal(MIMIC_LEADS, seed=77))
    manifest = pack(mimic, tmp_path / "out", options=small())
    shard_set = ShardSet.open(tmp_path / "out")
    flagged = np.flatnonzero(shard_set.column("record_flags") & (1 << RECORD_FLAGS.index("duplicate")))
    assert {shard_set.keys[row] for row in flagged} == {paths[3].name, paths[9].name}
    assert manifest["record_flags"]["duplicate"] == 2


def test_a_cap_leaves_out_the_same_records_whatever_else_is_there(mimic, tmp_path):
    manifest = pack(mimic, tmp_path / "out", options=small(max_per_subject=1))
    assert manifest["num_records"] == manifest["num_subjects"] == 6
    assert manifest["plan"]["num_over_max_per_subject"] == 6
    kept = set(ShardSet.open(tmp_path / "out").keys)
    write_record(mimic / "files/p1999/p19990000/s1/1", plausible_signal(MIMIC_LEADS))
    pack(mimic, tmp_path / "more", options=small(max_per_subject=1))
    assert set(ShardSet.open(tmp_path / "more").keys) == kept | {"1"}


def test_columns_of_a_csv_go_into_the_index_by_record(mimic, tmp_path):
    keys = sorted(path.stem for path in mimic.rglob("*.hea"))
    table = tmp_path / "ages.csv"
    table.write_text("age,study_id,ward\n" + "".join(f"{30 + n},{key},Süd {n}\n" for n, key in enumerate(keys[1:])))
    next(mimic.rglob(f"{keys[4]}.dat")).unlink()
    pack(mimic, tmp_path / "out", options=small(columns_from=str(table)))
    shard_set = ShardSet.open(tmp_path / "out")
    assert shard_set.keys == keys[:4] + keys[5:]
    np.testing.assert_array_equal(shard_set.column("extra/age"), [np.nan, 30, 31, 32, *range(34, 41)])
    assert bytes(shard_set.column("extra/ward")[1]).rstrip(b"\0").decode() == "Süd 0"
    assert verify(tmp_path / "out").problems == []
    table.write_text("age,ward\n1,2\n")
    with pytest.raises(UsageError, match="needs a column key or study_id"):
        pack(mimic, tmp_path / "bad", options=small(columns_from=str(table)))


def test_long_cells_reach_the_index_through_a_fresh_process_too(mimic, tmp_path):
    keys = sorted(path.stem for path in mimic.rglob("*.hea"))
    table = tmp_path / "reports.csv"
    table.write_text("key,report\n" + "".join(f"{key},{'x' * 140_000}\n" for key in keys))
    plan(mimic, tmp_path / "out", options=small(columns_from=str(table)))
    csv.field_size_limit(131_072)  # what a process starts with
    pack_part(mimic, tmp_path / "out", 0)
    pack(mimic, tmp_path / "out", options=small(columns_from=str(table)))
    assert ShardSet.open(tmp_path / "out").column("extra/report").shape == (len(keys), 140_000)


def test_of_each_shard_the_first_of_every_shape_of_header_is_read_by_wfdb_too(mimic, tmp_path):
    names = MIMIC_LEADS[::-1]
    write_record(sorted(mimic.rglob("*.hea"))[7].with_suffix(""), plausible_signal(names), names=names)
    manifest = pack(mimic, tmp_path / "out", options=small(audit=1e-9))
    assert (
        manifest["readers"]["audited"] == 4
    )  # of three shards, and of the one record whose leads are in another order
    assert pack(mimic, tmp_path / "out", options=small(audit=0.5)) == manifest  # stores the same
    assert pack(mimic, tmp_path / "none", options=small(audit=0.0))["readers"]["audited"] == 0


def test_records_without_checksums_or_rate_are_packed_counted_and_said(tmp_path, caplog):
    for seed, name in enumerate(("a", "b", "c")):
        path = write_record(tmp_path / "in" / name, plausible_signal(MIMIC_LEADS, seed=seed), rate_hz=250)
        header = path.with_name(f"{name}.hea")
        text = header.read_text().replace("a 12 250 500", "a 12") if name == "a" else header.read_text()
        header.write_text(re.sub(r" -?\d+ 0 (\S+)\n", r" 0 0 \1\n", text) if name == "b" else text)
    manifest = pack(tmp_path / "in", tmp_path / "out", options=small())
    assert manifest["num_records"] == 3
    assert (manifest["readers"]["unchecked"], manifest["readers"]["no_rate"]) == (1, 1)
    assert "1 records have no checksums in their headers" in caplog.text
    assert "1 records have no sampling frequency in their headers, which means 250 Hz" in caplog.text


def test_limit_takes_the_first_of_the_sorted_listing(mimic, tmp_path):
    pack(mimic, tmp_path / "out", options=small(limit=7))
    assert ShardSet.open(tmp_path / "out").keys == sorted(path.stem for path in mimic.rglob("*.hea"))[:7]
