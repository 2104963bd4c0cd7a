"""Pretraining, from a configuration to a run directory.

1  the ranks find each other; data, batch plan and the checkpoint to resume from are the same on all of them
2  model and engine, holding that checkpoint's state if there is one
3  loader -> Batch -> signal and mask -> loss -> gradients, micro-batch by micro-batch; one optimiser step
4  between steps: what ranks agree on, what to report, what to save
5  a last checkpoint and an exit code: 0 done (or at train.stop_at), 75 stopped by a signal after saving
"""

import logging
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np

from lamae.base.errors import EXIT_DONE, EXIT_STOPPED, LamaeError
from lamae.base.rundirectory import RunDirectory
from lamae.data.batch import Batch
from lamae.data.loader import RingLoader
from lamae.model.pretrain import PretrainModel
from lamae.train.checkpoint.format import CheckpointReader
from lamae.train.checkpoint.saver import Saver
from lamae.train.checkpoint.subjects import subject_set_hash
from lamae.train.clock import StepClock
from lamae.train.engine import Engine, StepOutput
from lamae.train.inputs import Inputs
from lamae.train.monitor.profiler import Profiler
from lamae.train.monitor.reporter import DrawFigures, Reporter
from lamae.train.monitor.runlog import RunLog
from lamae.train.precision import is_bf16_faster, settle_precision
from lamae.train.ranks import distributed
from lamae.train.ranks.distributed import Ranks
from lamae.train.ranks.flags import FlagExchange, StopSignals
from lamae.train.ranks.watchdog import Watchdog
from lamae.train.runconfig import RunConfig
from lamae.train.rundir import RunLock
from lamae.train.schedule import BatchPlan, learning_rate, plan_batch, progress, weight_decay
from lamae.train.start import announce, build_engine, describe_checkpoints, find_resumable, open_run
from lamae.train.state import TrainState
from lamae.train.validation import Probe, Validation

SAVE_ATTEMPTS_AT_END = 3
RATES = {"learning_rate": learning_rate, "weight_decay": weight_decay}

log = logging.getLogger(__name__)


def train(config: RunConfig, *, draw_figures: DrawFigures | None = None, probe: Probe | None = None) -> int:
    """Pretrain as ``config`` says, resuming ``run.dir`` where it holds a checkpoint; gives the process's exit code.

    ``draw_figures(model, signal, mask, config.signal)`` draws for TensorBoard every ``monitor.figures_every`` steps,
    ``probe(model)`` measures the representation every ``monitor.probe_every``.
    Raises LamaeError (UsageError where the configuration is to blame) for what its reader can put right.
    """
    ranks = distributed.start(timeout_s=config.engine.timeout_s, num_threads=config.train.num_threads)
    config = settle_precision(config, prefer_bf16=ranks.decide(lambda: is_bf16_faster(ranks.device)))
    run_dir = Path(config.run.dir)
    with closing(RunLock(run_dir)) as lock, RunLog(run_dir, is_main=ranks.is_main) as run_log:
        return _train(config, ranks, lock, run_log, draw_figures=draw_figures, probe=probe)


def _train(
    config: RunConfig,
    ranks: Ranks,
    lock: RunLock,
    run_log: RunLog,
    *,
    draw_figures: DrawFigures | None,
    probe: Probe | None,
) -> int:
    run_dir = Path(config.run.dir)
    inputs = Inputs(config)
    plan = plan_batch(
        config.train.global_batch_size, micro_batch_size=config.train.micro_batch_size, world_size=ranks.world_size
    )
    validation = Validation(config.train, config.monitor, inputs, ranks, probe=probe)
    checkpoint = ranks.decide(lambda: find_resumable(config, run_dir, inputs, lock))
    reader = CheckpointReader(checkpoint) if checkpoint else None
    state = reader.state if reader else TrainState()
    last_step = min(config.train.steps, config.train.stop_at or config.train.steps)
    if state.step >= last_step:
        log.info("%s is at step %d of %d: nothing to do", run_dir, state.step, last_step)
        return EXIT_DONE

    ranks.decide(lambda: open_run(config, run_dir, inputs, ranks, lock, resumed_from=checkpoint))
    run_log.begin()
    # Reads ahead while the engine is built.
    loader = inputs.loader(ranks, samples_consumed=state.samples_consumed, num_batches=last_step - state.step)
    clock = StepClock(ranks.device)
    engine = build_engine(config, inputs, plan, ranks, reader, clock)
    subjects = np.union1d(inputs.subjects, reader.subjects) if reader else inputs.subjects
    saver = Saver(
        RunDirectory(run_dir).checkpoints,
        ranks=ranks,
        config=config.checkpoint,
        about=describe_checkpoints(config, inputs, engine, ranks, subject_hash=subject_set_hash(subjects)),
        subjects=subjects,
    )
    reporter = Reporter(
        config, run_dir=run_dir, inputs=inputs, ranks=ranks, state=state, clock=clock, draw_figures=draw_figures
    )
    profiler = Profiler(config.profile, run_dir=run_dir, ranks=ranks, clock=clock, look_every=config.monitor.log_every)
    flags = FlagExchange(ranks, num_flags=2 + Saver.NUM_FLAGS)
    between_s = config.engine.timeout_s if ranks.world_size > 1 else float("inf")
    watchdog = Watchdog(run_dir, rank=ranks.rank, config=config.monitor, between_s=between_s)
    announce(config, plan, engine, state, inputs)

    parts = _Parts(inputs, plan, ranks, engine, loader, clock, validation, reporter, profiler, saver, flags, watchdog)
    with StopSignals() as signals, loader, closing(reporter), closing(engine), closing(profiler), watchdog:
        stopped = _take_steps(config, parts, state, signals, last_step=last_step)
        with watchdog.paused():
            flags.close()
            _save_at_end(saver, engine, state)
    log.info("checkpoint of step %d saved in %.1f s", saver.last_step, saver.last_seconds or 0.0)
    if stopped and state.step < last_step:
        log.info("stopped by %s after step %d; start again to go on", signal.Signals(stopped).name, state.step)
        return EXIT_STOPPED
    return EXIT_DONE


