"""How well hidden samples are reconstructed, beside what needs no model, by lead and by what was hidden.

Every hidden sample belongs to one situation:

    hidden lead, visible instant    the whole lead is hidden, other leads show this instant
    visible lead, hidden span       the lead shows other instants
    hidden lead, hidden instant     neither the lead nor the instant is visible anywhere

All predictors are scored on the same samples. Where a predictor sees nothing of a sample, it predicts the lead's
training mean, 0 where no training record has the lead. Derived leads (III, aVR, aVL, aVF) are kept apart: they follow
from I and II.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lamae.base.leads import CHEST_LEADS, DERIVED_LEADS, INDEPENDENT_LEADS, LEADS, NUM_LEADS
from lamae.base.progress import Progress, ignore
from lamae.data.config import SignalConfig
from lamae.data.transforms import Signal, SignalTransform
from lamae.evaluate.embeddings.inference import read_signals, transform_for
from lamae.evaluate.reconstruct.trivial import LINEAR, TRIVIAL, predictors
from lamae.evaluate.statistics import Drawn, Interval, estimate, subject_weights
from lamae.evaluate.values import finite
from lamae.model.config import MaskConfig
from lamae.model.masking import Mask, draw_mask
from lamae.sharding.format import ShardSet
from lamae.train.checkpoint.format import LoadedModel

SITUATIONS = ("hidden lead, visible instant", "visible lead, hidden span", "hidden lead, hidden instant")
MODEL = "model"
GROUPS: dict[str, tuple[int, ...]] = {
    **{LEADS[lead]: (lead,) for lead in INDEPENDENT_LEADS},
    "I, II": (0, 1),
    "V1-V6": CHEST_LEADS,
    "I, II, V1-V6": INDEPENDENT_LEADS,
    "derived": DERIVED_LEADS,
}
NUM_TRAIN_RECORDS = 512


@dataclass(frozen=True)
class ReconstructionErrors:
    """Sums of squared errors, kept per record so that their ratios can be resampled by subject."""

    squared_MSLG: np.ndarray
    """float64 [records, situations, 12 leads, predictors], in ``unit`` squared."""
    count_MSL: np.ndarray
    """Hidden samples behind each sum."""
    defined_SLG: np.ndarray
    """Of these, all records together, how many each predictor had something to go by for."""
    predictors: tuple[str, ...]
    """Names along the last axis; the first is the model."""
    subject_M: np.ndarray
    unit: str
    """"mV", or "model units" where the transform does not keep amplitude."""
    scored_on: str = ""
    """Which samples were hidden of what signal, in words: errors are comparable only where this is the same."""

    def mse(self, situation: str, group: str) -> dict[str, float]:
        """Mean squared error by predictor over all hidden samples of a group of leads.

        NaN where no sample was hidden, and for a predictor that had nothing to go by for any of them.
        """
        squared_ZG, count_Z = self._pool(np.ones((1, len(self.subject_M))), situation, group)
        defined_G = self.defined_SLG[SITUATIONS.index(situation), list(GROUPS[group])].sum(0)
        mse_G = np.where(defined_G > 0, squared_ZG[0] / count_Z[0], np.nan)
        return dict(zip(self.predictors, mse_G.tolist(), strict=True))

    def best_trivial(self, situation: str, group: str) -> tuple[str, float]:
        """The trivial predictor with the least error, and that error."""
        errors = self.mse(situation, group)
        name = min(TRIVIAL, key=lambda trivial: np.nan_to_num(errors[trivial], nan=np.inf))
        return name, errors[name]

    def ratio(self, situation: str, group: str, *, against: str | None = None) -> Interval:
        """Error of the model over that of ``against`` (default: the best trivial predictor), 95 % over subjects."""
        return estimate({0: self.drawn_ratio(situation, group, against or self.best_trivial(situation, group)[0])})

    def drawn_ratio(self, situation: str, group: str, against: str) -> Drawn:
        """``ratio`` over all records and in every draw of subjects."""
        other = self.predictors.index(against)
        squared_ZG, _ = self._pool(self._draws_ZM, situation, group)
        with np.errstate(divide="ignore", invalid="ignore"):  # a draw in which nothing was hidden
            ratio_Z = squared_ZG[:, 0] / squared_ZG[:, other]
        return hashlib.sha256(self.subject_M.tobytes()).hexdigest(), float(ratio_Z[0]), ratio_Z[1:]

    def table(self) -> list[dict[str, Any]]:
        """One row per situation and group of leads that occur: errors by predictor, ready for JSON."""
        rows = []
        for situation in SITUATIONS:
            for group, leads in GROUPS.items():
                count_ML = self.count_MSL[:, SITUATIONS.index(situation)][:, list(leads)]
                if not count_ML.any():
                    continue
                name, _ = self.best_trivial(situation, group)
                rows.append(
                    {
                        "situation": situation,
                        "group": group,
                        "num_samples": int(count_ML.sum()),
                        "num_records": int(count_ML.any(1).sum()),
                        "mse": self.mse(situation, group),
                        "best_trivial": name,
                        "ratio_to_best_trivial": self.ratio(situation, group),
                        "ratio_to_linear": self.ratio(situation, group, against=LINEAR),
                        "unit": f"{self.unit}²",
                        "scored_on": self.scored_on,
                    }
                )
        return [finite(row) for row in rows]

    @cached_property
    def _draws_ZM(self) -> np.ndarray:
        """Once all records, then the draws of subjects."""
        drawn_ZM = subject_weights(self.subject_M)
        return np.concatenate([np.ones((1, len(self.subject_M))), drawn_ZM])

    def _pool(self, weights_ZM: np.ndarray, situation: str, group: str) -> tuple[np.ndarray, np.ndarray]:
        s, leads = SITUATIONS.index(situation), list(GROUPS[group])
        squared_MG = self.squared_MSLG[:, s][:, leads].sum(1)
        count_M = self.count_MSL[:, s][:, leads].sum(1)
        with np.errstate(divide="ignore", invalid="ignore"):
            count_Z = weights_ZM @ count_M
            return weights_ZM @ squared_MG, np.where(count_Z > 0, count_Z, np.nan)


@torch.inference_mode()
def reconstruction_errors(
    loaded: LoadedModel,
    shards: Path | ShardSet,
    rows: np.ndarray,
    *,
    mask: MaskConfig | None = None,
    seed: int = 0,
    batch_size: int = 32,
    device: str = "cpu",
    train_rows: np.ndarray | None = None,
    progress: Progress = ignore,
) -> ReconstructionErrors:
    """Hide parts of ``rows`` and compare what the model and the trivial predictors make of them.

    ``mask`` is the run's own unless given; masks follow from ``seed``, the row and the number of patches, so two models
    are scored on the same hidden samples where ``scored_on`` of both is the same. The share of records decoded from
    their embedding alone (``mask.record_only_share``) is left out: it is a training device. Only samples that this kind
    of model predicts at all are counted: the independent baseline knows no hidden leads. ``train_rows`` (default: the
    train split without quality flags), at most NUM_TRAIN_RECORDS of them, give lead means and covariance. Raises
    UsageError when recordings do not fit the model.
    """
    shard_set = ShardSet.open(shards)
    transform = transform_for(loaded, shard_set)
    train_rows = _unflagged(shard_set, shard_set.rows_of_split("train")) if train_rows is None else train_rows
    mean_L, covariance_LL = lead_moments(shard_set, spread(train_rows, NUM_TRAIN_RECORDS), transform=transform)
    trivial, fallback_L1 = predictors(mean_L, covariance_LL), np.nan_to_num(mean_L)[:, None]
    squared, count = [], []
    defined_SLG = np.zeros((len(SITUATIONS), NUM_LEADS, 1 + len(trivial)), dtype=np.int64)
    for signal in read_signals(shard_set, rows, transform=transform, batch_size=batch_size, device=device):
        drawn = draw_evaluation_mask(loaded, signal, mask=mask, seed=seed)
        y_BLT, predicted_BLT = loaded.model.reconstruct(signal.x_BLT, signal.valid_BLT, signal.lead_mask_BL, drawn)
        x_BLT = signal.x_BLT.double().cpu().numpy()
        valid_BLT = signal.valid_BLT.cpu().numpy()
        hidden_BLN = drawn.hidden_BLN.cpu().numpy()
        hidden_BLT = hidden_BLN.repeat(loaded.config.model.patch_size, axis=2) & valid_BLT
        visible_BLT = valid_BLT & ~hidden_BLT
        scored_BLT = hidden_BLT & predicted_BLT.cpu().numpy()
        situation_BLT = np.where(scored_BLT, situations(hidden_BLT, visible_BLT), -1)
        which_BSLT = np.stack([situation_BLT == s for s in range(len(SITUATIONS))], axis=1)
        guesses = [(y_BLT.double().cpu().numpy(), np.ones_like(hidden_BLT))]
        guesses += [predict(x_BLT, visible_BLT) for predict in trivial.values()]
        squared_G = []
        for p, (guess_BLT, defined_BLT) in enumerate(guesses):
            error_BLT = (np.where(defined_BLT, guess_BLT, fallback_L1) - x_BLT) ** 2
            squared_G.append(np.einsum("bslt,blt->bsl", which_BSLT, error_BLT))
            defined_SLG[..., p] += np.einsum("bslt,blt->sl", which_BSLT, defined_BLT, dtype=np.int64)
        squared.append(np.stack(squared_G, axis=-1))
        count.append(which_BSLT.sum(-1))
        progress("reconstruct", sum(map(len, count)), len(rows))
    scale, unit = loaded.config.signal.output_scale
    return ReconstructionErrors(
        squared_MSLG=np.concatenate(squared) * scale**2,
        count_MSL=np.concatenate(count),
        defined_SLG=defined_SLG,
        predictors=(MODEL, *trivial),
        subject_M=shard_set.column("subject")[rows],
        unit=unit,
        scored_on=_describe_target(loaded) + ("" if mask is not None else f", {_scored_mask(loaded, None)}"),
    )


def _describe_target(loaded: LoadedModel) -> str:
    """What decides, beside the mask, which samples are hidden and what they are."""
    config, patch_size = loaded.config.signal, loaded.config.model.patch_size
    num_patches, (_, unit) = loaded.num_samples // patch_size, config.output_scale
    clipped = f", clipped at {config.clip_mv:g} mV" if config.clip_mv else ""
    return f"{num_patches} patches of {patch_size / config.rate_hz:g} s, {config.rate_hz} Hz, {unit}{clipped}"


@dataclass(frozen=True)
class Reconstruction:
    """One record as a figure shows it; arrays [12, T] in ``unit``."""

    key: str
    x_LT: np.ndarray
    y_LT: np.ndarray
    predicted_LT: np.ndarray
    valid_LT: np.ndarray
    rate_hz: float
    unit: str

    @classmethod
    def of(
        cls, key: str, config: SignalConfig, b: int, signal: Signal, y_BLT: torch.Tensor, predicted_BLT: torch.Tensor
    ) -> "Reconstruction":
        """Record ``b`` of a batch, whose signal was made as ``config`` says, and what ``reconstruct`` gave for it."""
        x_LT, y_LT, predicted_LT, valid_LT = (
            of_BLT[b].cpu().numpy() for of_BLT in (signal.x_BLT, y_BLT, predicted_BLT, signal.valid_BLT)
        )
        scale, unit = config.output_scale
        return cls(key, scale * x_LT, scale * y_LT, predicted_LT, valid_LT, float(config.rate_hz), unit)


@torch.inference_mode()
def reconstruct_records(
    loaded: LoadedModel,
    shards: Path | ShardSet,
    rows: np.ndarray,
) -> list[Reconstruction]:
    """What the model makes of hidden parts of ``rows``, under the run's own masks in ``reconstruction_errors``."""
    shard_set = ShardSet.open(shards)
    transform = transform_for(loaded, shard_set)
    found: list[Reconstruction] = []
    for signal in read_signals(shard_set, rows, transform=transform, batch_size=16):
        drawn = draw_evaluation_mask(loaded, signal, mask=None, seed=0)
        y_BLT, predicted_BLT = loaded.model.reconstruct(signal.x_BLT, signal.valid_BLT, signal.lead_mask_BL, drawn)
        found += [
            Reconstruction.of(shard_set.keys[row], loaded.config.signal, b, signal, y_BLT, predicted_BLT)
            for b, row in enumerate(signal.row.tolist())
        ]
    return found


