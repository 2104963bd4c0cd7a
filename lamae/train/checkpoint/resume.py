"""May this run go on from that checkpoint? What must not have changed, and what to say where it has."""

import logging
import math
from typing import Any

import numpy as np

from lamae.base.errors import UsageError
from lamae.base.outputs import differences
from lamae.base.settings import to_dict
from lamae.model.loss import alignment_weight
from lamae.train.checkpoint.format import CheckpointReader
from lamae.train.checkpoint.subjects import trained_sets
from lamae.train.runconfig import RunConfig, from_dict
from lamae.train.schedule import learning_rate, progress, weight_decay

# Everything else (steps, learning rate, precision, ZeRO stage, paths, monitoring) may change from start to start.
FIXED_SECTIONS = ("model.", "mask.", "signal.")
FIXED_KEYS = ("data.split", "data.order", "data.window_shards", "data.weights", "train.seed", "train.global_batch_size")
# The shard set may move; its hash may not.
IGNORED_KEYS = ("run.dir", "data.path", "train.stop_at")

log = logging.getLogger(__name__)


def check_resumable(
    reader: CheckpointReader,
    *,
    config: dict[str, Any],
    sets: list[dict[str, Any]],
    subjects: np.ndarray,
    allow_changes: bool,
) -> None:
    """Compare a checkpoint with the run that is about to go on from it.

    ``subjects`` are the hashes of the subjects to be trained on. A checkpoint of the same ``sets`` holds all of them.

    Raises UsageError listing every difference that would make this another run, unless ``allow_changes``.

    Differences that are harmless are logged.
    """
    manifest = reader.manifest
    fatal, harmless = [], []
    for key, old, new in differences(_filled(manifest["config"]), config):
        if key in FIXED_KEYS or key.startswith(FIXED_SECTIONS):
            fatal.append(f"{key}: {old} -> {new}")
        elif key not in IGNORED_KEYS:
            harmless.append(f"{key}: {old} -> {new}")
    before = trained_sets(manifest)
    if [entry["index_hash"] for entry in before] != [entry["index_hash"] for entry in sets]:
        fatal.append(f"records of data.path: {_name(before)} -> {_name(sets)}")
    elif num_new := len(np.setdiff1d(subjects, reader.subjects)):
        fatal.append(f"subjects: {num_new} are new")
    if harmless:
        log.info("changed since %s: %s", reader.path.name, "; ".join(harmless))
    if fatal and not allow_changes:
        raise UsageError(
            f"{reader.path.parent.parent} holds another run (checkpoint {reader.path.name}): {'; '.join(fatal)}. "
            "Take another run.dir, undo the changes, or set checkpoint.allow_changes=true"
        )
    if fatal:
        log.warning("resuming %s although it was another run: %s", reader.path.name, "; ".join(fatal))
    if jump := _describe_jump(manifest["config"], config, reader.state.step):
        log.warning("%s", jump)


def _describe_jump(old: dict[str, Any], new: dict[str, Any], step: int) -> str:
    """What changed schedules do to step ``step`` (0-based), and how to go on without a jump; empty where nothing."""
    try:
        before, now = from_dict(old), from_dict(new)
    except UsageError:  # a checkpoint whose configuration can't be read any more
        return ""
    if step >= now.train.steps:
        return ""
    planned = _scheduled(now, step)
    jumps = []
    for name, was in _scheduled(before, step).items():
        becomes = planned.get(name, was)
        if not math.isclose(was, becomes, rel_tol=1e-6):
            jumps.append(f"{name} {was:.3g} by the checkpoint's schedule, {becomes:.3g} now")
    if not jumps:
        return ""
    text = f"the schedule has changed: at step {step + 1} {'; '.join(jumps)}"
    if jumps[0].startswith("learning rate") and before.optim.restart_from is None:
        end = before.optim.decay_end or before.train.steps
        if now.train.steps > end:
            text += f". To keep it and train on at optim.final_lr: optim.decay_end={end}"
        text += f". To decay anew from here without a jump: optim.decay_end={end} optim.restart_from={step}"
        text += " (optim.restart_lr= for another rate); the rest of optim as it was"
    return text


def _scheduled(run: RunConfig, step: int) -> dict[str, float]:
    """By name, what the schedules of a run give step ``step`` (0-based)."""
    schedule: dict[str, Any] = {"config": run.optim, "steps": run.train.steps}
    values = {"learning rate": learning_rate(step, **schedule), "weight decay": weight_decay(step, **schedule)}
    if run.model.kind == "aligned":
        values["alignment weight"] = alignment_weight(run.model.align_weight, progress(step, **schedule))
    return values


def _name(sets: list[dict[str, Any]]) -> str:
    """The sets by name, with the beginning of their index hash, which changes with anything in the index."""
    return ", ".join(f"{entry['name']} ({entry['index_hash'][:12]})" for entry in sets)


def _filled(config: dict[str, Any]) -> dict[str, Any]:
    """A stored configuration with the defaults of keys that came later; as it is where it can't be read any more."""
    try:
        return to_dict(from_dict(config))
    except UsageError:
        return config
