"""What a run reports: a line in the log, a row in metrics.jsonl, TensorBoard events. Rank 0 alone writes.

A restarted run continues the same files: rows and events beyond the step it resumes from are cut, so that no curve
doubles back.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lamae.base.leads import LEADS
from lamae.base.rowfile import WARN_EVERY_S, RowFile, Throttle
from lamae.base.rundirectory import RunDirectory
from lamae.base.text import format_duration

# Scalars that TensorBoard lists beside the settings of each run.
RESULTS = ("loss/train", "loss/validation", "probe/macro_auroc")
# TensorBoard lists groups (what stands before the slash) in alphabetical order and opens the first: the loss comes
# first, what each of many leads weighs last. No group name is a prefix of another: TensorBoard's tabs sort those
# differently.
TAGS = {
    "loss": "loss/train",
    "validation_loss": "loss/validation",
    "lead_weights": "weight_of_lead/share",
    "lead_attention": "weight_of_lead/attention",
}

log = logging.getLogger(__name__)


class Monitor:
    """Writes the metrics of a run; on any rank but 0 every method does nothing."""

    def __init__(self, run_dir: Path, *, steps: int, resume_step: int, tensorboard: bool, is_main: bool) -> None:
        self._steps = steps
        self._is_main = is_main
        self._tensorboard: Any = None
        self._folder = RunDirectory(run_dir).tensorboard if tensorboard and is_main else None
        self._throttle = Throttle(WARN_EVERY_S)
        self._began = time.perf_counter()
        self._first_step = resume_step
        if not is_main:
            return
        self._rows = RowFile(RunDirectory(run_dir).metrics, resume_step=resume_step, is_main=is_main)
        self._write(lambda _: None, purge_step=resume_step + 1)

    def _write(self, write: Callable[[Any], Any], *, purge_step: int | None = None) -> None:
        """Let ``write`` write TensorBoard events. What a full disk swallows costs a warning, not the run."""
        if self._folder is None:
            return
        try:
            if self._tensorboard is None:
                from torch.utils.tensorboard import SummaryWriter

                self._tensorboard = SummaryWriter(str(self._folder), purge_step=purge_step)
            write(self._tensorboard)
        except OSError as error:
            # Its writing thread is dead now; the next events get a writer, and a file, of their own.
            self._tensorboard = None
            self._throttle.warn(self._folder, error)

    def scalars(self, step: int, values: Mapping[str, float], *, samples: int, line: str = "") -> None:
        """One row: ``values`` by name; numbers that are not finite become null in JSON. ``line`` goes to the log."""
        if not self._is_main:
            return
        row: dict[str, float | None] = {"step": step, "samples": samples}
        row |= {name: value if math.isfinite(value) else None for name, value in values.items()}
        self._rows.add([row])
        self._write(lambda board: _add_scalars(board, values, step))
        if line:
            log.info("%s", line)

    def train_line(self, step: int, values: Mapping[str, float]) -> str:
        """The aligned console line of a logging interval."""
        width = len(str(self._steps))
        elapsed = time.perf_counter() - self._began
        left = elapsed / max(step - self._first_step, 1) * (self._steps - step)
        skipped = f"  skipped {values['skipped_steps']:.0f}" if values["skipped_steps"] else ""
        return (
            f"step {step:{width}d}/{self._steps}  loss {values['loss']:7.4f}  lr {values['learning_rate']:.2e}  "
            f"norm {values['gradient_norm']:7.3f}  {values['records_per_s']:8.1f} rec/s  "
            f"data wait {100 * values['data_wait_share']:3.0f} %{skipped}  left {format_duration(left)}"
        )

    def lead_weights(self, step: int, weights: list[float]) -> None:
        """Mean pooling weight of each lead, as scalars of one group."""
        named = {f"weight_of_lead/{name}": weight for name, weight in zip(LEADS, weights, strict=True)}
        self._write(lambda board: _add_scalars(board, named, step))

    def figures(self, step: int, figures: Mapping[str, Any]) -> None:
        """matplotlib figures, or uint8 images ``[H, W, 3]``."""
        self._write(lambda board: _add_figures(board, figures, step))

    def hparams(self, sections: Mapping[str, Mapping[str, Any]]) -> None:
        """What the run was set to, by section and key, for comparing runs by what came of them."""
        if self._folder is None:
            return
        from torch.utils.tensorboard.summary import hparams

        shown = {
            f"{section}.{key}": value
            for section, values in sections.items()
            for key, value in values.items()
            if isinstance(value, bool | int | float | str)
        }
        summaries = hparams(shown, dict.fromkeys(RESULTS, 0.0))
        self._write(lambda board: [board.file_writer.add_summary(each, self._first_step) for each in summaries])

    def text(self, name: str, text: str) -> None:
        """A text panel, shown as preformatted."""
        indented = "\n".join("    " + line for line in text.splitlines())
        self._write(lambda board: board.add_text(name, indented, self._first_step))

    def close(self) -> None:
        if self._tensorboard is not None:
            self._write(lambda board: board.close())
        self._folder = None


def _add_scalars(board: Any, values: Mapping[str, float], step: int) -> None:
    for name, value in values.items():
        tag = TAGS.get(name, name)
        board.add_scalar(tag if "/" in tag else f"train/{tag}", value, step)


def _add_figures(board: Any, figures: Mapping[str, Any], step: int) -> None:
    for name, figure in figures.items():
        if isinstance(figure, np.ndarray):
            board.add_image(TAGS.get(name, name), figure, step, dataformats="HWC")
        else:
            board.add_figure(TAGS.get(name, name), figure, step)
