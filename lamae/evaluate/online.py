"""A small probe of a model that is still training: the same few labelled records every time.

A logistic regression of one fixed strength on frozen record embeddings, fitted on records of the train split and
scored on records of val. The test split is not touched, and nothing is chosen: it follows a run, it does not report it.
"""

from pathlib import Path
from typing import cast

import numpy as np
import torch

from lamae.base.errors import UsageError
from lamae.data.transforms import SignalTransform
from lamae.evaluate import store
from lamae.evaluate.embeddings.inference import read_signals
from lamae.evaluate.labels.store import read_labels
from lamae.evaluate.probe.auroc import auroc
from lamae.evaluate.probe.features import Standardizer
from lamae.evaluate.probe.logistic import LogisticSolver
from lamae.evaluate.reconstruct.reconstruction import spread
from lamae.evaluate.statistics import macro
from lamae.model import PretrainModel
from lamae.sharding.format import ShardSet
from lamae.train.runconfig import RunConfig

STRENGTH = 1e-2
VAL_SHARE = 0.5
BATCH_SIZE = 32


class OnlineProbe:
    """``probe(model)`` gives ``{"macro_auroc": …}``: what ``lamae.train.loop.train`` asks for.

    Raises UsageError when the labels belong to other records, or leave nothing to fit or to score.
    """

    def __init__(self, config: RunConfig, labels: Path, *, num_records: int) -> None:
        truth = read_labels(labels)
        sets = [ShardSet.open(path) for path in config.data.paths]
        labelled = [shard_set for shard_set in sets if shard_set.index_hash == truth.index_hash]
        self._shard_set = (labelled or sets)[0]
        store.require_same_rows(labels, truth.index_hash, self._shard_set.root, self._shard_set.index_hash)
        self._transform = SignalTransform(
            config.signal, source_rate_hz=self._shard_set.rate_hz, num_samples=self._shard_set.num_samples
        )
        counts = {"train": num_records, "val": round(VAL_SHARE * num_records)}
        self._rows = {split: spread(truth.rows(split), count) for split, count in counts.items()}
        labels_of = {split: store.dense(truth.label_NC[rows]).astype(bool) for split, rows in self._rows.items()}
        usable_C = np.logical_and.reduce([y_NC.any(0) & ~y_NC.all(0) for y_NC in labels_of.values()])
        if not usable_C.any():
            raise UsageError(
                f"monitor.probe_labels={labels}: no code has both classes in {len(self._rows['train'])} train and "
                f"{len(self._rows['val'])} val records; raise monitor.probe_records or label more"
            )
        self._y = {split: y_NC[:, usable_C] for split, y_NC in labels_of.items()}

    def __call__(self, model: torch.nn.Module) -> dict[str, float]:
        """Macro AUROC over the codes, of ``model`` (a PretrainModel in eval mode) as it now is; NaN where that gives
        values that are not finite."""
        x = {split: self._embed(model, rows) for split, rows in self._rows.items()}
        if not all(np.isfinite(x_ND).all() for x_ND in x.values()):
            return {"macro_auroc": float("nan")}
        scale = Standardizer.fit(x["train"])
        fitted = LogisticSolver(scale.apply(x["train"]), self._y["train"]).fit(STRENGTH)
        return {"macro_auroc": float(macro(auroc(fitted.decide(scale.apply(x["val"])), self._y["val"])))}

    def _embed(self, model: torch.nn.Module, rows: np.ndarray) -> np.ndarray:
        device = str(next(model.parameters()).device)
        signals = read_signals(self._shard_set, rows, transform=self._transform, batch_size=BATCH_SIZE, device=device)
        embed = cast(PretrainModel, model).embed
        parts = [embed(signal.x_BLT, signal.valid_BLT, signal.lead_mask_BL).record_BD for signal in signals]
        return torch.cat(parts).float().cpu().numpy()