class _Parts(NamedTuple):
    """What the loop works with."""

    inputs: Inputs
    plan: BatchPlan
    ranks: Ranks
    engine: Engine
    loader: RingLoader
    clock: StepClock
    validation: Validation
    reporter: Reporter
    profiler: Profiler
    saver: Saver
    flags: FlagExchange
    watchdog: Watchdog


def _take_steps(config: RunConfig, parts: _Parts, state: TrainState, signals: StopSignals, *, last_step: int) -> int:
    """Train up to ``last_step``; the number of the signal that ended it before, 0 where none did."""
    inputs, plan, ranks, engine, loader, clock, validation, reporter, profiler, saver, flags, watchdog = parts
    stopped, requested, save_again_at = 0, 0, -1
    schedule: dict[str, Any] = {"config": config.optim, "steps": config.train.steps}
    model = cast(PretrainModel, engine.model)
    model.set_progress(progress(state.step, **schedule))
    if config.train.validate_every:
        with watchdog.paused():
            validation.losses(state.step, engine)
    first_step, began = state.step + 1, time.monotonic()
    profiler.follow(state.step)
    reporter.begin()
    is_looked_at = lambda: profiler.is_active or reporter.is_due(state.step + 1)
    for batch in clock.steps(loader, is_asked_for=is_looked_at):
        rates = {name: rate(state.step, **schedule) for name, rate in RATES.items()}
        outputs = _step(engine, inputs, batch, plan, ranks, clock, **rates)
        state.advance(samples_consumed=batch.samples_consumed, applied=engine.step_was_applied)
        model.set_progress(progress(state.step, **schedule))  # of the next step, and of a validation before it
        reporter.note_step(state, batch, outputs, applied=engine.step_was_applied)

        agreed = flags.exchange([signals.received, profiler.request(state.step), *saver.flags()])
        if agreed is not None:
            stopped, requested, *saved = agreed
            if not saver.follow(saved):
                save_again_at = state.step + config.monitor.log_every
        clock.end_step()
        watchdog.beat()
        if state.step == first_step:
            log.info("the first step took %.1f s, warming up included", time.monotonic() - began)
            _tighten_timeout(config.engine.step_timeout_s, ranks, watchdog)
        with watchdog.paused():
            saves = _is_due(state.step, config.checkpoint.every) or state.step == save_again_at
            with reporter.pause("validation"):
                # Who asks a run to stop may not wait for a validation.
                measured = {} if stopped and state.step < last_step else validation.measure(state.step, engine)
            # With a row for every checkpoint, no step before it is missing from the rows after a kill.
            if stopped or measured or saves or state.step == last_step or reporter.is_due(state.step):
                reporter.report(state, engine, loader, save_s=saver.last_seconds, **rates, **measured)
            if stopped:
                break
            with reporter.pause("profile"):
                profiler.follow(state.step, requested=bool(requested))
            if saves:
                with reporter.pause("save"):
                    saver.begin(engine, state)
                    if not config.checkpoint.background and not saver.finish():
                        save_again_at = state.step + config.monitor.log_every
            with reporter.pause("figures"):
                reporter.figures(state.step, engine)
    return stopped


def _tighten_timeout(step_timeout_s: float, ranks: Ranks, watchdog: Watchdog) -> None:
    """Collectives of the first step wait for set-up, later ones for a step alone."""
    if watchdog.is_watching:  # which distinguishes a suspended rank from a lost one; collectives cannot
        distributed.set_timeout(distributed.NEVER_S)
    else:
        distributed.set_timeout(step_timeout_s, keep=ranks.cpu_group)


def _step(
    engine: Engine,
    inputs: Inputs,
    batch: Batch,
    plan: BatchPlan,
    ranks: Ranks,
    clock: StepClock,
    *,
    learning_rate: float,
    weight_decay: float,
) -> list[StepOutput]:
    """One optimiser step over this rank's share of the global batch."""
    micro_batches = list(batch.micro_batches(plan.accumulation))

    def prepared() -> Iterator[tuple[Any, ...]]:
        for micro_batch in micro_batches:
            with clock.phase("copy"):
                signal, mask = inputs.prepare(micro_batch, device=ranks.device, train=True)
            yield signal.x_BLT, signal.valid_BLT, signal.lead_mask_BL, mask

    outputs = engine.take_step(prepared(), learning_rate=learning_rate, weight_decay=weight_decay)
    for micro_batch, output in zip(micro_batches, outputs, strict=True):
        output.aux["parts"] |= inputs.loss_by_set(micro_batch, output.aux["loss_B"])
    return outputs


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _save_at_end(saver: Saver, engine: Engine, state: TrainState) -> None:
    """Leave with a checkpoint of the last step. Raises LamaeError when none can be written."""
    saver.finish()
    for _ in range(SAVE_ATTEMPTS_AT_END):
        if saver.last_step == state.step:
            return
        saver.begin(engine, state)
        saver.finish()
    if saver.last_step != state.step:
        raise LamaeError(
            f"no checkpoint of step {state.step} could be written; make room and start again", all_ranks=True
        )
