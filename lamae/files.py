"""Files that nobody ever sees half-written. Imports nothing heavy."""

import json
import tempfile
from pathlib import Path
from typing import Any

from lamae.sharding.errors import LamaeError, UsageError
from lamae.sharding.writing import new_file


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
