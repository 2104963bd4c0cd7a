"""Pretraining, from a configuration to a run directory.

1  the ranks find each other; data, batch plan and the checkpoint to resume from are the same on all of them
2  model and engine, holding that checkpoint's state if there is one
3  loader -> Batch -> signal and mask -> loss -> gradients, micro-batch by micro-batch; one optimiser step
4  between steps: what ranks agree on, what to tell, what to save
5  a last checkpoint and an exit code: 0 done (or at train.stop_at), 75 stopped by a signal after saving
"""

import logging
import signal
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch

from lamae.data.batch import Batch
from lamae.model.pretrain import PretrainModel, build_model
from lamae.train import distributed
from lamae.train.blocks import checkpoint_activations, compile_blocks
from lamae.train.checkpoint import CheckpointReader, load_weights
from lamae.train.distributed import Ranks
from lamae.train.engine import Engine, StepOutput
from lamae.train.flags import FlagExchange, StopSignals
from lamae.train.inputs import Inputs
from lamae.train.manifest import build_manifest
from lamae.train.reporter import DrawFigures, Reporter
from lamae.train.resume import check_resumable
from lamae.train.rundir import CHECKPOINTS_NAME, find_checkpoint, open_run_directory
from lamae.train.saver import Saver
from lamae.train.schedule import BatchPlan, learning_rate, plan_batch, weight_decay
from lamae.train.state import TrainState
from sharding.errors import LamaeError

if TYPE_CHECKING:
    from lamae.config import RunConfig

EXIT_DONE = 0
EXIT_STOPPED = 75
SAVE_ATTEMPTS_AT_END = 3

log = logging.getLogger(__name__)


def train(config: "RunConfig", *, draw_figures: DrawFigures | None = None) -> int:
    """Pretrain as ``config`` says, resuming ``run.dir`` where it holds a checkpoint; gives the process's exit code.

    ``draw_figures(model, signal, mask)`` draws for TensorBoard every ``monitor.figures_every`` steps.
    Raises LamaeError (UsageError where the configuration is to blame) for what its reader can put right.
    """
    run_dir = Path(config.run.dir)
    ranks = distributed.start(timeout_s=config.engine.timeout_s, num_threads=config.train.num_threads)
    inputs = Inputs(config)
    plan = plan_batch(
        config.train.global_batch_size, micro_batch_size=config.train.micro_batch_size, world_size=ranks.world_size
    )
    checkpoint = ranks.decide(lambda: _open(config, run_dir, inputs, ranks))
    reader = CheckpointReader(checkpoint) if checkpoint else None
    state = reader.state if reader else TrainState()
    last_step = min(config.train.steps, config.train.stop_at or config.train.steps)
    if state.step >= last_step:
        log.info("%s is at step %d of %d: nothing to do", run_dir, state.step, last_step)
        return EXIT_DONE

    engine = _build_engine(config, inputs, plan, ranks, reader)
    saver = Saver(
        run_dir / CHECKPOINTS_NAME,
        ranks=ranks,
        config=config.checkpoint,
        about=_about(config, inputs, engine, ranks),
        subjects=inputs.subjects,
    )
    reporter = Reporter(config, run_dir=run_dir, inputs=inputs, ranks=ranks, state=state, draw_figures=draw_figures)
    flags = FlagExchange(ranks, num_flags=1 + Saver.NUM_FLAGS)
    loader = inputs.loader(ranks, samples_consumed=state.samples_consumed, num_batches=last_step - state.step)
    _announce(config, plan, engine, state, inputs)

    with StopSignals() as signals, loader, closing(reporter), closing(engine):
        stopped, save_again_at = 0, -1
        reporter.begin()
        for batch in loader:
            schedule = {
                "learning_rate": learning_rate(state.step, config.optim, steps=config.train.steps),
                "weight_decay": weight_decay(state.step, config.optim, steps=config.train.steps),
            }
            cast(PretrainModel, engine.model).set_progress(state.step / config.train.steps)
            outputs = _step(engine, inputs, batch, plan, ranks, **schedule)
            state.advance(samples_consumed=batch.samples_consumed, applied=engine.step_was_applied)
            reporter.note_step(state, batch, outputs, applied=engine.step_was_applied)

            agreed = flags.exchange([signals.received, *saver.flags()])
            if agreed is not None:
                stopped = agreed[0]
                if not saver.follow(agreed[1:]):
                    save_again_at = state.step + config.monitor.log_every
            if stopped or state.step == last_step or reporter.is_due(state.step):
                reporter.report(state, engine, loader, schedule=schedule)
            if stopped:
                break
            reporter.figures(state.step, engine)
            if _is_due(state.step, config.checkpoint.every) or state.step == save_again_at:
                saver.begin(engine, state)
                if not config.checkpoint.background and not saver.finish():
                    save_again_at = state.step + config.monitor.log_every

        flags.close()
        _save_at_end(saver, engine, state)
    log.info("checkpoint of step %d saved in %.1f s", saver.last_step, saver.last_seconds or 0.0)
    if stopped:
        log.info("stopped by %s after step %d; start again to go on", signal.Signals(stopped).name, state.step)
        return EXIT_STOPPED
    return EXIT_DONE


