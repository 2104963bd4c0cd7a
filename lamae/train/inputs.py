"""From the records of a run to what its model is given: shard set, rows, loader, signal and mask."""

import logging

import numpy as np
import torch

from lamae.data.batch import Batch
from lamae.data.loader import RingLoader, order_of
from lamae.data.mixture import Mixture
from lamae.data.reader import RecordReader
from lamae.data.transforms import MixtureTransform, Signal
from lamae.model.masking import Mask, draw_mask
from lamae.train.checkpoint.subjects import describe_set, subject_set, subject_set_hash
from lamae.train.ranks.distributed import Ranks
from lamae.train.runconfig import RunConfig

log = logging.getLogger(__name__)


class Inputs:
    """The data side of a run; the same on every rank."""

    def __init__(self, config: RunConfig) -> None:
        self._config = config
        self.records = Mixture.open(config.data.paths)
        self.rows = self.records.rows_of_split(config.data.split)
        # Refuses sets without records; the loader makes its own.
        order_of(self.records, self.rows, config=config.data, seed=config.train.seed)
        by_set, self.sets = [], []
        for name, shard_set in zip(self.records.names, self.records.sets, strict=True):
            rows = shard_set.rows_of_split(config.data.split)
            by_set.append(subject_set(shard_set, rows))
            self.sets.append(describe_set(shard_set, rows, by_set[-1], name=name))
        # Hashes of different sets are salted apart: equal numbers in two hospitals stay two patients.
        self.subjects = np.unique(np.concatenate(by_set))
        self.subject_hash = subject_set_hash(self.subjects)
        self._warn_of_shared_subjects()
        self._transform = MixtureTransform(config.signal, self.records)

    def _warn_of_shared_subjects(self) -> None:
        """Of two packs of one data set with other splits: who is trained on in one may be tested on in the other."""
        if len(self.records.sets) == 1:
            return
        for split in sorted({"val", "test"} - {self._config.data.split}):
            hashes = [subject_set(shard_set, shard_set.rows_of_split(split)) for shard_set in self.records.sets]
            shared = len(np.intersect1d(np.concatenate(hashes), self.subjects))
            if shared:
                log.warning(
                    "data.path: %d subjects of one set's %s split are trained on in another, which holds the same "
                    "patients under other splits; pack both with the same folds, or leave one out",
                    shared,
                    split,
                )

    @property
    def num_samples(self) -> int:
        """Samples per lead of the model's input."""
        return self._transform.num_samples

    def loader(self, ranks: Ranks, *, samples_consumed: int, num_batches: int) -> RingLoader:
        """This rank's batches from a position of the global order on."""
        return RingLoader(
            self.records,
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

    def loss_by_set(self, batch: Batch, loss_B: torch.Tensor) -> dict[str, torch.Tensor]:
        """``set/NAME``: mean loss of each set's records, NaN where the batch has none; nothing where there is one set.

        Does not wait for the device.
        """
        if batch.set_of is None:
            return {}
        set_of = batch.set_of.to(loss_B.device, non_blocking=True)
        by_set = [torch.where(set_of == place, loss_B.float(), torch.nan) for place in range(len(self.records.sets))]
        return {f"set/{name}": loss_B.nanmean() for name, loss_B in zip(self.records.names, by_set, strict=True)}

    def fixed_batch(self, *, split: str, num_records: int) -> Batch:
        """``num_records`` records spread evenly over a split: always the same ones.

        Falls back to the training rows where the split is empty.
        """
        rows = self.records.rows_of_split(split)
        rows = rows if len(rows) else self.rows
        chosen = np.unique(np.linspace(0, len(rows) - 1, num_records).round().astype(np.int64))
        return self.reader(rows).read(rows[chosen])

    def reader(self, rows: np.ndarray) -> RecordReader:
        """Reads some of ``rows`` as the loader does, corrupt records included."""
        return RecordReader.configured(self.records, self._config.data, rows=rows, seed=self._config.train.seed)
