"""The gate on what the kernels take on a GPU, which needs none: they are compiled ahead of time."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="the extra 'triton' is not installed")


def test_the_kernels_compile_for_both_architectures_within_their_limits(tmp_path: Path):
    """In a process of its own, free of the interpreter; the fresh cache makes sure that it compiles."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, "-m", "lamae.kernels.resources"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    for build in ("forward | sm_80", "backward | sm_80", "forward | sm_90", "backward | sm_90"):
        assert build in run.stderr


def test_spills_and_greed_are_problems():
    from lamae.kernels.resources import Build

    good = Build("backward", 90, "bf16", 64, items=4, registers=128, spilled_bytes=0, shared_bytes=1024)
    assert good.problem() is None
    assert "129 registers" in str(dataclasses.replace(good, registers=129).problem())
    assert "spills 8 bytes" in str(dataclasses.replace(good, spilled_bytes=8).problem())
    assert dataclasses.replace(good, dtype="fp32", registers=200).problem() is None
