"""Files that nobody ever sees half-written, and JSON that may come from anywhere. Imports nothing heavy.

What is made in one go is built under a name of its own and renamed: of two processes that make the same, the second
finds what the first has made. What is continued after a kill has one name, and a lock (lamae.base.lock).
"""

import csv
import errno
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lamae.base import keys
from lamae.base.errors import LamaeError, NewerError, UsageError
from lamae.base.text import csv_row

PARTIAL_SUFFIX = ".partial"


def check_writable(option: str, path: Path | None) -> None:
    """Raises UsageError unless the file that ``option`` names can be made; for before the work that it will hold.

    Does nothing without a path.
    """
    if path is None:
        return
    if path.is_dir():
        raise UsageError(f"{option} {path}: is a directory; name a file in it")
    place = next(parent for parent in path.absolute().parents if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise UsageError(
            f"{option} {path}: nothing can be written there ({place}: {error.strerror or error})"
        ) from None


@contextmanager
def writing(path: Path, error_kind: type[LamaeError] = LamaeError) -> Iterator[None]:
    """Turns an OSError of the block into one line that names ``path``."""
    try:
        yield
    except OSError as error:
        raise error_kind(f"{path}: cannot be written ({error.strerror or error})") from None


# -- writing -------------------------------------------------------------------------------------------------------


def named(path: Path) -> Path:
    """``path``; in full where it ends in ``.`` or ``..``, so that what lies beside it can be named after it."""
    return path.resolve() if path.name in ("", "..") else path


def own_name(path: Path) -> Path:
    """A hidden name beside ``path`` that no other process has, on any node."""
    path = named(path)
    return path.with_name(f".{path.name.lstrip('.')}.{secrets.token_hex(4)}{PARTIAL_SUFFIX}")


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Where to write what replaces ``path`` at the end, in one rename; nothing is left of it where writing fails."""
    partial = own_name(path)
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Make a file's bytes, or a directory's entries, survive a power cut; shares that cannot do the latter need not."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def begin_writing_back(descriptor: int, start: int, length: int) -> None:
    """Have the disk begin with bytes of an open file, without waiting for it: a sync then finds little left to do.

    Linux starts to write such a range back, and drops of it what is clean, which is nothing yet. Unlike an early sync
    this commits no journal and takes no disk error off the later one's hands.
    """
    if hasattr(os, "posix_fadvise"):  # macOS has none
        with suppress(OSError):  # a hint
            os.posix_fadvise(descriptor, start, length, os.POSIX_FADV_DONTNEED)


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` in one rename: at any instant, a power cut's too, it holds the old text or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
        sync(partial)
    sync(path.parent)


def write_json(path: Path, values: dict[str, Any], *, sort_keys: bool = False) -> None:
    """As ``write_text``. Raises LamaeError where ``path`` cannot be written."""
    with writing(path):
        write_text(path, json.dumps(values, indent=1, sort_keys=sort_keys) + "\n")


def write_csv(path: Path, heading: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
    """Replace a table for people in one rename: cells are ``lamae.base.text.csv_row``. Raises OSError."""
    with (
        new_file(path) as partial,
        partial.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(heading)
        writer.writerows(map(csv_row, rows))


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


# -- reading -------------------------------------------------------------------------------------------------------


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a file. Raises FileNotFoundError, and LamaeError where it is anything else."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(path) from None
    except OSError as error:
        raise LamaeError(f"{path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise LamaeError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(values, dict):
        raise LamaeError(f"{path}: expected a mapping of keys, not {values!r:.80}")
    return values


def json_sha256(values: Any) -> str:
    """sha256 of plain values as JSON, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def try_read_json(path: Path) -> dict[str, Any] | None:
    """As ``read_json``; None where there is no such mapping, or none yet."""
    try:
        return read_json(path)
    except (FileNotFoundError, LamaeError):
        return None


def file_sha256(path: Path) -> str:
    """Hex digest of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_shape(path: Path, values: dict[str, Any], kind: type) -> None:
    """Raises LamaeError naming a key of dataclass ``kind`` that is missing from what was read, or of another type."""
    for misfit in keys.misfits(kind, values, exactly=True):
        raise LamaeError(f"{path}: {misfit}")


def check_version(place: Path, what: str, version: object, newest: int) -> None:
    """Raises NewerError where a file gives a later version of its format than ``newest``."""
    if isinstance(version, int) and version > newest:
        raise NewerError(f"{place}: {what} {version} is newer than {newest}, which this lamae reads; upgrade lamae")


def check_plain(path: Path, name: str) -> None:
    """Raises LamaeError where a file names another one that is not in its own directory."""
    if name in ("", ".", "..") or Path(name).name != name or not name.isprintable():
        raise LamaeError(f"{path}: names {name!r}, which is no file beside it; it was not written by this program")
