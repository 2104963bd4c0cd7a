"""One process at a time where another may want to write the same: a requeued job and its old copy, two terminals."""

import fcntl
import logging
import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import Self

from lamae.base.awake import patiently
from lamae.base.errors import LamaeError

# A process that is asked to stop takes a while; a client that a network file system has lost keeps its locks longer.
PATIENCE_S = 150.0
POLL_S = 0.2

log = logging.getLogger(__name__)


class Flock:
    """What locks have in common: an flock, which ends with its process however that ends, and a file that names it.

    Where the file system knows no locks there is none.
    """

    advice = "is writing there; wait for it, or end it"
    """What to say of a holder that stays, and what to do."""

    def __init__(self, path: Path, *, what: Path) -> None:
        self._path, self._what = path, what
        self._held: list[int] = []
        """Descriptors that hold the lock."""

    def _wait_for(self, path: Path, flags: int = os.O_RDWR | os.O_CREAT, *, shared: bool = False) -> bool:
        """Hold the lock on ``path``; False where it cannot be locked. Raises LamaeError when another one keeps it."""
        descriptor, was_logged = os.open(path, flags, 0o666), False
        self._held.append(descriptor)
        for _ in patiently(PATIENCE_S, poll_s=POLL_S):
            try:
                fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                if not was_logged:
                    log.info("%s: waiting for %s, which is still at work there", self._what, self._holder())
                was_logged = True
            except OSError as error:
                log.debug("%s: cannot be locked: %s", path, error)
                return False
        self._close()
        raise LamaeError(f"{self._what}: {self._holder()} {self.advice}")

    def _holder(self) -> str:
        with suppress(OSError):
            return self._path.read_text().strip() or "another process"
        return "another process"

    def _close(self) -> None:
        while self._held:
            os.close(self._held.pop())


class Lock(Flock):
    """Keeps a second process out of what ``what`` names while one writes there; who had it alone removes the file."""

    _is_shared = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def take(self, *, shared: bool = False) -> None:
        """Wait for the lock, beside others who ``shared`` it too.

        Raises LamaeError naming the holder that stays, and OSError where the lock's directory is gone or read-only.
        """
        while not self._held:
            self._wait_for(self._path, shared=shared)
            if not is_at(self._held[-1], self._path):  # its holder has removed it: another lock has the name by now
                self._close()
        self._is_shared = shared
        os.ftruncate(self._held[-1], 0)
        os.pwrite(self._held[-1], signature().encode(), 0)

    def release(self) -> None:
        """Let others in."""
        if self._held and not self._is_shared and is_at(self._held[-1], self._path):
            self._path.unlink(missing_ok=True)
        self._close()


def signature() -> str:
    """Who this process is, for those who wait for it."""
    return f"process {os.getpid()} on {platform.node()}\n"


def is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one of that name."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False
