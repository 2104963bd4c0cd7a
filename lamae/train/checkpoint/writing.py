"""Files that survive a kill or a power cut at any instant: written aside, synced, renamed.

The last step of a checkpoint is here too: the directory that holds every rank's file gets its manifest and its name;
and the removal of older ones.
"""

import json
import logging
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lamae.base.files import sync, write_text
from lamae.base.rundirectory import step_name
from lamae.train.checkpoint.format import (
    FORMAT_VERSION,
    LATEST_NAME,
    MANIFEST_NAME,
    SUBJECTS_NAME,
    WRITING_PREFIX,
    list_checkpoints,
    manifest_digest,
    newest_whole,
    read_manifest,
    verify_checkpoint,
)
from lamae.train.checkpoint.tensorfile import save_tensors

log = logging.getLogger(__name__)


def publish(temporary: Path, manifest: dict[str, Any], *, subjects: np.ndarray, root: Path) -> Path:
    """Turn a directory that holds every rank's file into checkpoint ``step-…`` of ``root``, durably.

    ``manifest`` names the ranks' files with their digests; the rest of what makes it whole is added here.
    The rename is what publishes: raises OSError before it, and only warns of what fails after it. A whole checkpoint of
    that step stays, for it holds the same.
    """
    final = root / step_name(manifest["state"]["step"])
    if final.exists() and not verify_checkpoint(final):
        shutil.rmtree(temporary, ignore_errors=True)
        _settle(final)
        return final
    entry = save_tensors({"subjects": torch.from_numpy(subjects)}, temporary / SUBJECTS_NAME)
    manifest = {**manifest, "format_version": FORMAT_VERSION}
    manifest["files"] = {**manifest["files"], SUBJECTS_NAME: entry}
    manifest["digest"] = manifest_digest(manifest)
    write_text(temporary / MANIFEST_NAME, json.dumps(manifest, indent=1))

    if final.exists():  # damaged, or the run would have resumed from it
        doomed = root / f"{WRITING_PREFIX}replaced-{final.name}"
        shutil.rmtree(doomed, ignore_errors=True)
        final.rename(doomed)
        shutil.rmtree(doomed)
    temporary.rename(final)
    _settle(final)
    return final


def _settle(final: Path) -> None:
    """Make the name of a published checkpoint durable and ``latest`` point to it."""
    try:
        sync(final.parent)
        write_text(final.parent / LATEST_NAME, final.name + "\n")
    except OSError as error:
        log.warning("%s is published, but %s could not be written: %s", final, LATEST_NAME, error)


def clear_unfinished(root: Path) -> None:
    """Remove what killed writers left behind."""
    for path in root.glob(f"{WRITING_PREFIX}*"):
        shutil.rmtree(path, ignore_errors=True)


def prune_checkpoints(root: Path, *, keep: int, published: Path | None = None) -> list[Path]:
    """Remove all but the ``keep`` newest whole ones, the pinned and those at multiples of ``checkpoint.keep_every``.

    Counting starts at ``published``, the one just written, else at the newest that verifies: what is newer is damaged
    or left from steps taken back, so it counts for nothing and stays. ``keep_every`` is that of the configuration in
    the checkpoint counted first. Returns the removed; ``keep`` 0 removes nothing.
    """
    newest = (published or newest_whole(root)) if keep else None
    if newest is None:
        return []
    manifest = read_manifest(newest)
    keep_every = manifest.get("config", {}).get("checkpoint", {}).get("keep_every", 0)  # none where fine-tuned
    candidates = [info for info in list_checkpoints(root) if info.step <= manifest["state"]["step"]]
    kept = [info.step for info in candidates if not verify_checkpoint(info.path, hashes=False)][-keep:]
    removed = []
    for info in candidates:
        if not kept or info.step >= kept[0] or info.pinned or (keep_every and info.step % keep_every == 0):
            continue
        # Renamed first, so that a kill halfway through never leaves half a checkpoint under its name.
        hidden = info.path.with_name(f"{WRITING_PREFIX}pruned-{info.path.name}")
        with suppress(FileNotFoundError):  # the run has pruned it meanwhile
            info.path.rename(hidden)
            shutil.rmtree(hidden, ignore_errors=True)
            removed.append(info.path)
    return removed
