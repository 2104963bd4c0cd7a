"""Freed memory stays in the process: what the kernel has to zero again is counted as page faults."""

import subprocess
import sys

import pytest

REUSE = """
import resource
import sys

import numpy as np

from lamae.allocator import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    arrays = [np.ones(2**20) for _ in range(12)]
    del arrays
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def count_faults(mode: str) -> int:
    """Page faults of the second time that 96 MiB are filled and freed."""
    run = subprocess.run([sys.executable, "-c", REUSE, mode], capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_memory_that_was_freed_is_not_fetched_again():
    assert count_faults("keep") < 100 < count_faults("return")
