"""Watches for steps that went wrong: a loss or gradient that is not finite, and losses far above the recent ones."""

import logging
import math
import statistics
from collections import deque
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from lamae.base.errors import LamaeError
from lamae.base.rowfile import RowFile
from lamae.base.rundirectory import RunDirectory
from lamae.data.mixture import Mixture
from lamae.train.ranks.distributed import Ranks

SPIKE_WINDOW = 256
SPIKE_MIN_RATIO = 1.5
SPIKE_MIN_HISTORY = 32
# Scales a median absolute deviation to the standard deviation of a normal distribution.
MAD_TO_SIGMA = 1.4826
LARGEST_WEIGHT = 1e4

log = logging.getLogger(__name__)


class SpikeDetector:
    """Robust z-score of each loss against the recent ones, on a logarithmic scale: losses of batches have long upper
    tails, and a spike is a ratio. (log loss - median) / (1.4826 * median absolute deviation)."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._recent: deque[float] = deque(maxlen=SPIKE_WINDOW)

    def spike(self, loss: float) -> float | None:
        """z-score of a loss if it is a spike: above the threshold, and half again as large as the recent median.

        The loss joins the recent ones; while these are few, nothing is a spike.
        """
        if not (math.isfinite(loss) and loss > 0):
            return None
        value, zscore = math.log(loss), None
        if self._threshold and len(self._recent) >= SPIKE_MIN_HISTORY:
            median = statistics.median(self._recent)
            spread = MAD_TO_SIGMA * statistics.median(abs(x - median) for x in self._recent)
            if spread > 0 and value - median > max(self._threshold * spread, math.log(SPIKE_MIN_RATIO)):
                zscore = (value - median) / spread
        self._recent.append(value)
        return zscore


class Quarantine:
    """Lists the records of skipped steps in ``quarantine.jsonl`` of the run directory, for people to look at."""

    def __init__(self, run_dir: Path, records: Mixture, ranks: Ranks, *, resume_step: int) -> None:
        self._rows = RowFile(RunDirectory(run_dir).quarantine, resume_step=resume_step, is_main=ranks.is_main)
        self._records = records
        self._ranks = ranks

    def add(self, step: int, *, rows: np.ndarray, epochs: np.ndarray, losses_B: torch.Tensor) -> list[str]:
        """Note this rank's share of a skipped step; called by all ranks. Gives the keys that were noted.

        Records whose own loss is not finite are at fault; where there is none (the gradient overflowed), every
        record of the step is a suspect.
        """
        bad = ~torch.isfinite(losses_B).cpu().numpy()
        shares = self._ranks.gather((rows, epochs, bad))
        all_rows, all_epochs, all_bad = (np.concatenate(parts) for parts in zip(*shares, strict=True))
        reason = "loss" if all_bad.any() else "gradient"
        chosen = all_bad if all_bad.any() else np.ones_like(all_bad)
        entries = [
            {"step": step, "key": self._records.keys[row], "row": int(row), "epoch": int(epoch), "not_finite": reason}
            for row, epoch in zip(all_rows[chosen], all_epochs[chosen], strict=True)
        ]
        self._rows.add(entries)
        return [str(entry["key"]) for entry in entries]


def stop_after_skipped_steps(skipped_in_a_row: int, *, limit: int, step: int, run_dir: Path) -> None:
    """Raises LamaeError after ``limit`` skipped steps in a row: nothing is being learned."""
    if skipped_in_a_row >= limit:
        raise LamaeError(
            f"{skipped_in_a_row} steps in a row, up to step {step}, had a loss or gradient that is not finite; the "
            f"records are in {RunDirectory(run_dir).quarantine}. Start again, from the newest checkpoint, with a lower "
            "optim.lr, a lower optim.clip_norm or engine.precision=fp32",
            all_ranks=True,
        )


def unfit_weight(weights: Iterable[tuple[str, torch.Tensor]]) -> str:
    """In words, the first of these weights that no training could go on from; empty where there is none."""
    for name, weight in weights:
        low, high = map(float, weight.detach().aminmax()) if weight.numel() else (0.0, 0.0)
        if not max(-low, high) < LARGEST_WEIGHT:  # also where they are NaN
            return (
                f"parameter {name} has an entry of size {max(-low, high):g}; weights must be finite and below "
                f"{LARGEST_WEIGHT:g}"
            )
    return ""
