"""Writing where another process may write the same: a requeued job and its ghost, two terminals, two tasks of an array.

What is made in one go is built under a name of its own and renamed; the second process finds what the first has made.
What is gone on with after a kill has one name, and a lock keeps a second process out. Imports nothing heavy.
"""

import errno
import fcntl
import logging
import os
import platform
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from lamae.base.errors import LamaeError

# A process that is asked to stop takes a while; a client that a network file system has lost keeps its locks longer.
PATIENCE_S = 150.0
POLL_S = 0.2

log = logging.getLogger(__name__)


def own_name(path: Path) -> Path:
    """A hidden name beside ``path`` that no other process has, on any node."""
    return path.with_name(f".{path.name.lstrip('.')}.{secrets.token_hex(4)}.partial")


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Where to write what replaces ``path`` at the end, in one rename; nothing is left of it where writing fails."""
    partial = own_name(path)
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_durably(path: Path, text: str) -> None:
    """Replace ``path`` in one rename: at any instant, a power cut's too, it holds the old text or the new."""
    with new_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
        sync(partial)
    sync(path.parent)


def sync(path: Path) -> None:
    """Make a file's bytes, or a directory's entries, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """An empty directory that becomes ``path`` at the end, as ``put_in_place``; gone where anything fails."""
    partial = own_name(path)
    try:
        partial.mkdir(parents=True)
        yield partial
        put_in_place(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def put_in_place(partial: Path, path: Path) -> None:
    """Rename a directory. Raises FileExistsError where another process has put something in its place by now."""
    try:
        os.rename(partial, path)
    except OSError:
        if path.exists():
            raise FileExistsError(errno.EEXIST, "another process has made it meanwhile", str(path)) from None
        raise


class Lock:
    """Keeps a second process out of what ``what`` names while one writes there.

    An flock on a file of its own, which ends with its process however that ends; who had it alone removes the file.
    Where the file system knows no locks there is none.
    """

    def __init__(self, path: Path, *, what: Path) -> None:
        self._path, self._what = path, what
        self._file: Any = None
        self._is_shared = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def take(self, *, shared: bool = False) -> None:
        """Wait for the lock, beside others who ``shared`` it too.

        Raises LamaeError naming the holder that stays, and OSError where the lock's directory is gone or read-only.
        """
        waited_s = 0.0  # as far as this process was awake: it may be suspended meanwhile
        while self._file is None:
            file = self._path.open("a+")
            try:
                fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except BlockingIOError:
                with file:
                    file.seek(0)
                    holder = file.read().strip() or "another process"
                if waited_s > PATIENCE_S:
                    raise LamaeError(f"{self._what}: {holder} is writing there; wait for it, or end it") from None
                if not waited_s:
                    log.info("%s: waiting for %s, which is writing there", self._what, holder)
                waited_s += POLL_S
                time.sleep(POLL_S)
                continue
            except OSError as error:
                log.debug("%s: no locks here: %s", self._path, error)
            if not self._is_there(file):  # its holder has removed it: another lock is taken on the name by now
                file.close()
                continue
            self._file, self._is_shared = file, shared
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}\n")
            file.flush()

    def release(self) -> None:
        """Let others in."""
        if self._file is not None:
            if not self._is_shared and self._is_there(self._file):
                self._path.unlink(missing_ok=True)
            self._file.close()
            self._file = None

    def _is_there(self, file: Any) -> bool:
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(file.fileno()), self._path.stat())
        return False
