"""Two processes that write the same at once: a requeued job and its old copy, two terminals."""

import fcntl
import shutil
import subprocess
import sys
import threading
import time

import pytest

from lamae.base import lock
from lamae.base.errors import LamaeError
from lamae.base.files import new_directory
from lamae.base.lock import Lock
from lamae.sharding import merge
from lamae.sharding.pack import PackOptions, pack, pack_part, plan
from tests.sharding.at_once import no_locks
from tests.sharding.packing import digests
from tests.sharding.test_restart import REPOSITORY
from tests.sharding.wfdbtree import write_mimic_tree


@pytest.mark.parametrize(
    ("stage", "times", "locks"), [("merge", 6, 1), ("pack", 8, 1), ("merge", 4, 0), ("pack", 4, 0)]
)
def test_two_packers_and_two_merges_at_once_give_one_whole_set(tmp_path, stage, times, locks):
    write_mimic_tree(tmp_path / "source", num_subjects=4, num_samples=100)
    command = [sys.executable, "-m", "tests.sharding.at_once", str(tmp_path), stage, str(times), str(locks)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("beside", ["no index", "the index of a killed merge"])
def test_a_merge_that_another_overtakes_at_any_line_without_locks_spoils_nothing(tmp_path, monkeypatch, beside):
    write_mimic_tree(tmp_path / "source", num_subjects=4, num_samples=100)
    options = PackOptions(shard_size=3)
    for part in range(plan(tmp_path / "source", tmp_path / "packed", options=options).num_parts):
        pack_part(tmp_path / "source", tmp_path / "packed", part)
    pack(tmp_path / "source", tmp_path / "whole", options=options)
    if beside != "no index":
        (tmp_path / "packed" / "index.zarr").mkdir()
        (tmp_path / "packed" / "index.zarr" / "zarr.json").write_text("of another version")
    monkeypatch.setattr(fcntl, "flock", no_locks)
    watched = [function.__code__ for function in (merge._write_index, merge._merge, merge.finish)]
    passed: set[tuple[object, int]] = set()
    while True:
        overtaken_at = None

        def overtake(frame, event, _):
            nonlocal overtaken_at
            if frame.f_code not in watched:
                return None
            place = (frame.f_code, frame.f_lineno)
            if event == "line" and overtaken_at is None and place not in passed:
                overtaken_at = place
                pack(tmp_path / "source", tmp_path / "out", options=options)
            return overtake

        shutil.copytree(tmp_path / "packed", tmp_path / "out")
        tracing = sys.gettrace()
        sys.settrace(overtake)
        try:
            pack(tmp_path / "source", tmp_path / "out", options=options)
        finally:
            sys.settrace(tracing)
        if overtaken_at is None:
            break
        assert digests(tmp_path / "out") == digests(tmp_path / "whole"), overtaken_at
        passed.add(overtaken_at)
        shutil.rmtree(tmp_path / "out")
    assert len(passed) > 40


def test_who_waits_for_a_lock_is_told_whom_for_and_gets_it_when_its_holder_leaves(tmp_path, monkeypatch):
    holder, waiting = (Lock(tmp_path / "lock", what=tmp_path / "set") for _ in range(2))
    holder.take()
    monkeypatch.setattr(lock, "PATIENCE_S", 0.3)
    with pytest.raises(LamaeError, match=r"set: process \d+ on .* is writing there; wait for it, or end it"):
        waiting.take()
    monkeypatch.setattr(lock, "PATIENCE_S", 20.0)
    threading.Timer(0.5, holder.release).start()
    start = time.monotonic()
    waiting.take()
    assert time.monotonic() - start > 0.3
    waiting.release()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_can_be_shared_and_then_not_be_had_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE_S", 0.2)
    one, other, alone = (Lock(tmp_path / "lock", what=tmp_path) for _ in range(3))
    one.take(shared=True)
    other.take(shared=True)
    one.release()
    with pytest.raises(LamaeError, match="is writing there"):
        alone.take()
    other.release()
    alone.take()


def test_the_second_to_finish_a_directory_takes_nothing_away(tmp_path):
    def write(who):
        with new_directory(tmp_path / "out") as folder:
            (folder / "from").write_text(who)
            if who == "slow":
                write("fast")

    with pytest.raises(FileExistsError):
        write("slow")
    assert (tmp_path / "out" / "from").read_text() == "fast"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
