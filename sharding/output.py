"""The directory that is packed into: free, or with this very packing begun or complete, or with something else."""

import os
from pathlib import Path
from typing import Any

from lamae.base.errors import UsageError
from lamae.base.outputs import refuse_foreign, refuse_other
from lamae.sharding.format import MANIFEST_NAME, SHARDS_NAME, WORK_NAME, ShardSet, shard_name

# What to say of a difference whose two values mean nothing to a reader.
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
        if not any((out / name).exists() for name in (WORK_NAME, MANIFEST_NAME)):
            refuse_foreign(out, what="shard set", is_own=_is_of_killed_packing)
    except OSError as error:
        raise UsageError(f"{out}: {error.strerror or error}; choose another output") from None


def _is_of_killed_packing(path: Path) -> bool:
    """Whether a packing that was killed before its plan was in place left this."""
    is_empty = path.name == SHARDS_NAME and not any(path.iterdir())
    return is_empty or path.name.startswith((f"{WORK_NAME}.", f".{WORK_NAME}."))


def is_complete(out: Path) -> bool:
    """Whether a set is finished and no tar of it lost."""
    return (out / MANIFEST_NAME).is_file() and not lost_shards(ShardSet.open(out))


def lost_shards(shard_set: ShardSet) -> list[int]:
    """The shards of a complete set whose tars are not there, or not of the size they should be."""

    def size(part: int) -> int:
        path = shard_set.root / SHARDS_NAME / shard_name(part)
        return path.stat().st_size if path.is_file() else -1

    return [part for part, shard in enumerate(shard_set.manifest["shards"]) if size(part) != shard["bytes"]]


def refuse_difference(there: dict[str, Any], wanted: dict[str, Any], out: Path) -> None:
    """Raise UsageError where the content of the plan in ``out`` is not the one that is wanted, naming what differs."""
    refuse_other(
        there,
        # Whose the records are is in the listing; what is said of it may change with the program. Which records wfdb
        # reads too changes nothing of what is stored.
        wanted
        | {"patients": there.get("patients")}
        | {"options": wanted["options"] | {"audit": there.get("options", {}).get("audit")}},
        f"{out}: holds another packing",
        remedy="use the same source and options to go on with it, or another directory",
        words=_DIGESTS,
    )
