"""The directory that is packed into: free, or with this very packing begun or complete, or with something else."""

import os
from pathlib import Path
from typing import Any

from lamae.base.errors import UsageError
from lamae.base.files import file_sha256
from lamae.base.outputs import differences, refuse_foreign, refuse_other
from lamae.sharding.format import MANIFEST_NAME, SHARDS_NAME, WORK_NAME, ShardSet, shard_name
from lamae.sharding.options import PackOptions

# What to say of a difference whose two values mean nothing to a reader.
_DIGESTS = {
    "listing_sha256": "the source lists other records (listing_sha256)",
    "headers_sha256": "the records have other headers (headers_sha256)",
    "all_headers_sha256": "the records have other headers (all_headers_sha256)",
    "options.splits_from": "splits_from is another file",
    "options.columns_from": "columns_from is another file",
    "options.subjects_from": "subjects_from is another file",
}


def refuse_unfit(out: Path, source: Path) -> None:
    """Raise UsageError where ``out`` cannot hold a packing, or holds something that no packing put there."""
    try:
        if os.path.realpath(out) == os.path.realpath(source):
            raise UsageError(f"{out}: source and output are the same; choose another output")
        if not _holds_packing(out):
            try:
                refuse_foreign(out, what="shard set", is_own=_is_of_killed_packing)
            except UsageError:
                if not _holds_packing(out):  # another packer may have begun meanwhile
                    raise
    except OSError as error:
        raise UsageError(f"{out}: {error.strerror or error}; choose another output") from None


def _holds_packing(out: Path) -> bool:
    return any((out / name).exists() for name in (WORK_NAME, MANIFEST_NAME))


def _is_of_killed_packing(path: Path) -> bool:
    """Whether a packing that was killed before its plan was in place left this."""
    is_empty = path.name == SHARDS_NAME and not any(path.iterdir())
    return is_empty or path.name.startswith((f"{WORK_NAME}.", f".{WORK_NAME}."))


def is_complete(out: Path) -> bool:
    """Whether a set is finished and no tar of it lost."""
    return (out / MANIFEST_NAME).is_file() and not lost_shards(ShardSet.open(out))


def is_kept(out: Path, part: int) -> bool:
    """Whether ``part`` is a shard of a finished set, its tar there: it must stay as ``dataset.json`` has it."""
    return (out / MANIFEST_NAME).is_file() and part not in lost_shards(ShardSet.open(out))


def lost_shards(shard_set: ShardSet) -> list[int]:
    """The shards of a complete set whose tars are not there, or not of the size they should be."""

    def size(part: int) -> int:
        path = shard_set.root / SHARDS_NAME / shard_name(part)
        return path.stat().st_size if path.is_file() else -1

    return [part for part, shard in enumerate(shard_set.manifest["shards"]) if size(part) != shard["bytes"]]


def refuse_difference(there: dict[str, Any], wanted: dict[str, Any], out: Path) -> None:
    """Raise UsageError where the content of the plan in ``out`` is not the one that is wanted, naming what differs."""
    if "all_headers_sha256" not in there:  # of an older version
        wanted = {name: value for name, value in wanted.items() if name != "all_headers_sha256"}
    refuse_other(
        there,
        # Whose the records are, and what tables say of them, is in the listing; the words for it may change with the
        # program. Which records wfdb reads too changes nothing of what is stored.
        wanted
        | {name: there.get(name) for name in ("patients", "partly_named")}
        | {"options": wanted["options"] | {"audit": there.get("options", {}).get("audit")}},
        f"{out}: holds another packing",
        remedy="use the same source and options to go on with it, or another directory",
        words=_DIGESTS,
    )


def refuse_other_options(there: dict[str, Any], given: PackOptions, out: Path) -> None:
    """Raise UsageError where an option given beside --parts is not that of the plan in ``out``, whose are ``there``.

    One at its default counts as not given. What recognises the source, and stock wfdb's share, are the plan's.
    """
    found, wanted = {}, {}
    for key, _, value in differences(PackOptions().identity(), given.identity()):
        name, _, rule = key.partition(".")
        if name in ("audit", "source"):
            continue
        planned = there.get(name)
        found[f"options.{key}"] = planned.get(rule) if rule and planned else planned
        try:
            wanted[f"options.{key}"] = file_sha256(Path(value)) if name.endswith("_from") else value
        except OSError as error:
            raise UsageError(f"{value}: {error.strerror or error}") from None
    refuse_other(
        found, wanted, f"{out}: planned with other options", remedy="give those of the plan, or none", words=_DIGESTS
    )