def draw_evaluation_mask(loaded: LoadedModel, signal: Signal, *, mask: MaskConfig | None, seed: int) -> Mask:
    """The masks under which a batch is scored: keyed by seed and row, nothing decoded from the embedding alone."""
    return draw_mask(
        _scored_mask(loaded, mask),
        seed=seed,
        epoch_B=torch.zeros_like(signal.row),
        row_B=signal.row,
        lead_mask_BL=signal.lead_mask_BL,
        num_patches=loaded.num_samples // loaded.config.model.patch_size,
    )


def _scored_mask(loaded: LoadedModel, mask: MaskConfig | None) -> MaskConfig:
    return dataclasses.replace(mask or loaded.config.mask, record_only_share=0.0)


def situations(hidden_BLT: np.ndarray, visible_BLT: np.ndarray) -> np.ndarray:
    """int8 [B, L, T]: index into SITUATIONS of every hidden sample, -1 elsewhere."""
    lead_shown = visible_BLT.any(2, keepdims=True)
    instant_shown = visible_BLT.any(1, keepdims=True)
    kind = np.where(lead_shown, 1, np.where(instant_shown, 0, 2))
    return np.where(hidden_BLT, kind, -1).astype(np.int8)


def lead_moments(shard_set: ShardSet, rows: np.ndarray, *, transform: SignalTransform) -> tuple[np.ndarray, np.ndarray]:
    """Mean [12] and covariance [12, 12] of the leads, each pair over the instants at which both are valid, float64.

    The mean of a lead that is never valid is NaN; a pair that is never valid together counts as uncorrelated.
    """
    total_LL, outer_LL, count_LL = np.zeros((3, NUM_LEADS, NUM_LEADS))
    for signal in read_signals(shard_set, rows, transform=transform, batch_size=64):
        both = (signal.x_BLT, signal.valid_BLT)
        x_LI, valid_LI = (of_BLT.transpose(0, 1).flatten(1).double().numpy() for of_BLT in both)
        total_LL += x_LI @ valid_LI.T  # of the first lead where the second is valid, too: x is 0 where it is not
        outer_LL += x_LI @ x_LI.T
        count_LL += valid_LI @ valid_LI.T
    count_L = np.diagonal(count_LL)
    mean_L = np.diagonal(total_LL) / np.maximum(count_L, 1)
    shift_LL = total_LL * mean_L
    covariance_LL = (outer_LL - shift_LL - shift_LL.T) / np.maximum(count_LL, 1) + np.outer(mean_L, mean_L)
    # Pairs counted over different instants may contradict each other: the nearest that is a covariance.
    values, vectors = np.linalg.eigh(np.where(count_LL > 0, covariance_LL, 0.0))
    return np.where(count_L > 0, mean_L, np.nan), (vectors * values.clip(0)) @ vectors.T


def _unflagged(shard_set: ShardSet, rows: np.ndarray) -> np.ndarray:
    """Those of ``rows`` without any quality flag, or all where that leaves none: one artefact spoils a covariance."""
    clean = ~shard_set.flagged_N[rows]
    return rows[clean] if clean.any() else rows


def spread(rows: Sequence[int] | np.ndarray, most: int) -> np.ndarray:
    """At most ``most`` of ``rows``, evenly spread."""
    rows = np.asarray(rows)
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]
