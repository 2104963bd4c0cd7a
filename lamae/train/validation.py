"""Loss on a fixed subset of the validation split under fixed masks: comparable from step to step and run to run."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from lamae.data.loader import read_batch
from lamae.train.distributed import Ranks
from lamae.train.engine import Engine
from lamae.train.inputs import Inputs
from sharding.errors import UsageError

if TYPE_CHECKING:
    from lamae.config import RunConfig

SPLIT = "val"


class Validation:
    """The subset, and this rank's share of it. The result does not depend on the number of ranks.

    Raises UsageError when validation is asked for and the split is empty.
    """

    def __init__(self, config: "RunConfig", inputs: Inputs, ranks: Ranks) -> None:
        self._every = config.train.validate_every
        self._inputs = inputs
        self._ranks = ranks
        self._micro = config.train.micro_batch_size
        if not self._every:
            return
        rows = inputs.shard_set.rows_of_split(SPLIT)
        if len(rows) == 0:
            raise UsageError(
                f"train.validate_every={self._every}, but {config.data.path} has no records in its {SPLIT} split; "
                "set train.validate_every=0 or pack with a validation split"
            )
        count = min(config.train.validate_records, len(rows))
        chosen = rows[np.linspace(0, len(rows) - 1, count).round().astype(np.int64)]
        # Every rank runs the same number of records, since at stage 3 all must run alike; fillers count for nothing.
        share = -(-count // ranks.world_size)
        places = ranks.rank * share + np.arange(share)
        self._counts_B = torch.from_numpy(places < count)
        self._rows = chosen[np.minimum(places, count - 1)]

    def is_due(self, step: int) -> bool:
        return self._every > 0 and step % self._every == 0

    def loss(self, engine: Engine) -> float:
        """Mean loss over the records of the subset; called by all ranks. Synchronises."""
        total = torch.zeros(2, dtype=torch.float64)
        with engine.evaluating() as model:
            for start in range(0, len(self._rows), self._micro):
                part = slice(start, start + self._micro)
                batch = read_batch(self._inputs.shard_set, self._rows[part])
                signal, mask = self._inputs.prepare(batch, device=self._ranks.device, train=False)
                loss_B = model(signal.x_BLT, signal.valid_BLT, signal.lead_mask_BL, mask).loss_B.double().cpu()
                counts_B = self._counts_B[part]
                total += torch.stack([loss_B[counts_B].sum(), counts_B.sum().double()])
        sum_and_count = self._ranks.mean(total)
        return float(sum_and_count[0] / sum_and_count[1])
