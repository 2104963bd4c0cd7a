"""The run directory: made at the first start, continued at the next ones."""

import fcntl
import json
import logging
import os
import signal
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from lamae.base.awake import patiently
from lamae.base.errors import LamaeError, UsageError
from lamae.base.files import write_text
from lamae.base.lock import POLL_S, Flock, is_at, signature
from lamae.base.rundirectory import RunDirectory
from lamae.sharding.format import MANIFEST_NAME as SHARD_SET_NAME
from lamae.train.checkpoint.format import CheckpointReader, newest_whole
from lamae.train.checkpoint.writing import clear_unfinished

LOCK_NAME = ".lock"
# How often the holder looks whether the lock file is still its own, and how long a start waits for it to come back.
LOCK_KEEP_EVERY_S = 5.0
LOCK_RETURNS_S = 15.0

log = logging.getLogger(__name__)


class RunLock(Flock):
    """Keeps a second start out of a run directory while the first is still at work there, saving perhaps.

    It is on the directory ``checkpoints`` itself, which nobody removes by mistake. NFS locks no directories: there it
    is on ``checkpoints/.lock``, which elsewhere only says who holds it. The holder puts that file back within
    ``LOCK_KEEP_EVERY_S`` where it was removed, and a start that misses it beside checkpoints waits for that.
    """

    def __init__(self, run_dir: Path) -> None:
        super().__init__(RunDirectory(run_dir).checkpoints / LOCK_NAME, what=run_dir)
        self.advice = (
            "is training there; end it. If its machine is gone and the lock stays, go on in a copy: "
            f"cp -r {run_dir} COPY, and run.dir=COPY"
        )
        self._locks_file = False
        self._done = threading.Event()
        self._keeper = threading.Thread(target=self._keep, name="lamae-lock", daemon=True)

    def take(self) -> bool:
        """Wait for an earlier start that is just leaving; whether this call acquired the lock.

        Does nothing in a directory without ``checkpoints``, or twice. Raises LamaeError when the other one stays.
        """
        if self._held or not self._path.parent.is_dir():
            return False
        try:
            self._locks_file = not self._wait_for(self._path.parent, os.O_RDONLY)
            if self._locks_file:
                self._wait_for_the_file()
                self._wait_for(self._path)
        except OSError:  # whether the directory can be written is checked, and said, elsewhere
            return False
        return True

    def _wait_for_the_file(self) -> None:
        if any(self._path.parent.glob("step-*")):
            for _ in patiently(LOCK_RETURNS_S, poll_s=POLL_S):
                if self._path.exists():
                    return

    def sign(self) -> None:
        """Say who holds the lock, from now until it is given back."""
        if self._held:
            self._put_up()
            self._keeper.start()

    def _put_up(self) -> None:
        with suppress(OSError):
            if self._locks_file and not is_at(self._held[-1], self._path):
                descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
                self._held.append(descriptor)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:  # while this process was suspended for long
                    log.error("%s: %s trains there now; leaving", self._what, self._holder())
                    os.kill(os.getpid(), signal.SIGTERM)
                    return
            if not self._path.exists() or not self._path.stat().st_size or not self._keeper.is_alive():
                self._path.write_text(signature())

    def _keep(self) -> None:
        while not self._done.wait(LOCK_KEEP_EVERY_S):
            self._put_up()

    def close(self) -> None:
        self._done.set()
        if self._keeper.is_alive():
            self._keeper.join()
        self._close()


def find_checkpoint(run_dir: Path) -> CheckpointReader | None:
    """The newest whole checkpoint of a run directory, None where a run begins.

    Raises LamaeError where there are checkpoints but none of them is whole: starting over would bury them.
    """
    root = RunDirectory(run_dir).checkpoints
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
        RunDirectory(run_dir).checkpoints.mkdir(parents=True, exist_ok=True)
        if not os.access(run_dir, os.W_OK | os.X_OK):
            raise PermissionError(13, "not writable")
        if lock.take() and find_checkpoint(run_dir) is not None:
            raise LamaeError(f"{run_dir}: another start trained here meanwhile; start again to go on from there")
        lock.sign()
        clear_unfinished(RunDirectory(run_dir).checkpoints)
        write_text(RunDirectory(run_dir).config, config_yaml)
        write_text(RunDirectory(run_dir).manifest, json.dumps(manifest, indent=1) + "\n")
    except OSError as error:
        raise UsageError(f"run.dir={run_dir}: {error.strerror or error}; choose a directory you may write to") from None
