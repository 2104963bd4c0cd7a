"""The directory that is packed into: free, or with this very packing begun or complete, or with something else."""

import json
import os
from pathlib import Path
from typing import Any

from lamae.base.errors import LamaeError, UsageError
from lamae.sharding.format import MANIFEST_NAME, SHARDS_NAME, WORK_NAME, shard_name

# What to say of a difference whose two values tell a reader nothing.
_DIGESTS = {
    "listing_sha256": "the source lists other records (listing_sha256)",
    "headers_sha256": "the records have other headers (headers_sha256)",
    "options.splits_from": "splits_from is another file",
    "options.columns_from": "columns_from is another file",
    "options.subjects_from": "subjects_from is another file",
}


def refuse_unfit(out: Path, source: Path) -> None:
    """Raise UsageError where ``out`` cannot hold a packing, or holds something that no packing put there."""
    try:
        if os.path.realpath(out) == os.path.realpath(source):
            raise UsageError(f"{out}: source and output are the same; choose another output")
        _refuse_foreign(out)
    except OSError as error:
        raise UsageError(f"{out}: {error.strerror or error}; choose another output") from None


def _refuse_foreign(out: Path) -> None:
    if out.is_symlink() and not out.exists():
        raise UsageError(f"{out}: a link to {os.readlink(out)}, which does not exist; make that or remove the link")
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: exists and is no directory; choose another output")
    names = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if names & {WORK_NAME, MANIFEST_NAME}:
        return
    # A packing that was killed before its plan was in place leaves these.
    foreign = {name for name in names if not name.startswith(f"{WORK_NAME}.")} - {SHARDS_NAME}
    if foreign or (SHARDS_NAME in names and any((out / SHARDS_NAME).iterdir())):
        raise UsageError(f"{out}: not empty and no shard set; choose an empty or new directory")


def is_complete(out: Path) -> bool:
    """Whether a set is finished and no tar of it lost."""
    return (out / MANIFEST_NAME).is_file() and not lost_shards(out, read_manifest(out))


def lost_shards(out: Path, manifest: dict[str, Any]) -> list[int]:
    """The shards of a complete set whose tars are not there, or not of the size they should be."""

    def size(part: int) -> int:
        path = out / SHARDS_NAME / shard_name(part)
        return path.stat().st_size if path.is_file() else -1

    return [part for part, shard in enumerate(manifest["shards"]) if size(part) != shard["bytes"]]


def read_manifest(out: Path) -> dict[str, Any]:
    """The manifest of a complete set. Raises LamaeError."""
    try:
        manifest: dict[str, Any] = json.loads((out / MANIFEST_NAME).read_text())
        manifest["plan"], manifest["shards"]
    except (ValueError, KeyError, TypeError) as error:
        raise LamaeError(f"{out / MANIFEST_NAME}: unreadable ({error}); delete {out} and pack again") from None
    return manifest


def refuse_difference(there: dict[str, Any], wanted: dict[str, Any], out: Path) -> None:
    """Raise UsageError where the content of the plan in ``out`` is not the one that is wanted, naming what differs."""
    # Whose the records are is in the listing; what is said of it may change with the program.
    differences = list(_differences(there, wanted | {"patients": there.get("patients")}))
    if differences:
        raise UsageError(
            f"{out}: holds another packing: {'; '.join(differences[:3])}; "
            f"use the same source and options to go on with it, or another directory"
        )


def _differences(there: Any, wanted: Any, name: str = "") -> Any:
    if isinstance(there, dict) and isinstance(wanted, dict):
        for key in sorted(there.keys() | wanted.keys()):
            yield from _differences(there.get(key), wanted.get(key), f"{name}.{key}" if name else key)
    elif there != wanted:
        yield _DIGESTS.get(name, "{name} is {there!r} there and {wanted!r} now").format(
            name=name, there=there, wanted=wanted
        )
