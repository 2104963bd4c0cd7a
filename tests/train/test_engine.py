"""What keeps DeepSpeed from compiling, and from hanging on what an earlier compilation left."""

import logging
import os
import time
from pathlib import Path

import pytest

from lamae.train.deepspeed_habits import STALE_LOCK_S, import_deepspeed


def test_no_extension_is_ever_found_to_fit() -> None:
    deepspeed = import_deepspeed()
    from deepspeed.comm.torch import build_shm_op

    assert deepspeed.__version__ == "0.19.8"
    assert build_shm_op() is None


def test_a_stale_lock_is_named_and_a_fresh_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stale, fresh = tmp_path / "py311" / "shm" / "lock", tmp_path / "py311" / "adam" / "lock"
    for lock in (stale, fresh):
        lock.parent.mkdir(parents=True)
        lock.touch()
    then = time.time() - 2 * STALE_LOCK_S
    os.utime(stale, (then, then))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    with caplog.at_level(logging.WARNING):
        import_deepspeed()
    assert f"{stale} is left over from a compilation that was killed: remove it" in caplog.text
    assert str(fresh) not in caplog.text
