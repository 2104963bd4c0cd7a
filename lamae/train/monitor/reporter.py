"""Turns steps into what is reported of them: interval means, rates, spikes, quarantined records, figures."""

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lamae.base.rowfile import RowFile, Throttle
from lamae.base.rundirectory import RunDirectory
from lamae.base.settings import to_dict, to_yaml
from lamae.base.text import few
from lamae.data.batch import Batch
from lamae.data.config import SignalConfig
from lamae.data.loader import RingLoader
from lamae.data.transforms import Signal
from lamae.model.masking import Mask
from lamae.train.clock import StepClock
from lamae.train.engine import Engine, StepOutput
from lamae.train.inputs import Inputs
from lamae.train.monitor.events import Monitor
from lamae.train.monitor.health import Quarantine, SpikeDetector, stop_after_skipped_steps
from lamae.train.monitor.meter import Meter
from lamae.train.monitor.rates import Rates
from lamae.train.ranks.distributed import Ranks
from lamae.train.runconfig import RunConfig
from lamae.train.state import TrainState

FIGURE_RECORDS = 16
MAX_KEYS_IN_A_LINE = 8
REPORT_EVERY_S = 300.0

DrawFigures = Callable[[torch.nn.Module, Signal, Mask, SignalConfig], dict[str, Any]]

log = logging.getLogger(__name__)


