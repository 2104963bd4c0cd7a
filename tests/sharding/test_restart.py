"""Packing that is killed, or runs out of disk, goes on where it was and ends with the same bytes."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lamae.base.errors import LamaeError
from lamae.sharding.pack import PackOptions, pack, pack_part, plan
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
def test_files_that_are_fetched_before_the_set_is_finished_are_in_it(tmp_path, workers):
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
    pack(source, out, options=PackOptions(shard_size=3, workers=workers))
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
