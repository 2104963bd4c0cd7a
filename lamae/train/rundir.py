"""The run directory: made at the first start, continued at the next ones."""

import fcntl
import json
import logging
import os
import platform
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from lamae.sharding.errors import LamaeError, UsageError
from lamae.sharding.format import MANIFEST_NAME as SHARD_SET_NAME
from lamae.train.checkpoint import CheckpointReader, newest_whole
from lamae.train.durable import clear_unfinished, write_durably

CONFIG_NAME = "config.yaml"
MANIFEST_NAME = "manifest.json"
CHECKPOINTS_NAME = "checkpoints"
LOCK_NAME = ".lock"
# Stopping takes two steps and a save; a client that a network file system has lost keeps its locks for longer.
LOCK_PATIENCE_S = 150.0
LOCK_POLL_S = 0.2

log = logging.getLogger(__name__)


class RunLock:
    """Keeps a second start out of a run directory while the first is still at work there, saving perhaps.

    An flock on ``checkpoints/.lock``, which ends with its process however that ends. Where the file system knows no
    locks there is none.
    """

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / CHECKPOINTS_NAME / LOCK_NAME
        self._file: Any = None

    def take(self) -> bool:
        """Wait for a start that is about to leave; whether the lock was got by this call.

        Does nothing in a directory without ``checkpoints``, or twice.

        Raises LamaeError when the other one stays.
        """
        if self._file is not None or not self._path.parent.is_dir():
            return False
        try:
            file = self._path.open("a+")
        except OSError:  # whether the directory can be written is checked, and said, elsewhere
            return False
        deadline, told = time.monotonic() + LOCK_PATIENCE_S, False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                file.seek(0)
                holder = file.read().strip() or "another process"
                if time.monotonic() > deadline:
                    file.close()
                    raise LamaeError(
                        f"{self._path.parent.parent}: {holder} is training there; end it, or remove {self._path} if it "
                        "is gone and its machine with it"
                    ) from None
                if not told:
                    log.info("%s: waiting for %s, which is still at work there", self._path.parent.parent, holder)
                told = True
                time.sleep(LOCK_POLL_S)
            except OSError as error:
                log.debug("%s: no locks here: %s", self._path, error)
                break
        self._file = file
        return True

    def sign(self) -> None:
        """Say who holds the lock."""
        if self._file is not None:
            with suppress(OSError):
                self._file.truncate(0)
                self._file.write(f"process {os.getpid()} on {platform.node()}\n")
                self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def find_checkpoint(run_dir: Path) -> CheckpointReader | None:
    """The newest whole checkpoint of a run directory, None where a run begins.

    Raises LamaeError where there are checkpoints but none of them is whole: starting over would bury them.
    """
    root = run_dir / CHECKPOINTS_NAME
    path = newest_whole(root)
    if path is None and root.is_dir() and any(root.glob("step-*")):
        raise LamaeError(
            f"{root}: none of its checkpoints is whole; move it away to start over, or take another run.dir"
        )
    return CheckpointReader(path) if path is not None else None


def open_run_directory(run_dir: Path, lock: RunLock, *, config_yaml: str, manifest: dict[str, Any]) -> None:
    """Make the directory, or clear what a killed writer left, and write config.yaml and manifest.json.

    Raises UsageError where it cannot be written, LamaeError where another start made it, trained and left since this
    one found no directory to lock.
    """
    if (run_dir / SHARD_SET_NAME).exists():
        raise UsageError(
            f"run.dir={run_dir}: is a shard set, which nothing may be written into; take another directory"
        )
    try:
        (run_dir / CHECKPOINTS_NAME).mkdir(parents=True, exist_ok=True)
        if not os.access(run_dir, os.W_OK | os.X_OK):
            raise PermissionError(13, "not writable")
        if lock.take() and find_checkpoint(run_dir) is not None:
            raise LamaeError(f"{run_dir}: another start trained here meanwhile; start again to go on from there")
        lock.sign()
        clear_unfinished(run_dir / CHECKPOINTS_NAME)
        write_durably(run_dir / CONFIG_NAME, config_yaml)
        write_durably(run_dir / MANIFEST_NAME, json.dumps(manifest, indent=1) + "\n")
    except OSError as error:
        raise UsageError(f"run.dir={run_dir}: {error.strerror or error}; choose a directory you may write to") from None
