"""Two processes do the same at the same moment, again and again; every time both must end well, with the same bytes.

Run by test_at_once.py in a process of its own, because it forks. Arguments: WORK, STAGE (pack from nothing, or merge
what is packed), TIMES, and 0 for a file system that knows no locks.
"""

import errno
import fcntl
import os
import shutil
import sys
import time
from pathlib import Path

import zarr  # imported before the forks, which then start in no time

from lamae.sharding.pack import PackOptions, pack, pack_part, plan
from tests.sharding.packing import digests

OPTIONS = PackOptions(shard_size=3)


def both(action) -> list[int]:
    """Exit statuses of two forked processes that begin ``action`` at one time."""
    start = time.monotonic() + 0.05
    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            while time.monotonic() < start:
                pass
            action()
            os._exit(0)
        children.append(child)
    return [os.waitpid(child, 0)[1] for child in children]


def no_locks(*_) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


def main(work: Path, stage: str, times: int) -> int:
    assert zarr.__version__
    source, out = work / "source", work / "out"
    if stage == "merge":
        for part in range(plan(source, work / "packed", options=OPTIONS).num_parts):
            pack_part(source, work / "packed", part)
    child = os.fork()  # what zarr starts must not be there before a fork
    if child == 0:
        pack(source, work / "whole", options=OPTIONS)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    expected = digests(work / "whole")
    for _ in range(times):
        shutil.rmtree(out, ignore_errors=True)
        if stage == "merge":
            shutil.copytree(work / "packed", out)
        statuses = both(lambda: pack(source, out, options=OPTIONS))
        found = digests(out)
        if statuses != [0, 0] or found != expected:
            print(f"{stage}: exit statuses {statuses}, other files: {sorted(found.items() ^ expected.items())}")
            return 1
    return 0


if __name__ == "__main__":
    if sys.argv[4] == "0":
        fcntl.flock = no_locks
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
