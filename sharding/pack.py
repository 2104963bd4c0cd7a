"""Packing a source of WFDB records into a shard set, in this process or several.

    plan ──▶ pack_part, once per shard, anywhere ──▶ merge

``pack`` does the three in a row. Killed at any moment and started again with the same arguments it goes on where it
was, and the result is the same bytes, whatever the number of workers. The result is local; copy it where it should be.
"""

import logging
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from lamae.base.errors import LamaeError
from lamae.base.files import sync
from lamae.base.orphan import exit_with
from lamae.base.progress import Progress, ignore
from lamae.sharding.format import MANIFEST_NAME, SHARDS_NAME, ShardSet, shard_name
from lamae.sharding.merge import finish, merge
from lamae.sharding.options import PackOptions
from lamae.sharding.output import is_complete, lost_shards
from lamae.sharding.packplan import Plan
from lamae.sharding.part import forget_damaged, is_done, is_settled, pack_part
from lamae.sharding.plan import plan
from lamae.sharding.tar import is_whole

__all__ = ["PackOptions", "merge", "pack", "pack_part", "pending_parts", "plan"]

logger = logging.getLogger(__name__)

_NOTES = {  # what is taken, and said
    "unchecked": "no checksums in their headers, or 0 in every line: damage to their samples would not be seen",
    "no_rate": "no sampling frequency in their headers, which means 250 Hz in WFDB",
}


def pack(
    source: Path,
    out: Path,
    *,
    options: PackOptions,
    progress: Progress = ignore,
    announce: Callable[[Plan], None] | None = None,
) -> dict[str, Any]:
    """Pack the records of ``source`` into a shard set at ``out``; returns its manifest.

    An ``out`` that the same command began is gone on with; one that it finished is left as it is, but for tars that
    are not there any more: those are packed again, to the same bytes.
    ``announce`` is called with the plan before anything is packed.
    Raises UsageError where source, options or ``out`` can never work, LamaeError where writing fails.
    """
    source, out = Path(source), Path(out)
    planned = plan(source, out, options=options, progress=progress)
    if announce is not None:
        announce(planned)
    try:
        if (out / MANIFEST_NAME).is_file():
            _restore_lost(source, planned, workers=options.workers, progress=progress)
        else:
            for part in range(planned.num_parts):
                forget_damaged(planned, part)
            _pack_parts(source, planned, pending_parts(planned), workers=options.workers, progress=progress)
            readers = merge(out, progress=progress)["readers"]
            for name, what in _NOTES.items():
                if readers.get(name):
                    logger.warning("%s: %d records have %s", source, readers[name], what)
    except (LamaeError, OSError) as error:
        if not is_complete(out):
            raise
        logger.info("%s: another process has finished it meanwhile; here: %s", out, error)
    finish(out)
    return ShardSet.open(out).manifest


def pending_parts(planned: Plan) -> list[int]:
    """The shards still to be packed, or to be looked at again because they lacked files; ascending."""
    return [part for part in range(planned.num_parts) if not is_settled(planned, part)]


def _restore_lost(source: Path, planned: Plan, *, workers: int, progress: Progress) -> None:
    """Pack those tars of a complete set again that somebody removed, because verify named them."""
    shard_set = ShardSet.open(planned.out)
    shards, lost = shard_set.manifest["shards"], lost_shards(shard_set)
    if not lost:
        logger.info(
            "%s: complete already, with the same options, listing and headers (of large sources a sample of them); "
            "signal files were not compared. Whether every byte of it is whole, lamae verify says",
            planned.out,
        )
        return
    _pack_parts(source, planned, lost, workers=workers, progress=progress)
    for part in lost:
        path = planned.out / SHARDS_NAME / shard_name(part)
        sync(path)
        if not is_whole(path, shards[part]):
            path.unlink()
            raise LamaeError(
                f"{path}: packed again, its bytes are others than {MANIFEST_NAME} says, so the source has changed; "
                f"pack it into another directory"
            )


def _pack_parts(source: Path, planned: Plan, pending: list[int], *, workers: int, progress: Progress) -> None:
    shard_size = planned.options["shard_size"]
    packed = min(planned.num_listed, (planned.num_parts - len(pending)) * shard_size)
    num_done = planned.num_parts - sum(not is_done(planned, part) for part in pending)
    if num_done:
        logger.info("%s: going on; %d of %d shards are packed", planned.out, num_done, planned.num_parts)
    if min(workers, len(pending)) <= 1:
        for part in pending:
            pack_part(source, planned.out, part, progress=_shifted(progress, packed, planned.num_listed))
            packed = min(planned.num_listed, packed + shard_size)
        return
    # Workers start from a clean interpreter: a fork of a process with threads (torch, BLAS) may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        min(workers, len(pending)), mp_context=context, initializer=exit_with, initargs=(os.getpid(),)
    ) as pool:
        futures = [pool.submit(pack_part, source, planned.out, part) for part in pending]
        try:
            for future in as_completed(futures):
                future.result()
                packed = min(planned.num_listed, packed + shard_size)
                progress("pack", packed, planned.num_listed)
        except BrokenProcessPool:
            raise LamaeError(
                f"{planned.out}: a worker died, perhaps for want of memory; run the same command again to go on"
            ) from None
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _shifted(progress: Progress, before: int, total: int) -> Progress:
    """Report a part's progress as progress of the whole."""
    return lambda stage, done, _total: progress(stage, min(total, before + done), total)