class Reporter:
    """Follows a run step by step and reports every ``monitor.log_every`` steps. Called by all ranks alike."""

    def __init__(
        self,
        config: RunConfig,
        *,
        run_dir: Path,
        inputs: Inputs,
        ranks: Ranks,
        state: TrainState,
        clock: StepClock,
        draw_figures: DrawFigures | None,
    ) -> None:
        self._config = config
        self._run_dir = run_dir
        self._inputs = inputs
        self._ranks = ranks
        # What all ranks know alike, rank 0 reports.
        self._level = logging.WARNING if ranks.is_main else logging.DEBUG
        self._draw_figures = draw_figures
        self._meter = Meter()
        self._spikes = SpikeDetector(config.monitor.spike_zscore)
        self._spike_rows = RowFile(RunDirectory(run_dir).spikes, resume_step=state.step, is_main=ranks.is_main)
        self._spike_throttle, self._notice_throttle = Throttle(REPORT_EVERY_S), Throttle(REPORT_EVERY_S)
        self._quarantine = Quarantine(run_dir, inputs.records, ranks, resume_step=state.step)
        self._rows: list[np.ndarray] = []
        self._replaced_before = 0
        self._first_step = state.step + 1
        self._rates = Rates(
            config,
            num_samples=inputs.num_samples,
            ranks=ranks,
            clock=clock,
            run_dir=run_dir,
            resume_step=state.step,
        )
        self._monitor = Monitor(
            run_dir,
            steps=config.train.steps,
            resume_step=state.step,
            tensorboard=config.monitor.tensorboard,
            is_main=ranks.is_main,
        )
        self._monitor.text("config", to_yaml(config))
        if ranks.is_main:
            self._monitor.text("environment", RunDirectory(run_dir).manifest.read_text())
        self._monitor.hparams(to_dict(config))
        self._figure_batch: Batch | None = None
        # At stage 3 the weights are gathered layer by layer: all ranks run the model or none can.
        takes_part = ranks.is_main or config.engine.zero_stage == 3
        if draw_figures is not None and config.monitor.figures_every and takes_part:
            # Read before the first step: a corrupt record ends the run at once, not where a figure is due.
            self._figure_batch = inputs.fixed_batch(split="val", num_records=FIGURE_RECORDS)

    def begin(self) -> None:
        """The first step is about to start: set-up time is not training time."""
        self._rates.begin()

    def pause(self, name: str) -> AbstractContextManager[None]:
        """Work between steps: its time is reported beside that of steps, as ``pauses/NAME_s``."""
        return self._rates.pause(name)

    def note_step(self, state: TrainState, batch: Batch, outputs: list[StepOutput], *, applied: bool) -> None:
        """Count a step. A skipped one goes to the quarantine; too many in a row raise LamaeError."""
        self._meter.add_step(outputs)
        self._rows.append(batch.row.numpy().copy())
        if not applied:
            keys = self._quarantine.add(
                state.step,
                rows=batch.row.numpy(),
                epochs=batch.epoch.numpy(),
                losses_B=torch.cat([output.aux["loss_B"] for output in outputs]),
            )
            log.log(
                self._level,
                "step %d skipped: loss or gradient not finite; %d records quarantined: %s",
                state.step,
                len(keys),
                few(keys, MAX_KEYS_IN_A_LINE, between=" "),
            )
            limit = self._config.train.max_skipped_in_a_row
            stop_after_skipped_steps(state.skipped_in_a_row, limit=limit, step=state.step, run_dir=self._run_dir)

    def is_due(self, step: int) -> bool:
        return step % self._config.monitor.log_every == 0

    def report(
        self, state: TrainState, engine: Engine, loader: RingLoader, *, save_s: float | None, **of_this_step: float
    ) -> None:
        """Report the steps since the last report, and what is known of this one, if there were any. Synchronises.

        ``save_s`` is how long the latest checkpoint took, None before the first.
        """
        num_steps = len(self._rows)
        if num_steps == 0:
            return
        interval = self._meter.read(self._ranks)
        replaced = float(self._ranks.mean(torch.tensor([float(loader.num_replaced - self._replaced_before)]))[0])
        self._replaced_before = loader.num_replaced
        values = {
            "loss": interval.loss,
            **of_this_step,
            "gradient_norm": engine.gradient_norm(),
            "skipped_steps": float(state.skipped_steps),
            **self._rates.read(num_steps, data_wait_s=loader.wait_s, step=state.step),
            "replaced_records": replaced * self._ranks.world_size,
            **{f"parts/{name}": value for name, value in interval.parts.items()},
        }
        if save_s is not None:
            values["checkpoint_s"] = save_s
            self._compare_with_notice(save_s, step_s=values["step_s"])
        line = self._monitor.train_line(state.step, values) if self._ranks.is_main else ""
        self._monitor.scalars(state.step, values, samples=state.samples_consumed, line=line)
        self._monitor.lead_weights(state.step, interval.lead_weights)
        self._report_spikes(interval.losses)
        self._rows.clear()
        self._first_step = state.step + 1
        self._rates.begin()

    def _compare_with_notice(self, save_s: float, *, step_s: float) -> None:
        """A signal is acted on within two steps; then everything must be saved before the scheduler kills."""
        needed_s = 2 * step_s + save_s
        if not (0 < self._config.checkpoint.notice_s < needed_s and self._ranks.is_main):
            return
        if self._notice_throttle.passes() is not None:
            log.warning(
                "stopping takes %.1f s (two steps and a save), but checkpoint.notice_s=%g: ask the scheduler for more "
                "notice, or what came after the checkpoint before will be lost",
                needed_s,
                self._config.checkpoint.notice_s,
            )

    def _report_spikes(self, losses: list[float]) -> None:
        """Every rank knows every step's loss, so all agree on which steps to ask each other's records for."""
        for offset, loss in enumerate(losses):
            zscore = self._spikes.spike(loss)
            if zscore is None:
                continue
            step = self._first_step + offset
            rows = np.concatenate(self._ranks.gather(self._rows[offset]))
            keys = [self._inputs.records.keys[row] for row in rows]
            self._spike_rows.add([{"step": step, "loss": loss, "zscore": round(zscore, 1), "keys": keys}])
            more = self._spike_throttle.passes()
            if more is not None:
                log.log(
                    self._level,
                    "loss spike %.4f at step %d (z-score %.0f): %s%s; all in %s",
                    loss,
                    step,
                    zscore,
                    few(keys, MAX_KEYS_IN_A_LINE, between=" "),
                    more,
                    RunDirectory(self._run_dir).spikes.name,
                )

    def figures(self, step: int, engine: Engine) -> None:
        """Draw a few fixed records, hidden by fixed masks, as the model now reconstructs them."""
        if self._draw_figures is None or self._figure_batch is None or step % self._config.monitor.figures_every:
            return
        signal, mask = self._inputs.prepare(self._figure_batch, device=self._ranks.device, train=False)
        with engine.evaluating() as model:
            self._monitor.figures(step, self._draw_figures(model, signal, mask, self._config.signal))

    def close(self) -> None:
        self._monitor.close()
