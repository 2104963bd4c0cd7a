"""The run directory: made at the first start, continued at the next ones."""

import json
import os
from pathlib import Path
from typing import Any

from lamae.train.checkpoint import CheckpointReader, newest_whole
from lamae.train.durable import clear_unfinished, write_durably
from sharding.errors import LamaeError, UsageError
from sharding.format import MANIFEST_NAME as SHARD_SET_NAME

CONFIG_NAME = "config.yaml"
MANIFEST_NAME = "manifest.json"
CHECKPOINTS_NAME = "checkpoints"


def find_checkpoint(run_dir: Path) -> CheckpointReader | None:
    """The newest whole checkpoint of a run directory, None where a run begins.

    Raises LamaeError where there are checkpoints but none of them is whole: starting over would bury them.
    """
    root = run_dir / CHECKPOINTS_NAME
    path = newest_whole(root)
    if path is None and root.is_dir() and any(root.glob("step-*")):
        raise LamaeError(
            f"{root}: none of its checkpoints is whole; move it away to start over, or take another run.dir"
        )
    return CheckpointReader(path) if path is not None else None


def open_run_directory(run_dir: Path, *, config_yaml: str, manifest: dict[str, Any]) -> None:
    """Make the directory, or clear what a killed writer left, and write config.yaml and manifest.json.

    Raises UsageError where it cannot be written.
    """
    if (run_dir / SHARD_SET_NAME).exists():
        raise UsageError(
            f"run.dir={run_dir}: is a shard set, which nothing may be written into; take another directory"
        )
    try:
        (run_dir / CHECKPOINTS_NAME).mkdir(parents=True, exist_ok=True)
        if not os.access(run_dir, os.W_OK | os.X_OK):
            raise PermissionError(13, "not writable")
        clear_unfinished(run_dir / CHECKPOINTS_NAME)
        write_durably(run_dir / CONFIG_NAME, config_yaml)
        write_durably(run_dir / MANIFEST_NAME, json.dumps(manifest, indent=1) + "\n")
    except OSError as error:
        raise UsageError(f"run.dir={run_dir}: {error.strerror or error}; choose a directory you may write to") from None
