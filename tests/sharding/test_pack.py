"""Packing whole sources: what comes out, that it is the same for any number of workers, and what is refused."""

import csv
import hashlib
import json
import multiprocessing
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import wfdb

from lamae.base.errors import LamaeError, UsageError
from lamae.base.leads import LEADS
from lamae.sharding import recording as recording_module
from lamae.sharding.format import SPLITS, ShardSet
from lamae.sharding.merge import merge
from lamae.sharding.pack import PackOptions, pack, pack_part, pending_parts, plan
from lamae.sharding.part import is_done
from lamae.sharding.quality import RECORD_FLAGS
from lamae.sharding.verify import verify
from tests.sharding.wfdbtree import MIMIC_LEADS, plausible_signal, write_mimic_tree, write_record

REAL_SOURCES = ("ptbxl_500hz_first500", "challenge2011_seta_subset", "physionet_challenge_2020_2021")


def small(**options):
    return PackOptions(**{"shard_size": 5, "audit": 0.2} | options)


def digests(root: Path) -> dict[str, str]:
    """sha256 of every file below ``root``."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def rejects_of(out: Path) -> dict[str, str]:
    with (out / "rejects.csv").open() as file:
        return {row["key"]: row["reason"] for row in csv.DictReader(file)}


@pytest.fixture
def mimic(tmp_path):
    root = tmp_path / "mimic"
    write_mimic_tree(root)
    return root


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


def test_bad_records_are_counted_and_listed(mimic, tmp_path):
    paths = [path.with_suffix("") for path in sorted(mimic.rglob("*.hea"))]
    with paths[0].with_suffix(".dat").open("r+b") as file:
        file.truncate(100)
    data = bytearray(paths[1].with_suffix(".dat").read_bytes())
    data[50] ^= 1
    paths[1].with_suffix(".dat").write_bytes(data)
    paths[2].with_suffix(".hea").write_text(f"{paths[2].name} 0 500 500\n")
    write_record(paths[3], plausible_signal(MIMIC_LEADS), rate_hz=250)
    write_record(paths[4], plausible_signal(MIMIC_LEADS, num_samples=400))
    write_record(paths[5], plausible_signal(MIMIC_LEADS), comments=["<subject_id>: 1"])
    write_record(paths[6], np.zeros((500, 12), np.int16))
    paths[7].with_suffix(".dat").unlink()
    manifest = pack(mimic, tmp_path / "out", options=small())
    assert rejects_of(tmp_path / "out") == {
        paths[0].name: "truncated",
        paths[1].name: "checksum",
        paths[2].name: "no_leads",
        paths[3].name: "wrong_rate",
        paths[4].name: "wrong_length",
        paths[5].name: "subject_mismatch",
        paths[6].name: "no_usable_lead",
        paths[7].name: "missing_file",
    }
    assert manifest["rejects"] == dict.fromkeys(sorted(rejects_of(tmp_path / "out").values()), 1)
    assert manifest["num_records"] == 4
    assert verify(tmp_path / "out").problems == []


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


def test_splits_are_by_subject_and_stable_when_files_are_added(mimic, tmp_path):
    pack(mimic, tmp_path / "before", options=small(split_fractions=[0.4, 0.3, 0.3]))
    write_record(mimic / "files/p1999/p19990000/s1/1", plausible_signal(MIMIC_LEADS))
    pack(mimic, tmp_path / "after", options=small(split_fractions=[0.4, 0.3, 0.3]))
    before, after = ShardSet.open(tmp_path / "before"), ShardSet.open(tmp_path / "after")
    assert len(set(before.column("split").tolist())) > 1
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


def test_sources_that_can_never_work_are_refused(tmp_path):
    with pytest.raises(UsageError, match="no such file or directory"):
        pack(tmp_path / "absent", tmp_path / "out", options=small())
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no WFDB header"):
        pack(tmp_path / "empty", tmp_path / "out", options=small())
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="shard_size=0"):
        pack(tmp_path / "empty", tmp_path / "out", options=PackOptions(shard_size=0))


def test_foreign_output_is_refused_and_left_alone(mimic, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("precious")
    with pytest.raises(UsageError, match="not empty"):
        pack(mimic, out, options=small())
    assert digests(out).keys() == {"thesis.tex"}


def test_another_packing_is_refused_with_the_difference(mimic, tmp_path):
    out = tmp_path / "out"
    pack(mimic, out, options=small())
    before = digests(out)
    assert pack(mimic, out, options=small())["num_records"] == 12
    with pytest.raises(UsageError, match=r"options\.shard_size: 5 -> 4"):
        pack(mimic, out, options=small(shard_size=4))
    next(mimic.rglob("*.hea")).unlink()
    with pytest.raises(UsageError, match="listing_sha256"):
        pack(mimic, out, options=small())
    assert digests(out) == before


def test_a_source_without_a_single_good_record_gives_no_shard_set(tmp_path):
    write_record(tmp_path / "tree" / "flat", np.zeros((500, 12), np.int16))
    with pytest.raises(LamaeError, match="no record was accepted \\(1 no_usable_lead\\)"):
        pack(tmp_path / "tree", tmp_path / "out", options=small())
    with pytest.raises(UsageError, match=r"no dataset\.json"):
        ShardSet.open(tmp_path / "out")


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


def test_a_fast_reader_that_is_wrong_stops_the_run_with_the_records_name(mimic, tmp_path, monkeypatch):
    def wrong(header, data, room):
        recording = decode(header, data, room)
        recording.samples[3, 4] += 1
        return recording

    decode = recording_module._decode
    monkeypatch.setattr(recording_module, "_decode", wrong)
    with pytest.raises(LamaeError, match=r"files/p1000/.*: the fast reader and wfdb disagree on samples"):
        pack(mimic, tmp_path / "out", options=small(audit=1.0))
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_of_each_shard_the_first_of_every_shape_of_header_is_read_by_wfdb_too(mimic, tmp_path):
    names = MIMIC_LEADS[::-1]
    write_record(sorted(mimic.rglob("*.hea"))[7].with_suffix(""), plausible_signal(names), names=names)
    manifest = pack(mimic, tmp_path / "out", options=small(audit=1e-9))
    assert (
        manifest["readers"]["audited"] == 4
    )  # of three shards, and of the one record whose leads are in another order
    assert pack(mimic, tmp_path / "out", options=small(audit=0.5)) == manifest  # stores the same
    assert pack(mimic, tmp_path / "none", options=small(audit=0.0))["readers"]["audited"] == 0


def test_a_source_that_vanishes_is_no_shard_of_rejects(mimic, tmp_path):
    plan(mimic, tmp_path / "out", options=small())
    pack_part(mimic, tmp_path / "out", 0)
    shutil.rmtree(mimic / "files")
    with pytest.raises(LamaeError, match="none of the 5 records of shard 1 is there any more"):
        pack_part(mimic, tmp_path / "out", 1)
    assert sorted(path.name for path in (tmp_path / "out" / "shards").iterdir()) == ["000000.tar"]


def test_a_worker_that_is_killed_is_one_line(mimic, tmp_path):
    others = set(multiprocessing.active_children())  # ranks that other tests keep

    def kill_a_worker(stage, done, total):
        if stage == "pack":
            for child in set(multiprocessing.active_children()) - others:
                child.kill()

    with pytest.raises(LamaeError, match="a worker died"):
        pack(mimic, tmp_path / "out", options=small(workers=2, shard_size=1), progress=kill_a_worker)
    pack(mimic, tmp_path / "out", options=small(shard_size=1))
    assert verify(tmp_path / "out").problems == []


def test_a_damaged_tar_that_was_removed_is_packed_again_alone(mimic, tmp_path):
    out = tmp_path / "out"
    pack(mimic, out, options=small())
    before, kept = digests(out), (out / "shards" / "000000.tar").stat().st_mtime_ns
    damaged = out / "shards" / "000001.tar"
    damaged.write_bytes(damaged.read_bytes()[:5000] + b"x" + damaged.read_bytes()[5001:])
    report = verify(out)
    assert report.only_shards
    assert "record" in report.problems[0]
    damaged.unlink()
    pack(mimic, out, options=small())
    assert digests(out) == before
    assert (out / "shards" / "000000.tar").stat().st_mtime_ns == kept
    damaged.unlink()
    for path in mimic.rglob("*.dat"):
        path.unlink()
    with pytest.raises(LamaeError, match=r"000001\.tar: packed again, its bytes are others than dataset\.json says"):
        pack(mimic, out, options=small())
    assert not damaged.exists()


def test_another_source_with_the_same_names_is_told_apart(mimic, tmp_path):
    pack(mimic, tmp_path / "out", options=small())
    record = sorted(mimic.rglob("*.hea"))[3].with_suffix("")
    write_record(record, plausible_signal(MIMIC_LEADS, seed=5), comments=[f"<subject_id>: {record.parts[-3][1:]}"])
    with pytest.raises(UsageError, match="the records have other headers"):
        pack(mimic, tmp_path / "out", options=small())


def test_a_file_keyed_otherwise_is_refused_with_both_kinds_of_keys(mimic, tmp_path):
    table = tmp_path / "folds.csv"
    table.write_text("ecg_id,strat_fold\n17,1\n18,2\n")
    with pytest.raises(UsageError, match=r"column ecg_id \(such as '17'\) is the key .* \(such as '40\d+'\)"):
        pack(mimic, tmp_path / "out", options=small(splits_from=str(table)))
    with pytest.raises(UsageError, match=r"column ecg_id \(such as '17'\) is the key .* \(such as '40\d+'\)"):
        pack(mimic, tmp_path / "out", options=small(columns_from=str(table)))


def test_rejects_say_what_to_look_at_without_python_names(mimic, tmp_path):
    paths = sorted(mimic.rglob("*.hea"))
    paths[0].write_text("not a header at all")
    write_record(paths[1].with_suffix(""), plausible_signal(MIMIC_LEADS), rate_hz=250)
    pack(mimic, tmp_path / "out", options=small())
    text = (tmp_path / "out" / "rejects.csv").read_text()
    assert "bad_header,no WFDB header; it begins with 'not a header at all'" in text
    assert "250 Hz, the shard set has 500; rate_hz=500 (--rate) resamples to it" in text
    assert "Error" not in text


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


def test_a_source_of_which_no_header_gives_a_shape_is_refused_with_the_reason_of_the_first(tmp_path):
    write_record(tmp_path / "in" / "a", plausible_signal(MIMIC_LEADS))
    (tmp_path / "in" / "a.hea").write_text("a/2 12 500 1000\ns1 500\ns2 500\n")
    with pytest.raises(
        UsageError, match=r"none of 1 headers .* the first, a\.hea: unsupported: several segments \(2\)"
    ):
        pack(tmp_path / "in", tmp_path / "out", options=small())


def test_headers_that_the_sample_misses_give_the_shape_where_those_in_it_do_not(tmp_path):
    for number in range(128):  # of which every other header is looked at first
        path = write_record(tmp_path / "in" / f"{number:03d}", plausible_signal(MIMIC_LEADS, num_samples=50))
        if number % 2 == 0:
            path.with_name(f"{path.name}.hea").write_text("nothing\n")
    manifest = pack(tmp_path / "in", tmp_path / "out", options=small(shard_size=128))
    assert (manifest["rate_hz"], manifest["rejects"]) == (500, {"bad_header": 64})


def test_limit_takes_the_first_of_the_sorted_listing(mimic, tmp_path):
    pack(mimic, tmp_path / "out", options=small(limit=7))
    assert ShardSet.open(tmp_path / "out").keys == sorted(path.stem for path in mimic.rglob("*.hea"))[:7]


def test_a_rejected_name_is_no_formula_to_a_spreadsheet_and_no_command_to_a_terminal(tmp_path):
    write_record(tmp_path / "wfdb" / "good", plausible_signal(MIMIC_LEADS))
    for name in ("=1+1", "-x\x1b[2J"):
        (tmp_path / "wfdb" / f"{name}.hea").write_text("no header\n")
    pack(tmp_path / "wfdb", tmp_path / "out", options=small())
    text = (tmp_path / "out" / "rejects.csv").read_text()
    assert "\x1b" not in text
    assert set(rejects_of(tmp_path / "out")) == {"'=1+1", "'-x__2J"}
