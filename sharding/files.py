"""Where a source's files are: a directory tree, read by paths relative to its root."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HEADER_SUFFIX = ".hea"


@dataclass(frozen=True)
class DirectoryFiles:
    """A source unpacked on disk."""

    root: Path

    def read(self, path: str) -> bytes:
        """All bytes of ``path``. Raises OSError."""
        # Two to three times cheaper per file than open().read(), and there are 1.6 million files.
        descriptor = os.open(f"{self.root}/{path}", os.O_RDONLY)
        try:
            size = os.fstat(descriptor).st_size
            content = os.read(descriptor, size)
            while len(content) < size and (more := os.read(descriptor, size - len(content))):
                content += more
            return content
        finally:
            os.close(descriptor)

    def exists(self, path: str) -> bool:
        return (self.root / path).is_file()

    def records(self) -> Iterator[str]:
        """Path without ``.hea`` of every WFDB header below the root, in no particular order."""
        for folder, folders, files in os.walk(self.root):
            folders.sort()
            prefix = os.path.relpath(folder, self.root).replace(os.sep, "/")
            prefix = "" if prefix == "." else prefix + "/"
            for name in files:
                if name.endswith(HEADER_SUFFIX):
                    yield prefix + name.removesuffix(HEADER_SUFFIX)

    @contextmanager
    def on_disk(self, record: str) -> Iterator[Path]:
        """Path without suffix at which stock wfdb can read ``record``."""
        yield self.root / record
