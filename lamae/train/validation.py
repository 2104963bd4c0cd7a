"""What is measured between steps: the loss on fixed validation records under fixed masks, and the caller's probe."""

import logging
from collections.abc import Callable

import numpy as np
import torch

from lamae.base.errors import UsageError
from lamae.train.config import MonitorConfig, TrainConfig
from lamae.train.engine import Engine
from lamae.train.inputs import Inputs
from lamae.train.ranks.distributed import Ranks

SPLIT = "val"

log = logging.getLogger(__name__)

Probe = Callable[[torch.nn.Module], dict[str, float]]
"""Figures of merit by name, of a model in eval mode."""


class Validation:
    """The fixed records, and this rank's share of them. The loss does not depend on the number of ranks.

    Raises UsageError when validation is asked for and the split is empty.
    """

    def __init__(
        self, train: TrainConfig, monitor: MonitorConfig, inputs: Inputs, ranks: Ranks, *, probe: Probe | None = None
    ) -> None:
        self._every = train.validate_every
        self._probe_every = monitor.probe_every if probe is not None else 0
        if monitor.probe_every and probe is None and ranks.is_main:
            log.warning(
                "monitor.probe_every=%d is ignored: train() was given no probe",
                monitor.probe_every,
            )
        self._probe = probe
        self._inputs = inputs
        self._ranks = ranks
        self._micro = train.micro_batch_size
        if not self._every:
            return
        self._split_rows = rows = inputs.records.rows_of_split(SPLIT)
        if len(rows) == 0:
            raise UsageError(
                f"train.validate_every={self._every}, but {inputs.records.root} has no records in its {SPLIT} split; "
                "set train.validate_every=0 or pack with a validation split"
            )
        count = min(train.validate_records, len(rows))
        chosen = rows[np.linspace(0, len(rows) - 1, count).round().astype(np.int64)]
        # At stage 3 all ranks must run the model equally often, so short shares are filled up; fillers have weight 0.
        share = -(-count // ranks.world_size)
        places = ranks.rank * share + np.arange(share)
        self._counts_B = torch.from_numpy(places < count)
        self._rows = chosen[np.minimum(places, count - 1)]

    def measure(self, step: int, engine: Engine) -> dict[str, float]:
        """What is due at a step, by name: ``validation_loss``, ``validation/…``, ``probe/…``. Called by all ranks."""
        values: dict[str, float] = {}
        if self._every and step % self._every == 0:
            values |= self.losses(step, engine)
        if self._probe is not None and self._probe_every and step % self._probe_every == 0:
            # At stage 3 the weights are gathered layer by layer: all ranks run the model or none can.
            if self._ranks.is_main or engine.zero_stage == 3:
                with engine.evaluating() as model:
                    probed = self._probe(model)
                values |= {f"probe/{name}": value for name, value in probed.items()}
                log.info("probe at step %d: %s", step, _listed(probed))
            values = self._ranks.share(values)
        return values

    def losses(self, step: int, engine: Engine) -> dict[str, float]:
        """Mean loss over the records of the subset, and its parts as training has them; called by all ranks.

        A part is the mean over the micro-batches that have it. Synchronises.
        """
        total = torch.zeros(2, dtype=torch.float64)
        parts: dict[str, torch.Tensor] = {}
        reader, num_replaced = self._inputs.reader(self._split_rows), 0  # not kept: it holds files open
        with engine.evaluating() as model:
            for start in range(0, len(self._rows), self._micro):
                part = slice(start, start + self._micro)
                batch = reader.read(self._rows[part])
                num_replaced += batch.num_replaced
                signal, mask = self._inputs.prepare(batch, device=self._ranks.device, train=False)
                output = model(signal.x_BLT, signal.valid_BLT, signal.lead_mask_BL, mask)
                loss_B, counts_B = output.loss_B.double().cpu(), self._counts_B[part]
                total += torch.stack([loss_B[counts_B].sum(), counts_B.sum().double()])
                for name, value in output.parts.items():
                    defined = float(torch.isfinite(value))
                    summed = torch.tensor([float(value.nan_to_num()), 1.0], dtype=torch.float64) * defined
                    parts[name] = parts.get(name, 0.0) + summed
        if num_replaced:
            log.warning("validation at step %d: corrupt records replaced by others: %d", step, num_replaced)
        sums = self._ranks.mean(torch.stack([total, *parts.values()]))
        loss, *of_parts = [float(value / count) if count else float("nan") for value, count in sums]
        named = {name: value for name, value in zip(parts, of_parts, strict=True) if value == value}
        shown = {
            name: value for name, value in named.items() if not name.endswith(("_independent", "_derived", "_entropy"))
        }
        log.info("validation at step %d: loss %.4f (%s)", step, loss, _listed(shown))
        return {"validation_loss": loss, **{f"validation/{name}": value for name, value in named.items()}}


def _listed(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in values.items())