def _step(
    engine: Engine,
    inputs: Inputs,
    batch: Batch,
    plan: BatchPlan,
    ranks: Ranks,
    *,
    learning_rate: float,
    weight_decay: float,
) -> list[StepOutput]:
    """One optimiser step over this rank's share of the global batch."""
    outputs = []
    for index, micro_batch in enumerate(batch.micro_batches(plan.accumulation)):
        signal, mask = inputs.prepare(micro_batch, device=ranks.device, train=True)
        output = engine.forward(signal.x_BLT, signal.valid_BLT, signal.lead_mask_BL, mask)
        engine.backward(output.loss)
        last = index + 1 == plan.accumulation
        engine.step(learning_rate=learning_rate, weight_decay=weight_decay, last=last)
        outputs.append(output.detached())
    return outputs


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _open(config: "RunConfig", run_dir: Path, inputs: Inputs, ranks: Ranks) -> Path | None:
    """Find what to resume, refuse it if it is another run's, and prepare the directory. Called by rank 0 alone."""
    from lamae.config import config_hash, to_dict, to_yaml

    reader = find_checkpoint(run_dir)
    if reader is not None:
        check_resumable(
            reader,
            config=to_dict(config),
            index_hash=inputs.shard_set.index_hash,
            subject_hash=inputs.subject_hash,
            allow_changes=config.checkpoint.allow_changes,
        )
        log.info("resuming %s at step %d", run_dir, reader.state.step)
    manifest = build_manifest(
        ranks,
        config_hash=config_hash(config),
        index_hash=inputs.shard_set.index_hash,
        subject_hash=inputs.subject_hash,
        num_records=len(inputs.rows),
        num_subjects=len(inputs.subjects),
        resumed_from=reader.path.name if reader else None,
    )
    open_run_directory(run_dir, config_yaml=to_yaml(config), manifest=manifest)
    return reader.path if reader else None


def _build_engine(
    config: "RunConfig", inputs: Inputs, plan: BatchPlan, ranks: Ranks, reader: CheckpointReader | None
) -> Engine:
    """The model of this configuration under DeepSpeed, with the checkpoint's weights, moments and step counter."""
    torch.manual_seed(config.train.seed)
    model = build_model(config.model, config.mask, num_samples=inputs.num_samples)
    if reader is not None:
        load_weights(model, reader)
    if config.train.activation_checkpointing:
        checkpoint_activations(model)
    if config.train.compile == "blocks":
        compile_blocks(model)
    engine = Engine(model, ranks=ranks, engine=config.engine, optim=config.optim, plan=plan)
    if reader is not None:
        engine.restore(reader.read, applied_steps=reader.state.applied_steps)
    return engine


def _about(config: "RunConfig", inputs: Inputs, engine: Engine, ranks: Ranks) -> dict[str, object]:
    """What every checkpoint of this start says of itself beside its state."""
    from lamae.config import to_dict

    return {
        "config": to_dict(config),
        "num_samples": inputs.num_samples,
        "index_hash": inputs.shard_set.index_hash,
        "subject_hash": inputs.subject_hash,
        "written_by": {"world_size": ranks.world_size, "zero_stage": engine.zero_stage},
        "shapes": engine.shapes(),
    }


def _announce(config: "RunConfig", plan: BatchPlan, engine: Engine, state: TrainState, inputs: Inputs) -> None:
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


def _save_at_end(saver: Saver, engine: Engine, state: TrainState) -> None:
    """Leave with a checkpoint of the last step. Raises LamaeError when none can be written."""
    saver.finish()
    for _ in range(SAVE_ATTEMPTS_AT_END):
        if saver.last_step == state.step:
            return
        saver.begin(engine, state)
        saver.finish()
    if saver.last_step != state.step:
        raise LamaeError(f"no checkpoint of step {state.step} could be written; make room and start again")
