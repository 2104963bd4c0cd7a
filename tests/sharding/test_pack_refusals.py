"""What packing refuses or rejects, records and whole sources, and what it says of them."""

import json
import multiprocessing
import shutil

import numpy as np
import pytest

from lamae.base.errors import LamaeError, UsageError
from lamae.sharding import recording as recording_module
from lamae.sharding.format import ShardSet
from lamae.sharding.pack import PackOptions, pack, pack_part, plan
from lamae.sharding.verify import verify
from tests.sharding.packing import digests, rejects_of, small
from tests.sharding.wfdbtree import MIMIC_LEADS, plausible_signal, write_record


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
    with pytest.raises(LamaeError, match=r"no record was accepted \(1 no_usable_lead\).*csv\. Pack with other"):
        pack(tmp_path / "tree", tmp_path / "out", options=small())
    with pytest.raises(UsageError, match=r"no dataset\.json"):
        ShardSet.open(tmp_path / "out")


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


@pytest.mark.parametrize("shares", [[float("nan"), 0.5, 0.5], [0.5, 0.5, float("nan")], [0.6, 0.6, -0.2], [0.5, 0.5]])
def test_split_fractions_are_three_shares_of_one(mimic, tmp_path, shares):
    with pytest.raises(UsageError, match=r"split_fractions=.* must be three shares that add up to 1"):
        plan(mimic, tmp_path / "out", options=small(split_fractions=shares))


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


def test_of_a_source_without_patients_every_header_is_compared(tmp_path):
    for number in range(130):  # of which a sample would have every other one
        write_record(tmp_path / "in" / f"{number:03d}", plausible_signal(MIMIC_LEADS, num_samples=50, seed=number))
    options = small(shard_size=130, audit=0.0)
    pack(tmp_path / "in", tmp_path / "out", options=options)
    write_record(tmp_path / "in" / "001", plausible_signal(MIMIC_LEADS, num_samples=50, seed=999))
    with pytest.raises(UsageError, match="the records have other headers"):
        pack(tmp_path / "in", tmp_path / "out", options=options)


def test_a_packing_begun_before_all_headers_were_compared_goes_on(tmp_path):
    for number in range(6):
        write_record(tmp_path / "in" / f"r{number}", plausible_signal(MIMIC_LEADS, seed=number))
    path = plan(tmp_path / "in", tmp_path / "out", options=small()).out / ".packing/plan.json"
    pack_part(tmp_path / "in", tmp_path / "out", 0)
    content = json.loads(path.read_text())
    del content["all_headers_sha256"]
    path.write_text(json.dumps(content))
    assert pack(tmp_path / "in", tmp_path / "out", options=small())["num_records"] == 6


@pytest.mark.parametrize("windows", [{}, {"seconds": 0.2, "windows": "all"}])
def test_a_finished_set_says_which_of_its_rejects_could_be_packed_by_now(tmp_path, caplog, windows):
    for number in range(4):
        write_record(tmp_path / "in" / f"r{number}", plausible_signal(MIMIC_LEADS, seed=number))
    for number in (1, 2):
        (tmp_path / "in" / f"r{number}.dat").rename(tmp_path / f"r{number}.dat")
    pack(tmp_path / "in", tmp_path / "out", options=small(**windows))
    before = digests(tmp_path / "out")
    pack(tmp_path / "in", tmp_path / "out", options=small(**windows))
    assert "could be packed now" not in caplog.text
    (tmp_path / "r2.dat").rename(tmp_path / "in/r2.dat")
    pack(tmp_path / "in", tmp_path / "out", options=small(**windows))
    assert "out: 1 of the records that it rejected could be packed now (r2); it stays without them" in caplog.text
    assert "remove it and run the same command, or choose another output" in caplog.text
    assert digests(tmp_path / "out") == before


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


def test_a_rejected_name_is_no_formula_to_a_spreadsheet_and_no_command_to_a_terminal(tmp_path):
    write_record(tmp_path / "wfdb" / "good", plausible_signal(MIMIC_LEADS))
    for name in ("=1+1", "-x\x1b[2J"):
        (tmp_path / "wfdb" / f"{name}.hea").write_text("no header\n")
    pack(tmp_path / "wfdb", tmp_path / "out", options=small())
    text = (tmp_path / "out" / "rejects.csv").read_text()
    assert "\x1b" not in text
    assert set(rejects_of(tmp_path / "out")) == {"'=1+1", "'-x__2J"}
