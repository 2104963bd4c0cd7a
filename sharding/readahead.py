"""Reading the files of the next records while the present ones are examined, where storage is slow to answer.

A network file system may take milliseconds to open a file, and packing opens two for each record. Many requests at once
cost it little more than one. A local disk or the page cache answers at once: there, threads would only be in the way.
"""

import posixpath
import resource
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from lamae.base.leads import NUM_LEADS
from lamae.sharding.files import HEADER_SUFFIX, Files
from lamae.sharding.reading import read_header, read_signal_file

_SLOW_S = 5e-4  # of waiting for a file
_NUM_TRIED = 8  # files of which the median wait decides
_NUM_THREADS = 32
_OF_THREAD = getattr(resource, "RUSAGE_THREAD", None)  # Linux's


class ReadAhead:
    """``Files`` that has begun to read what was announced when it is asked for, once reading has proven slow.

    Files that one thread alone may read are never read ahead.
    """

    is_thread_safe = False

    def __init__(self, files: Files) -> None:
        self._files = files
        self.root, self.base = files.root, files.base
        self._pool = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="read-ahead")
        self._announced: Sequence[str] = ()
        self._records: dict[str, Future[dict[str, bytes]]] = {}
        self._waits: list[float] = []
        self.is_slow = False

    def announce(self, records: Sequence[str]) -> None:
        """These records are read next. What was read of others is dropped."""
        self._announced = records
        if self.is_slow:
            self._records = {
                record: self._records.get(record) or self._pool.submit(self._read_record, record) for record in records
            }

    def read(self, path: str, *, at_most: int | None = None) -> bytes:
        """As ``Files.read``."""
        ahead = self._records.get(posixpath.splitext(path)[0])
        # Served once; the audit's second read goes to the file.
        if ahead is not None and (content := ahead.result().pop(path, None)) is not None:
            return content
        start, busy, left = time.perf_counter(), time.thread_time(), _times_left()
        try:
            return self._files.read(path, at_most=at_most)
        finally:  # inflating and copying are no waiting, nor is being put aside for other work of the machine
            waited_s = time.perf_counter() - start - (time.thread_time() - busy)
            self._note(waited_s if left is None or _times_left() != left else 0.0)

    def size(self, path: str) -> int:
        """As ``Files.size``."""
        return self._files.size(path)

    def exists(self, path: str) -> bool:
        """As ``Files.exists``."""
        return self._files.exists(path)

    def paths(self) -> Iterator[str]:
        """As ``Files.paths``."""
        return self._files.paths()

    def close(self) -> None:
        """Give up what is still to be read."""
        self._pool.shutdown(cancel_futures=True)

    def _note(self, waited_s: float) -> None:
        self._waits.append(waited_s)
        if len(self._waits) == _NUM_TRIED:
            if self._files.is_thread_safe and not self.is_slow and sorted(self._waits)[_NUM_TRIED // 2] > _SLOW_S:
                self.is_slow = True
                self.announce(self._announced)
            self._waits.clear()

    def _read_record(self, record: str) -> dict[str, bytes]:
        """The files of a record by their paths; those that cannot be read are left to ``read``, which says why."""
        found: dict[str, bytes] = {}
        with suppress(Exception):
            header = found[record + HEADER_SUFFIX] = read_header(self._files, record)
            names = _signal_files(header)
            for name in names if len(names) <= NUM_LEADS else ():  # of more, one at a time is in memory
                path = posixpath.join(posixpath.dirname(record), name)
                found[path] = read_signal_file(self._files, record, name)
        return found


def _times_left() -> int | None:
    """How often this thread has left the processor by itself, to wait for something; None where that is not counted."""
    return None if _OF_THREAD is None else resource.getrusage(_OF_THREAD).ru_nvcsw


def _signal_files(header: bytes) -> set[str]:
    """The names that lines of a header begin with."""
    lines = [line.split(maxsplit=1) for line in header.splitlines()[1:] if not line.startswith(b"#")]
    return {words[0].decode() for words in lines if words}
