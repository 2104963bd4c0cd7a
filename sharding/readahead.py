"""Reading the files of the next records while the present ones are examined, where storage is slow to answer.

A network file system may take milliseconds to open a file, and packing opens two for each record. Many requests at once
cost it little more than one. A local disk or the page cache answers at once: there, threads would only be in the way.
"""

import posixpath
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from lamae.sharding.files import HEADER_SUFFIX, Files
from lamae.sharding.reading import read_header, read_signal_file

_SLOW_S = 5e-4  # a file; from the page cache it takes a tenth of that
_NUM_TRIED = 8  # files whose mean time decides
_NUM_THREADS = 32


class ReadAhead:
    """``Files`` that has begun to read what was announced when it is asked for, once reading has proven slow."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self.root, self.base = files.root, files.base
        self._pool = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="read-ahead")
        self._announced: Sequence[str] = ()
        self._records: dict[str, Future[dict[str, bytes]]] = {}
        self._num_tried, self._tried_s = 0, 0.0
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
        # Once: what is read again, as the audit does, comes from the file.
        if ahead is not None and (content := ahead.result().pop(path, None)) is not None:
            return content
        start = time.perf_counter()
        try:
            return self._files.read(path, at_most=at_most)
        finally:
            self._note(time.perf_counter() - start)

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

    def _note(self, seconds: float) -> None:
        self._num_tried, self._tried_s = self._num_tried + 1, self._tried_s + seconds
        if self._num_tried == _NUM_TRIED:
            if not self.is_slow and self._tried_s > _SLOW_S * _NUM_TRIED:
                self.is_slow = True
                self.announce(self._announced)
            self._num_tried, self._tried_s = 0, 0.0

    def _read_record(self, record: str) -> dict[str, bytes]:
        """The files of a record by their paths; those that cannot be read are left to ``read``, which says why."""
        found: dict[str, bytes] = {}
        with suppress(Exception):
            header = found[record + HEADER_SUFFIX] = read_header(self._files, record)
            for name in _signal_files(header):
                path = posixpath.join(posixpath.dirname(record), name)
                found[path] = read_signal_file(self._files, record, name)
        return found


def _signal_files(header: bytes) -> set[str]:
    """The names that lines of a header begin with."""
    lines = [line.split(maxsplit=1) for line in header.splitlines()[1:] if not line.startswith(b"#")]
    return {words[0].decode() for words in lines if words}
