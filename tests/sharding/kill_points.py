"""Pack again and again, each time killed by SIGKILL before another operation on the disk; then finish and compare.

Run by test_restart.py in a process of its own, because it forks. Arguments: SOURCE, WORK. Prints the number of kill
points; exits with 1 where a set that was killed and finished differs from one that never was.
"""

import os
import random
import re
import shutil
import signal
import sys
from pathlib import Path

import zarr  # imported before the forks, which then start in no time

from lamae.sharding.pack import PackOptions, pack
from tests.sharding.packing import digests

OPTIONS = PackOptions(shard_size=3)


def watch_operations(log: Path, *, kill_before: int | None) -> None:
    """Log every sync, rename, mkdir and unlink of this process; die just before the ``kill_before``-th."""
    count = 0
    file = log.open("w")
    originals = {name: getattr(os, name) for name in ("fsync", "replace", "rename", "mkdir", "unlink", "rmdir")}
    for name, original in originals.items():

        def wrapped(*args, name=name, original=original, **kwargs):
            nonlocal count
            if count == kill_before:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
            print(name, *args, file=file, flush=True)
            return original(*args, **kwargs)

        setattr(os, name, wrapped)


def pack_in_child(source: Path, out: Path, *, kill_before: int | None = None) -> list[str]:
    """Pack in a forked child that may be killed; returns the operations it lived to do."""
    log = out.with_suffix(".log")
    child = os.fork()
    if child == 0:
        watch_operations(log, kill_before=kill_before)
        pack(source, out, options=OPTIONS)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status == 0 or (os.WIFSIGNALED(status) and kill_before is not None), "packing failed by itself"
    return log.read_text().splitlines()


def chosen_points(operations: list[str]) -> list[int]:
    """Every rename that packing itself does, and a sample of the syncs, mkdirs and unlinks."""
    renames = [
        n for n, line in enumerate(operations) if line.startswith("re") and not re.search(r"index\.zarr\S*/", line)
    ]
    others = sorted(set(range(len(operations))) - set(renames))
    return sorted({*renames, *random.Random(0).sample(others, 8)})


def main(source: Path, work: Path) -> int:
    assert zarr.__version__
    operations = pack_in_child(source, work / "whole")
    expected = digests(work / "whole")
    points = chosen_points(operations)
    for point in points:
        out = work / "killed"
        shutil.rmtree(out, ignore_errors=True)
        pack_in_child(source, out, kill_before=point)
        if (out / "dataset.json").is_file() and not expected.items() <= digests(out).items():
            print(f"killed before {operations[point]}: looks complete and is not")
            return 1
        pack_in_child(source, out)
        if digests(out) != expected:
            print(f"killed before {operations[point]}: another result")
            return 1
    print(len(points))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
