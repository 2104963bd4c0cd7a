"""What a start of a run does once, before its first step."""

import logging
from pathlib import Path
from typing import Any

import torch

from lamae.base.errors import LamaeError
from lamae.base.settings import to_dict, to_yaml
from lamae.model.config import without_effect
from lamae.model.pretrain import build_model
from lamae.train.blocks import checkpoint_activations, compile_blocks
from lamae.train.checkpoint.format import CheckpointReader, load_weights
from lamae.train.checkpoint.resume import check_resumable
from lamae.train.clock import StepClock
from lamae.train.engine import Engine
from lamae.train.inputs import Inputs
from lamae.train.manifest import build_manifest
from lamae.train.monitor.health import unfit_weight
from lamae.train.ranks.distributed import Ranks
from lamae.train.runconfig import RunConfig, config_hash
from lamae.train.rundir import RunLock, find_checkpoint, open_run_directory
from lamae.train.schedule import BatchPlan, without_decay
from lamae.train.state import TrainState

log = logging.getLogger(__name__)


def find_resumable(config: RunConfig, run_dir: Path, inputs: Inputs, lock: RunLock) -> Path | None:
    """The checkpoint to resume, None where the run begins. For rank 0 alone; changes nothing in the directory.

    Waits until nobody else trains there.

    Raises LamaeError where it is another run's.
    """
    lock.take()
    reader = find_checkpoint(run_dir)
    if reader is None:
        return None
    check_resumable(
        reader,
        config=to_dict(config),
        sets=inputs.sets,
        subjects=inputs.subjects,
        allow_changes=config.checkpoint.allow_changes,
    )
    return reader.path


def open_run(
    config: RunConfig, run_dir: Path, inputs: Inputs, ranks: Ranks, lock: RunLock, *, resumed_from: Path | None
) -> None:
    """Prepare the directory of a run that has steps to take. For rank 0 alone.

    Raises UsageError where it cannot be written.
    """
    if resumed_from is not None:
        log.info("resuming %s from %s", run_dir, resumed_from.name)
    manifest = build_manifest(
        ranks,
        config_hash=config_hash(config),
        index_hash=inputs.records.index_hash,
        subject_hash=inputs.subject_hash,
        num_records=len(inputs.rows),
        num_subjects=len(inputs.subjects),
        resumed_from=resumed_from.name if resumed_from else None,
    )
    open_run_directory(run_dir, lock, config_yaml=to_yaml(config), manifest=manifest)


def build_engine(
    config: RunConfig,
    inputs: Inputs,
    plan: BatchPlan,
    ranks: Ranks,
    reader: CheckpointReader | None,
    clock: StepClock,
) -> Engine:
    """The model of this configuration under DeepSpeed, with the checkpoint's weights, moments and step counter."""
    torch.manual_seed(config.train.seed)
    model = build_model(config.model, config.mask, num_samples=inputs.num_samples)
    if reader is not None:
        load_weights(model, reader)
    elif problem := unfit_weight(model.named_parameters()):
        raise LamaeError(f"the initial weights: {problem}", all_ranks=True)
    if config.train.activation_checkpointing:
        checkpoint_activations(model)
    if config.train.compile == "blocks":
        compile_blocks(model)
    engine = Engine(model, ranks=ranks, engine=config.engine, optim=config.optim, plan=plan, clock=clock)
    if reader is not None:
        engine.restore(reader.fill, applied_steps=reader.state.applied_steps)
    return engine


def describe_checkpoints(
    config: RunConfig, inputs: Inputs, engine: Engine, ranks: Ranks, *, subject_hash: str
) -> dict[str, Any]:
    """What every checkpoint of this start says of itself beside its state."""
    return {
        "config": to_dict(config),
        "num_samples": inputs.num_samples,
        "index_hash": inputs.records.index_hash,
        "sets": inputs.sets,
        "subject_hash": subject_hash,
        "written_by": {"world_size": ranks.world_size, "zero_stage": engine.zero_stage},
        "shapes": engine.shapes(),
    }


def announce(config: RunConfig, plan: BatchPlan, engine: Engine, state: TrainState, inputs: Inputs) -> None:
    """One line in the log: what is about to be trained on what; and a warning for every option that does nothing."""
    for sentence in without_effect(config.model, config.mask):
        log.warning("%s", sentence)
    if sentence := without_decay(config.optim, steps=config.train.steps):
        log.warning("%s", sentence)
    if (batch := config.train.global_batch_size) > len(inputs.rows):
        log.warning(
            "train.global_batch_size=%d is more than the %d records of data.split=%s: a batch holds records "
            "more than once; train.global_batch_size=%d would hold each once",
            *(batch, len(inputs.rows), config.data.split),
            len(inputs.rows) // plan.world_size * plan.world_size or len(inputs.rows),
        )
    log.info(
        "%s, %.2f M parameters; %d records of %d subjects; %d ranks x %d micro-batches x %d records; "
        "ZeRO stage %d, %s; steps %d to %d",
        config.model.kind,
        engine.num_parameters / 1e6,
        len(inputs.rows),
        len(inputs.subjects),
        plan.world_size,
        plan.accumulation,
        plan.micro,
        config.engine.zero_stage,
        config.engine.precision,
        state.step + 1,
        config.train.steps,
    )
