"""Freed memory stays in the process: what the kernel has to zero again is counted as page faults."""

import os
import subprocess
import sys

import pytest

from lamae.base import allocator

REUSE = """
import resource
import sys
from threading import Thread

import ctypes

from lamae.base.allocator import keep_freed_memory, share_one_arena

ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: a fault is 4 KiB wherever this runs
keep, on_thread, *sizes = map(int, sys.argv[1:])
if keep:
    assert keep_freed_memory()
    assert share_one_arena()


def fill():
    blocks = [b"x" * size for size in sizes]


for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    if on_thread:
        thread = Thread(target=fill)
        thread.start()
        thread.join()
    else:
        fill()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


ONE_THREAD_NO_GPU = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}


def count_faults(*, keep: bool, on_thread: bool, sizes: list[int]) -> int:
    """Page faults of the last of three times that blocks of these sizes are filled and freed."""
    arguments = [str(int(value)) for value in (keep, on_thread, *sizes)]
    run = subprocess.run(
        [sys.executable, "-c", REUSE, *arguments], capture_output=True, text=True, check=True, env=ONE_THREAD_NO_GPU
    )
    return int(run.stdout)


# A thread's own arena holds no block above 64 MiB.
@pytest.mark.parametrize(("on_thread", "sizes"), [(False, [8 << 20] * 12), (True, [80 << 20])])
@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_memory_that_was_freed_is_not_fetched_again(on_thread, sizes):
    kept, returned = (count_faults(keep=keep, on_thread=on_thread, sizes=sizes) for keep in (True, False))
    assert kept < 200 < 5000 < returned


@pytest.mark.parametrize("threads", ["2", None])
def test_threads_that_compute_keep_arenas_of_their_own(threads, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if threads:
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
    monkeypatch.setattr(allocator, "_set", lambda *_: pytest.fail("no setting was to be changed"))
    assert not allocator.share_one_arena()


def test_a_host_of_gpus_keeps_its_arenas(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(allocator, "GPU_FILES", (os.devnull,))
    monkeypatch.setattr(allocator, "_set", lambda *_: True)
    assert not allocator.share_one_arena()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert allocator.share_one_arena()
