"""Packing that is killed, or runs out of disk, goes on where it was and ends with the same bytes."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lamae.base.errors import LamaeError, UsageError
from lamae.sharding.pack import PackOptions, merge, pack, pack_part, plan
from lamae.sharding.part import forget_damaged, is_done, is_settled
from lamae.sharding.verify import verify
from tests.sharding.packing import digests
from tests.sharding.wfdbtree import MIMIC_LEADS, plausible_signal, write_mimic_tree, write_record

REPOSITORY = Path(__file__).resolve().parents[2]


def start(*arguments: str, code: str | None = None) -> subprocess.Popen:
    command = [sys.executable, *(["-c", code] if code else []), *arguments]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("restart") / "mimic"
    write_mimic_tree(root, num_subjects=4, num_samples=100)
    return root


def test_killed_before_any_operation_on_the_disk_and_started_again(source, tmp_path):
    process = start("-m", "tests.sharding.kill_points", str(source), str(tmp_path))
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err
    assert int(out) >= 12


def test_killed_at_random_with_workers(tmp_path):
    write_mimic_tree(tmp_path / "source", num_subjects=100, num_samples=1000)
    pack(tmp_path / "source", tmp_path / "whole", options=PackOptions(shard_size=10))
    code = (
        "import sys; from pathlib import Path; from lamae.sharding.pack import PackOptions, pack\n"
        "if __name__ == '__main__':\n"
        "    pack(Path(sys.argv[1]), Path(sys.argv[2]), options=PackOptions(shard_size=10, workers=2))\n"
    )
    arguments = (str(tmp_path / "source"), str(tmp_path / "out"))
    chance = random.Random(5)
    for _ in range(2):
        process = start(*arguments, code=code)
        time.sleep(chance.uniform(0.4, 1.2))
        process.send_signal(signal.SIGKILL)  # only the owner: its workers must not outlive it for long
        process.communicate(timeout=30)  # returns once they have let go of the pipes too
        assert not (tmp_path / "out" / "dataset.json").exists() or verify(tmp_path / "out").problems == []
    process = start(*arguments, code=code)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")


def test_full_disk_is_one_line_and_the_same_command_goes_on(source, tmp_path):
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from lamae.base.errors import LamaeError; from lamae.sharding.pack import PackOptions, pack\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))\n"
        "try: pack(Path(sys.argv[1]), Path(sys.argv[2]), options=PackOptions(shard_size=3))\n"
        "except LamaeError as error: print(error)\n"
    )
    process = start(str(source), str(tmp_path / "out"), code=code)
    out, err = process.communicate(timeout=60)
    assert "cannot write shard 0" in out, err
    assert "run the same command again to go on" in out
    assert not (tmp_path / "out" / "dataset.json").exists()
    assert os.listdir(tmp_path / "out" / "shards") == []
    pack(source, tmp_path / "out", options=PackOptions(shard_size=3))
    assert verify(tmp_path / "out").problems == []


def test_a_tar_that_lost_its_bytes_is_packed_again(source, tmp_path):
    options = PackOptions(shard_size=3)
    pack(source, tmp_path / "whole", options=options)
    planned = plan(source, tmp_path / "out", options=options)
    for part in range(2):
        pack_part(source, tmp_path / "out", part)
    tar = tmp_path / "out" / "shards" / "000001.tar"
    tar.write_bytes(bytes(tar.stat().st_size))  # what a power failure leaves: a file of zeros of the right size
    planned.part_path(0).write_bytes(b"")
    pack(source, tmp_path / "out", options=options)
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")


@pytest.mark.parametrize("workers", [1, 2])
def test_files_that_are_fetched_before_the_set_is_finished_are_in_it(tmp_path, caplog, workers):
    source, out, options = tmp_path / "in", tmp_path / "out", PackOptions(shard_size=3)
    for number in range(7):
        write_record(source / f"r{number}", plausible_signal(MIMIC_LEADS, seed=number))
    pack(source, tmp_path / "whole", options=options)
    for number in (1, 5):
        (source / f"r{number}.dat").rename(tmp_path / f"r{number}.dat")
    planned = plan(source, out, options=options)
    for part in (0, 1):
        pack_part(source, out, part)
    before = planned.part_path(1).stat().st_mtime_ns
    pack_part(source, out, 1)
    assert planned.part_path(1).stat().st_mtime_ns == before, "what is still missing is no reason to pack it again"
    for number in (1, 5):
        (tmp_path / f"r{number}.dat").rename(source / f"r{number}.dat")
    pack_part(source, out, 1)
    with caplog.at_level("INFO"):
        pack(source, out, options=PackOptions(shard_size=3, workers=workers))
    assert "going on; 2 of 3 shards are packed" in caplog.text, "of which one is looked at again"
    assert digests(out) == digests(tmp_path / "whole")


def test_a_set_of_which_every_file_was_missing_is_packed_by_the_same_command_once_they_are_there(tmp_path):
    source, out, options = tmp_path / "in", tmp_path / "out", PackOptions(shard_size=3)
    for number in range(4):
        write_record(source / f"r{number}", plausible_signal(MIMIC_LEADS, seed=number))
        (source / f"r{number}.dat").rename(tmp_path / f"r{number}.dat")
    for _ in range(2):
        with pytest.raises(LamaeError, match=r"no record was accepted \(4 missing_file\).*Run the same command again"):
            pack(source, out, options=options)
    for number in range(4):
        (tmp_path / f"r{number}.dat").rename(source / f"r{number}.dat")
    assert pack(source, out, options=options)["num_records"] == 4
    assert verify(out).problems == []


@pytest.fixture
def lacking(tmp_path):
    """Source, output and plan of two packed shards, of whose first r1.dat was missing and lies beside the source."""
    source, out = tmp_path / "in", tmp_path / "out"
    for number in range(5):
        write_record(source / f"r{number}", plausible_signal(MIMIC_LEADS, seed=number))
    (source / "r1.dat").rename(tmp_path / "r1.dat")
    planned = plan(source, out, options=PackOptions(shard_size=3))
    for part in (0, 1):
        pack_part(source, out, part)
    return source, out, planned


@pytest.mark.parametrize("lost", [(), (1,)])
def test_a_shard_of_a_finished_set_is_not_packed_again_for_files_that_are_fetched_later(lacking, tmp_path, lost):
    source, out, _ = lacking
    merge(out)
    (tmp_path / "r1.dat").rename(source / "r1.dat")
    for part in lost:
        (out / "shards" / f"{part:06d}.tar").unlink()
    for part in (0, 1):
        pack_part(source, out, part)
    assert verify(out).problems == []
    assert pack(source, out, options=PackOptions(shard_size=3))["num_records"] == 4


def test_a_finished_shard_is_kept_where_packing_it_again_is_refused_for_its_headers(lacking, tmp_path):
    source, out, planned = lacking
    shutil.copytree(source, tmp_path / "copy")
    (tmp_path / "r1.dat").rename(tmp_path / "copy" / "r1.dat")
    write_record(tmp_path / "copy" / "r0", plausible_signal(MIMIC_LEADS, seed=99))
    before = digests(out)
    with pytest.raises(UsageError, match=r"r0\.hea, of shard 0, is not what it was"):
        pack_part(tmp_path / "copy", out, 0)
    assert is_done(planned, 0)
    assert digests(out) == before


@pytest.mark.parametrize("gone", [["r1"], ["r0", "r1", "r2"]])
def test_a_finished_shard_is_kept_where_headers_are_gone(lacking, gone):
    source, out, planned = lacking
    before = digests(out)
    for name in gone:
        (source / f"{name}.hea").unlink()
    pack_part(source, out, 0)
    assert is_done(planned, 0)
    assert digests(out) == before


def test_a_report_that_another_process_removes_is_that_of_a_shard_that_is_not_done(lacking, monkeypatch):
    _, _, planned = lacking
    forget_damaged(planned, 0)
    assert is_done(planned, 0)
    assert not is_settled(planned, 0)
    tar = planned.out / "shards" / "000000.tar"
    monkeypatch.setattr("lamae.sharding.part.is_whole", lambda path, report: tar.unlink() or tar.open())
    forget_damaged(planned, 0)
    assert not planned.part_path(0).exists()
    forget_damaged(planned, 0)
    assert not is_settled(planned, 0)
