"""JSON files that nobody ever sees half-written, and that may come from anywhere. Imports nothing heavy."""

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

from lamae.base import keys
from lamae.base.errors import LamaeError, UsageError
from lamae.base.writing import new_file


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


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` in one rename: a reader, on another node too, sees the old text or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, values: dict[str, Any], *, sort_keys: bool = False) -> None:
    """As ``write_text``. Raises LamaeError where ``path`` cannot be written."""
    try:
        write_text(path, json.dumps(values, indent=1, sort_keys=sort_keys) + "\n")
    except OSError as error:
        raise LamaeError(f"{path}: cannot be written ({error.strerror or error})") from None


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


def file_sha256(path: Path) -> str:
    """Hex digest of a file's bytes, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_shape(path: Path, values: dict[str, Any], kind: type) -> None:
    """Raises LamaeError naming a key of dataclass ``kind`` that is missing from what was read, or of another type."""
    for misfit in keys.misfits(kind, values, exactly=True):
        raise LamaeError(f"{path}: {misfit}")


def check_plain(path: Path, name: str) -> None:
    """Raises LamaeError where a file names another one that is not in its own directory."""
    if name in ("", ".", "..") or Path(name).name != name or not name.isprintable():
        raise LamaeError(f"{path}: names {name!r}, which is no file beside it; it was not written by this program")
