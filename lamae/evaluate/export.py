"""A pretrained model for others: three files without ids, and embeddings of raw numpy signals in five lines.

    OUT/model.safetensors   weights, float32
    OUT/config.json         format version, model, mask and signal configuration, input length, sha256 of the weights
    OUT/README.md           model card

The subjects it was pretrained on are told by their number only: hashes of ids from a small range can be undone.
"""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save

from lamae import config as run_config
from lamae.data.batch import Batch
from lamae.data.config import SignalConfig
from lamae.data.transforms import SignalTransform
from lamae.evaluate import store
from lamae.evaluate.card import model_card
from lamae.model import PretrainModel, build_model
from lamae.sharding.errors import LamaeError, UsageError
from lamae.sharding.format import NO_SAMPLE
from lamae.sharding.leads import LEADS, NUM_LEADS, lead_index
from lamae.train.checkpoint import file_digest, load_model

EXPORT_VERSION = 1
WEIGHTS_NAME, CONFIG_NAME, CARD_NAME = "model.safetensors", "config.json", "README.md"
# Signals given in millivolt become int16 with this many units per millivolt: 1 microvolt steps, ±32 mV.
UNITS_PER_MV = 1000


def export(run: Path, out: Path) -> None:
    """Write the model of a run or checkpoint to directory ``out``. Raises UsageError when ``out`` exists."""
    store.refuse_existing(out)
    loaded = load_model(run)
    config = run_config.to_dict(loaded.config)
    # Not save_file, which gives its file to the owner alone: an export is for others.
    weights = save({name: tensor.contiguous() for name, tensor in loaded.model.state_dict().items()})
    content = {
        "export_version": EXPORT_VERSION,
        "model": config["model"],
        "mask": config["mask"],
        "signal": config["signal"],
        "num_samples": loaded.num_samples,
        "step": loaded.step,
        "samples_consumed": loaded.samples_consumed,
        "num_pretraining_subjects": len(loaded.subject_hashes),
        "config_hash": run_config.config_hash(loaded.config),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    partial = store.partial_path(out)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        (partial / WEIGHTS_NAME).write_bytes(weights)
        (partial / CONFIG_NAME).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        num_parameters = sum(p.numel() for p in loaded.model.parameters())
        (partial / CARD_NAME).write_text(model_card(content, num_parameters=num_parameters), encoding="utf-8")
        os.rename(partial, out)
    except OSError as error:
        raise LamaeError(f"{out}: cannot be written ({error.strerror or error})") from None


@dataclass(frozen=True)
class SignalEmbedding:
    """What a model makes of B signals; numpy, float32."""

    record: np.ndarray
    """[B, D]: the model's own pooled embedding."""
    mean: np.ndarray
    """[B, D]: plain mean of the tokens."""
    lead_weights: np.ndarray
    """[B, 12]: share of each lead in ``record``, canonical order I II III aVR aVL aVF V1..V6."""


@dataclass(frozen=True)
class ExportedModel:
    """A model read by ``load``."""

    model: PretrainModel
    signal: SignalConfig
    num_samples: int
    device: str

    @torch.inference_mode()
    def embed(self, signal_mv: np.ndarray, rate_hz: float, leads: Sequence[str] = LEADS) -> SignalEmbedding:
        """Embed one record [L, T] or a batch [B, L, T].

        Args:
            signal_mv: millivolt; NaN where there is no sample.
            rate_hz: sampling rate, a whole multiple of the model's.
            leads: name of each of the L rows, any subset of the twelve in any order.

        Records longer than those of pretraining are cut to their middle; shorter ones are taken as they are, down to
        whole patches. Raises UsageError for leads, rates or shapes that cannot be used, and for a record without any
        sample.
        """
        if not rate_hz > 0 or round(rate_hz / self.signal.rate_hz) * self.signal.rate_hz != rate_hz:
            raise UsageError(
                f"rate_hz={rate_hz:g} is no whole multiple of the model's {self.signal.rate_hz} Hz; resample the signal"
            )
        adc_BLT, present_L = _to_adc(np.asarray(signal_mv), leads)
        config = dataclasses.replace(self.signal, seconds=0.0)
        transform = SignalTransform(config, source_rate_hz=rate_hz, num_samples=adc_BLT.shape[2])
        B = len(adc_BLT)
        adc = torch.from_numpy(adc_BLT)
        lead_mask_BL = torch.from_numpy(present_L) & (adc != NO_SAMPLE).any(2)
        if not bool(lead_mask_BL.any(1).all()):
            empty = torch.nonzero(~lead_mask_BL.any(1)).flatten().tolist()
            raise UsageError(f"record {empty[0]} of {B} ({len(empty)} in all) has no sample in any lead; leave it out")
        batch = Batch(
            adc=adc,
            gain=torch.full((B, NUM_LEADS), float(UNITS_PER_MV)),
            baseline=torch.zeros(B, NUM_LEADS),
            lead_mask=lead_mask_BL,
            row=torch.arange(B),
            epoch=torch.zeros(B, dtype=torch.int64),
            samples_consumed=0,
            may_miss_samples=torch.ones(B, dtype=torch.bool),
        )
        signal = transform(batch.to(self.device), seed=0, train=False)
        kept = _middle(transform.num_samples, self.num_samples, self.model.config.patch_size)
        found = self.model.embed(signal.x_BLT[..., kept], signal.valid_BLT[..., kept], signal.lead_mask_BL)
        return SignalEmbedding(
            record=found.record_BD.cpu().numpy(),
            mean=found.mean_BD.cpu().numpy(),
            lead_weights=found.lead_weights_BL.cpu().numpy(),
        )


def load(path: str | os.PathLike[str], *, device: str = "cpu") -> ExportedModel:
    """Read an exported model.

    Raises UsageError when ``path`` is none, LamaeError when it is damaged or newer than this lamae.
    """
    root = Path(path)
    if not (root / CONFIG_NAME).is_file():
        raise UsageError(
            f"{root}: no {CONFIG_NAME}, so this is no exported model; make one with 'lamae export RUN OUT'"
        )
    try:
        content: dict[str, Any] = json.loads((root / CONFIG_NAME).read_text(encoding="utf-8"))
        version = int(content["export_version"])
        if version > EXPORT_VERSION:
            raise LamaeError(f"{root}: export version {version} is newer than {EXPORT_VERSION}; upgrade lamae")
        sections = {name: content[name] for name in ("model", "mask", "signal")}
        weights_sha256, num_samples = content["weights_sha256"], int(content["num_samples"])
    except (ValueError, KeyError, TypeError) as error:
        raise LamaeError(
            f"{root / CONFIG_NAME}: not readable ({type(error).__name__}: {error}); export again"
        ) from None
    _check_weights(root / WEIGHTS_NAME, weights_sha256)
    config = run_config.from_dict(
        {"run": {"dir": "none"}, "data": {"path": "none"}, **sections}, source=str(root / CONFIG_NAME)
    )
    with torch.random.fork_rng(devices=[]):
        model = build_model(config.model, config.mask, num_samples=num_samples)
    try:
        model.load_state_dict(load_file(root / WEIGHTS_NAME))
    except Exception as error:  # safetensors and torch raise classes of their own for damaged or unfitting files
        raise LamaeError(f"{root / WEIGHTS_NAME}: {' '.join(str(error).split())[:300]}; export again") from None
    return ExportedModel(model.to(device).eval(), config.signal, num_samples, device)


def _check_weights(path: Path, sha256: str) -> None:
    """Raises LamaeError unless the file has this sha256."""
    try:
        found = file_digest(path)
    except OSError as error:
        raise LamaeError(f"{path}: {error.strerror or error}; export again") from None
    if found != sha256:
        raise LamaeError(f"{path}: damaged, its sha256 is not the one in {CONFIG_NAME}; copy it or export it again")


def _to_adc(signal_mv: np.ndarray, leads: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """int16 [B, 12, T] in canonical order, and which leads were given."""
    if signal_mv.ndim == 2:
        signal_mv = signal_mv[None]
    if signal_mv.ndim != 3 or signal_mv.shape[1] != len(leads):
        raise UsageError(f"a signal of shape {list(signal_mv.shape)} does not fit {len(leads)} leads; give [B, L, T]")
    places = [place for place in map(lead_index, leads) if place is not None]
    if len(set(places)) != len(leads):
        raise UsageError(f"leads {', '.join(leads)}: each must be one of {', '.join(LEADS)}, and only once")
    units = np.nan_to_num(signal_mv * UNITS_PER_MV, nan=NO_SAMPLE, posinf=32767, neginf=-32767)
    clipped = np.where(np.isnan(signal_mv), NO_SAMPLE, np.clip(np.rint(units), -32767, 32767))
    adc_BLT = np.full((len(signal_mv), NUM_LEADS, signal_mv.shape[2]), NO_SAMPLE, dtype=np.int16)
    adc_BLT[:, places] = clipped.astype(np.int16)
    present_L = np.zeros(NUM_LEADS, dtype=bool)
    present_L[places] = True
    return adc_BLT, present_L


def _middle(num_given: int, num_wanted: int, patch_size: int) -> slice:
    length = min(num_given, num_wanted) // patch_size * patch_size
    if length == 0:
        raise UsageError(f"{num_given} samples at the model's rate are less than one patch of {patch_size}")
    start = (num_given - length) // 2
    return slice(start, start + length)
