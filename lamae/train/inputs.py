"""From the records of a run to what its model is given: shard set, rows, loader, signal and mask."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from lamae.data.batch import Batch
from lamae.data.loader import RingLoader, read_batch
from lamae.data.transforms import Signal, SignalTransform
from lamae.model.masking import Mask, draw_mask
from lamae.sharding.errors import UsageError
from lamae.sharding.format import ShardSet
from lamae.train.distributed import Ranks
from lamae.train.subjects import subject_set, subject_set_hash

if TYPE_CHECKING:
    from lamae.config import RunConfig


class Inputs:
    """The data side of a run; the same on every rank."""

    def __init__(self, config: "RunConfig") -> None:
        self._config = config
        self.shard_set = ShardSet.open(config.data.path)
        self.rows = self.shard_set.rows_of_split(config.data.split)
        if len(self.rows) == 0:
            raise UsageError(f"{config.data.path}: no records in data.split={config.data.split}; choose another split")
        self.subjects = subject_set(self.shard_set, self.rows)
        self.subject_hash = subject_set_hash(self.subjects)
        self._transform = SignalTransform(
            config.signal, source_rate_hz=self.shard_set.rate_hz, num_samples=self.shard_set.num_samples
        )

    @property
    def num_samples(self) -> int:
        """Samples per lead of the model's input."""
        return self._transform.num_samples

    def loader(self, ranks: Ranks, *, samples_consumed: int, num_batches: int) -> RingLoader:
        """This rank's batches from a position of the global order on."""
        return RingLoader(
            self.shard_set,
            self.rows,
            config=self._config.data,
            seed=self._config.train.seed,
            global_batch_size=self._config.train.global_batch_size,
            rank=ranks.rank,
            world_size=ranks.world_size,
            samples_consumed=samples_consumed,
            num_batches=num_batches,
        )

    def prepare(self, batch: Batch, *, device: torch.device, train: bool) -> tuple[Signal, Mask]:
        """Signal and mask of a batch on ``device``; both depend on (seed, epoch, record) alone."""
        seed = self._config.train.seed
        signal = self._transform(batch.to(device), seed=seed, train=train)
        mask = draw_mask(
            self._config.mask,
            seed=seed,
            epoch_B=signal.epoch,
            row_B=signal.row,
            lead_mask_BL=signal.lead_mask_BL,
            num_patches=self.num_samples // self._config.model.patch_size,
        )
        return signal, mask

    def fixed_batch(self, *, split: str, num_records: int) -> Batch:
        """``num_records`` records spread evenly over a split: always the same ones.

        Falls back to the training rows where the split is empty.
        """
        rows = self.shard_set.rows_of_split(split)
        rows = rows if len(rows) else self.rows
        chosen = np.unique(np.linspace(0, len(rows) - 1, num_records).round().astype(np.int64))
        return read_batch(self.shard_set, rows[chosen])
