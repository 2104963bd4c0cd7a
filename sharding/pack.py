"""Packing a source of WFDB records into a shard set, in this process or several.

    plan ──▶ pack_part, once per shard, anywhere ──▶ merge

``pack`` does the three in a row. Killed at any moment and started again with the same arguments it goes on where it
was, and the result is the same bytes, whatever the number of workers. The result is local; copy it where it should be.
"""

import logging
import multiprocessing
import os
import threading
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from sharding.errors import LamaeError, UsageError
from sharding.format import MANIFEST_NAME, ShardSet
from sharding.merge import finish, merge
from sharding.options import PackOptions
from sharding.part import forget_damaged, is_done, pack_part
from sharding.plan import Plan, plan
from sharding.progress import Progress, ignore

__all__ = ["PackOptions", "merge", "pack", "pack_part", "pending_parts", "plan"]

logger = logging.getLogger(__name__)


def pack(source: Path, out: Path, *, options: PackOptions, progress: Progress | None = None) -> dict[str, Any]:
    """Pack the records of ``source`` into a shard set at ``out``; returns its manifest.

    An ``out`` that the same command began is gone on with; one that it finished is left as it is.
    Raises UsageError where source, options or ``out`` can never work, LamaeError where writing fails.
    """
    source, out = Path(source), Path(out)
    progress = progress or ignore
    if out.resolve() == source.resolve():
        raise UsageError(f"{out}: source and output are the same directory; choose another output")
    planned = plan(source, out, options=options, progress=progress)
    if (out / MANIFEST_NAME).is_file():
        logger.info("%s: complete already, with the same source and options", out)
    else:
        _pack_parts(source, planned, workers=options.workers, progress=progress)
        merge(out, progress=progress)
    finish(out)
    return ShardSet.open(out).manifest


def pending_parts(planned: Plan) -> list[int]:
    """The shards still to be packed, ascending."""
    return [part for part in range(planned.num_parts) if not is_done(planned, part)]


def _pack_parts(source: Path, planned: Plan, *, workers: int, progress: Progress) -> None:
    for part in set(range(planned.num_parts)) - set(pending_parts(planned)):
        forget_damaged(planned, part)
    pending = pending_parts(planned)
    shard_size = planned.options["shard_size"]
    packed = min(planned.num_listed, (planned.num_parts - len(pending)) * shard_size)
    if packed:
        logger.info(
            "%s: going on; %d of %d shards are packed", planned.out, planned.num_parts - len(pending), planned.num_parts
        )
    if min(workers, len(pending)) <= 1:
        for part in pending:
            pack_part(source, planned.out, part, progress=_shifted(progress, packed, planned.num_listed))
            packed = min(planned.num_listed, packed + shard_size)
        return
    # Workers start from a clean interpreter: a fork of a process with threads (torch, BLAS) may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        min(workers, len(pending)), mp_context=context, initializer=_die_with, initargs=(os.getpid(),)
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


def _die_with(parent: int) -> None:
    """End this worker soon after ``parent`` is gone; a pool whose owner was killed would wait for work for ever."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _shifted(progress: Progress, before: int, total: int) -> Progress:
    """Report a part's progress as progress of the whole."""
    return lambda stage, done, _total: progress(stage, min(total, before + done), total)
