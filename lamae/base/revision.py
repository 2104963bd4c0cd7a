"""Which source code this is, asked of git or of what was noted beside a copy of it, and which packages it met.

Imports nothing heavy.
"""

import hashlib
import json
import platform
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

REVISION_NAME = "REVISION.json"
"""Beside a copy of the packages, what ``describe_code`` said of the checkout they were copied from."""

MAX_DIFF_BYTES = 200_000


def describe_code() -> dict[str, Any]:
    """Revision of the source tree and its uncommitted changes; nulls where lamae is installed from a package."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists() and (root / REVISION_NAME).is_file():
        noted: dict[str, Any] = json.loads((root / REVISION_NAME).read_text())
        return noted
    revision = _git(root, "rev-parse", "HEAD") if (root / ".git").exists() else None
    diff = _git(root, "diff", "HEAD") if revision else None
    return {
        "revision": revision.strip() if revision else None,
        "diff_sha256": hashlib.sha256(diff.encode()).hexdigest() if diff else None,
        "diff": diff[:MAX_DIFF_BYTES] if diff else None,
    }


def installed_versions(packages: Iterable[str]) -> dict[str, str | None]:
    """Python's version and that of each package; null where it is not installed."""
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace")
