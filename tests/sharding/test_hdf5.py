"""CODE-15 % as it is published, HDF5 and exams.csv: packed like WFDB records, by patient, every exam accounted for."""

import csv
import errno
import os
import shutil
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from lamae.base.errors import LamaeError, UsageError
from lamae.sharding.format import NO_SAMPLE, ShardSet
from lamae.sharding.pack import PackOptions, pack, pack_part, plan
from lamae.sharding.verify import verify
from tests.sharding.packing import digests
from tests.sharding.wfdbtree import plausible_signal

LEADS = ("I", "II", "III", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6")
LENGTH = 4096
OPTIONS = {"shard_size": 3, "audit": 1.0}


def tracing(exam: int) -> np.ndarray:
    """float32 [4096, 12] in millivolt; exams with an even number last 7 s and are filled up with zeros around."""
    length = 2800 if exam % 2 == 0 else LENGTH
    values = np.zeros((LENGTH, 12), np.float32)
    begin = (LENGTH - length) // 2
    values[begin : begin + length] = plausible_signal(LEADS, num_samples=length, seed=exam, gain=1000) / 1000
    return values


def write_part(path: Path, exams: list[int], tracings: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["exam_id"] = exams
        file["tracings"] = np.stack([tracing(exam) for exam in exams]) if tracings is None else tracings


def write_code15(root: Path) -> Path:
    """Eight exams of four patients in two parts, each of which ends with a filler row as the published ones do."""
    rows = [["exam_id", "age", "is_male", "AF", "patient_id", "trace_file"]]
    for part, exams in enumerate(([1169160, 77, 2873686, 168405], [271011, 384368, 590673, 99])):
        filled = np.stack([*map(tracing, exams), np.zeros((LENGTH, 12), np.float32)])
        write_part(root / f"exams_part{part}.hdf5", [*exams, 0], filled)
        rows += [[exam, 60, True, exam == 77, 500 + n, f"exams_part{part}.hdf5"] for n, exam in enumerate(exams)]
    with (root / "exams.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return root


@pytest.fixture
def code15(tmp_path):
    return write_code15(tmp_path / "code15")


def rejects_of(out: Path) -> dict[str, tuple[str, str]]:
    with (out / "rejects.csv").open() as file:
        return {row["key"]: (row["reason"], row["detail"]) for row in csv.DictReader(file)}


def test_exams_are_packed_in_microvolt_with_their_patients_and_without_what_fills_them_up(code15, tmp_path):
    manifest = pack(code15, tmp_path / "out", options=PackOptions(**OPTIONS))
    assert (manifest["source"], manifest["num_records"], manifest["num_subjects"]) == ("code15", 8, 4)
    assert manifest["reconciliation"] == {"expected": 8, "found": 10, "missing": 0, "unlisted": 2, "unused": 2}
    assert (manifest["readers"]["audited"], manifest["readers"]["padded"]) == (8, 3)
    shards = ShardSet.open(tmp_path / "out")
    assert (shards.rate_hz, shards.num_samples) == (400, LENGTH)
    assert manifest["plan"]["patients"]["note"] == "splits by patient"
    for row, key in enumerate(shards.keys):
        expected = np.rint(tracing(int(key)) * 1000).T
        if int(key) % 2 == 0:
            expected[:, :648] = expected[:, -648:] = NO_SAMPLE
        np.testing.assert_array_equal(shards.read(row), expected)
    assert dict(zip(shards.keys, shards.column("subject"), strict=True))["590673"] == 502
    assert (shards.column("gain") == 1000).all()
    assert verify(tmp_path / "out").problems == []


def test_any_number_of_workers_a_restart_and_parts_in_folders_give_the_same_bytes(code15, tmp_path):
    pack(code15, tmp_path / "one", options=PackOptions(**OPTIONS))
    pack(code15, tmp_path / "two", options=PackOptions(workers=2, **OPTIONS))
    plan(code15, tmp_path / "again", options=PackOptions(**OPTIONS))
    pack_part(code15, tmp_path / "again", 1)
    pack(code15, tmp_path / "again", options=PackOptions(**OPTIONS))
    (code15 / "unzipped").mkdir()
    (code15 / "exams_part1.hdf5").rename(code15 / "unzipped/exams_part1.hdf5")
    pack(code15, tmp_path / "moved", options=PackOptions(**OPTIONS))
    assert digests(tmp_path / "one") == digests(tmp_path / "two") == digests(tmp_path / "again")
    assert digests(tmp_path / "one") == digests(tmp_path / "moved")


def test_windows_and_another_rate_work_as_for_any_records(code15, tmp_path):
    options = PackOptions(rate_hz=500, seconds=5, windows="all", **OPTIONS)
    pack(code15, tmp_path / "out", options=options)
    shards = ShardSet.open(tmp_path / "out")
    assert shards.num_samples == 2500
    assert shards.keys[:3] == ["1169160#0000", "168405#0000", "168405#0001"]  # of 7 s and of 10.24 s
    assert shards.column("extra/window_start_s")[:3].tolist() == [1.62, 0, 5]


def test_nan_is_no_sample_and_what_16_bits_do_not_hold_rejects_its_exam_alone(code15, tmp_path):
    with h5py.File(code15 / "exams_part0.hdf5", "a") as file:
        file["tracings"][1, 1000:1100, 3] = np.nan
        file["tracings"][2, 2000, 1] = 32.768
        file["tracings"][3, 2000, 8] = -np.inf
    pack(code15, tmp_path / "out", options=PackOptions(**OPTIONS))
    shards = ShardSet.open(tmp_path / "out")
    samples = shards.read(shards.keys.index("77"))
    assert (samples[3, 1000:1100] == NO_SAMPLE).all()
    assert np.count_nonzero(samples == NO_SAMPLE) == 100
    rejects = rejects_of(tmp_path / "out")
    assert {key: reason for key, (reason, _) in rejects.items()} == {"2873686": "not_16_bit", "168405": "not_16_bit"}
    assert "lead DII reaches 32.768 mV" in rejects["2873686"][1]
    assert "lead V3 reaches inf mV" in rejects["168405"][1]


def test_exams_of_parts_that_are_not_there_are_missing_by_name(code15, tmp_path):
    (code15 / "exams_part1.hdf5").unlink()
    manifest = pack(code15, tmp_path / "out", options=PackOptions(**OPTIONS))
    assert manifest["reconciliation"] == {"expected": 8, "found": 5, "missing": 4, "unlisted": 1, "unused": 1}
    assert "exams_part1/271011,missing" in (tmp_path / "out/unmatched.csv").read_text()


def cut(root: Path) -> None:
    os.truncate(root / "exams_part1.hdf5", 500_000)


def no_list(root: Path) -> None:
    (root / "exams.csv").unlink()


def foreign_list(root: Path) -> None:
    (root / "exams.csv").write_text("exam_id,patient_id\n5,6\n")


def other_patient(root: Path) -> None:
    with (root / "exams.csv").open("a") as file:
        file.write("77,60,True,True,999,exams_part0.hdf5\n")


def twice(root: Path) -> None:
    shutil.copy(root / "exams_part1.hdf5", root / "exams_part2.hdf5")


def same_name(root: Path) -> None:
    (root / "copy").mkdir()
    shutil.copy(root / "exams_part1.hdf5", root / "copy")


def no_ids(root: Path) -> None:
    with h5py.File(root / "exams_part1.hdf5", "a") as file:
        del file["exam_id"]


def one_id_less(root: Path) -> None:
    write_part(root / "exams_part1.hdf5", [271011], np.zeros((2, LENGTH, 12), np.float32))


def whole_numbers(root: Path) -> None:
    write_part(root / "exams_part1.hdf5", [271011], np.zeros((1, LENGTH, 12), np.int16))


def leads_first(root: Path) -> None:
    write_part(root / "exams_part1.hdf5", [271011], np.zeros((1, 12, LENGTH), np.float32))


def pipe(root: Path) -> None:
    os.mkfifo(root / "exams_part2.hdf5")


def link_to_nowhere(root: Path) -> None:
    (root / "exams_part2.hdf5").symlink_to(root / "nowhere")


def records_too(root: Path) -> None:
    (root / "wfdb").mkdir()
    (root / "wfdb/1.hea").write_text("1 0\n")


def zipped(root: Path) -> None:
    for path in root.glob("*.hdf5"):
        path.rename(path.with_suffix(".zip"))


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (cut, r"exams_part1\.hdf5: not readable as HDF5 \(.*truncated file.*\); fetch it again"),
        (no_list, r"no exams\.csv beside exams_part0\.hdf5"),
        (foreign_list, r"exams\.csv: lists none of the 10 exams"),
        (other_patient, r"exams\.csv, line 10: exam_id '77' a second time"),
        (twice, "exam 271011 is in exams_part1 and a second time in exams_part2"),
        (same_name, r"copy/exams_part1\.hdf5 and .*/exams_part1\.hdf5 have one name"),
        (no_ids, r"exams_part1\.hdf5: no dataset exam_id"),
        (one_id_less, r"exams_part1\.hdf5: exam_id is int64 \[1\] and tracings float32 \[2, 4096, 12\]; expected"),
        (whole_numbers, r"tracings int16 \[1, 4096, 12\]; expected .* millivolt as floats"),
        (leads_first, r"tracings float32 \[1, 12, 4096\]; expected"),
        (pipe, r"exams_part2\.hdf5: no regular file; fetch it again"),
        (link_to_nowhere, r"exams_part2\.hdf5: no regular file; fetch it again"),
        (records_too, r"wfdb/1\.hea, and CODE-15 % in HDF5 .* --source code15 or wfdb"),
        (zipped, r"of CODE-15 %, unzip exams_part0\.zip and the others"),
    ],
)
def test_what_cannot_be_packed_is_refused_in_one_line_that_names_it(code15, tmp_path, damage, complaint):
    damage(code15)
    with pytest.raises(UsageError, match=complaint) as refusal:
        plan(code15, tmp_path / "out", options=PackOptions())
    assert "\n" not in str(refusal.value)


def test_hdf5_in_a_zip_is_refused_with_what_to_do(code15, tmp_path):
    with zipfile.ZipFile(tmp_path / "exams_part0.zip", "w") as archive:
        archive.write(code15 / "exams_part0.hdf5", "exams_part0.hdf5")
    with pytest.raises(UsageError, match=r"unzip it into the folder of exams\.csv"):
        plan(tmp_path / "exams_part0.zip", tmp_path / "out", options=PackOptions())


def test_without_h5py_the_command_says_what_to_install(code15, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UsageError, match=r"pip install 'lamae\[hdf5\]'"):
        plan(code15, tmp_path / "out", options=PackOptions())


def test_a_damaged_exam_is_rejected_and_a_disk_that_fails_ends_the_run(code15, tmp_path, monkeypatch):
    path = code15 / "exams_part0.hdf5"
    with h5py.File(path, "a") as file:
        values = file["tracings"][()]
        del file["tracings"]
        file.create_dataset("tracings", data=values, chunks=(1, LENGTH, 12), compression="gzip")
        place = file["tracings"].id.get_chunk_info(1)
    with path.open("r+b") as file:
        file.seek(place.byte_offset + 50)
        file.write(bytes(1000))
    pack(code15, tmp_path / "out", options=PackOptions(**OPTIONS))
    ((key, (reason, detail)),) = rejects_of(tmp_path / "out").items()
    assert (key, reason) == ("77", "unreadable")
    assert "exams_part0/77" in detail
    assert "not readable as HDF5" in detail
    plan(code15, tmp_path / "later", options=PackOptions(**OPTIONS))

    def fails(dataset: h5py.Dataset, place: object) -> None:
        raise OSError(errno.EIO, "Can't synchronously read data")

    original = h5py.Dataset.__getitem__
    monkeypatch.setattr(h5py.Dataset, "__getitem__", lambda d, place: (fails if d.ndim == 3 else original)(d, place))
    with pytest.raises(LamaeError, match=r"cannot be read \(Input/output error\), which may pass"):
        pack_part(code15, tmp_path / "later", 0)
