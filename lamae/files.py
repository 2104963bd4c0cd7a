"""Files that nobody ever sees half-written. Imports nothing heavy."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from lamae.sharding.errors import LamaeError, UsageError


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


def write_json(path: Path, values: dict[str, Any], *, sort_keys: bool = False) -> None:
    """Replace ``path`` in one rename: a reader, on another node too, sees the old text or the new.

    Raises LamaeError where it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(values, indent=1, sort_keys=sort_keys) + "\n")
        temporary.replace(path)
    except OSError as error:
        raise LamaeError(f"{path}: cannot be written ({error.strerror or error})") from None
