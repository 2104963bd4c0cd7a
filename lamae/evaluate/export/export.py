"""A pretrained model for others: three files without ids (``lamae.evaluate.pretrained``), and embeddings of raw numpy
signals in five lines.

Of the subjects it was pretrained on their number alone is given: hashes of ids from a small range can be undone.
"""

import dataclasses
import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from lamae.base import files, settings
from lamae.base.errors import UsageError
from lamae.base.files import new_directory, writing
from lamae.base.leads import LEADS, NUM_LEADS
from lamae.data.batch import Batch
from lamae.data.config import SignalConfig
from lamae.data.transforms import SignalTransform
from lamae.evaluate import store
from lamae.evaluate.embeddings.millivolt import UNITS_PER_MV, refuse_empty, to_adc, to_rate
from lamae.evaluate.export.card import model_card
from lamae.evaluate.pretrained import CARD_NAME, CONFIG_NAME, EXPORT_VERSION, WEIGHTS_NAME, find, read_export
from lamae.model import PretrainModel
from lamae.train import runconfig
from lamae.train.checkpoint.format import load_model


def export(run: Path, out: Path) -> None:
    """Write the model of a run or checkpoint to directory ``out``. Raises UsageError when ``out`` exists."""
    store.refuse_existing(out)
    loaded = load_model(run)
    config = settings.to_dict(loaded.config)
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
        "pretraining_sets": [
            {name: entry[name] for name in ("name", "source", "num_records", "num_subjects")}
            for entry in loaded.sets or []
            if "num_records" in entry  # not in checkpoints from before a run could have several
        ],
        "config_hash": runconfig.config_hash(loaded.config),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    with writing(out), new_directory(out) as folder:
        (folder / WEIGHTS_NAME).write_bytes(weights)
        files.write_json(folder / CONFIG_NAME, content)
        num_parameters = sum(p.numel() for p in loaded.model.parameters())
        (folder / CARD_NAME).write_text(model_card(content, num_parameters=num_parameters), encoding="utf-8")


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

    def __repr__(self) -> str:
        millions = sum(parameter.numel() for parameter in self.model.parameters()) / 1e6
        seconds, rate_hz = self.num_samples / self.signal.rate_hz, self.signal.rate_hz
        return (
            f"<{self.model.config.kind}, {millions:.1f} M parameters, {seconds:g} s at {rate_hz} Hz, on {self.device}>"
        )

    @torch.inference_mode()
    def embed(self, signal_mv: Any, rate_hz: float, leads: Sequence[str] = LEADS) -> SignalEmbedding:
        """Embed one record [L, T] or a batch [B, L, T].

        Args:
            signal_mv: millivolt, any array of real numbers (numpy, torch, pandas, lists); NaN, or masked, where there
                is no sample.
            rate_hz: sampling rate, a whole multiple of the model's.
            leads: name of each of the L rows, any subset of the twelve in any order.

        Zeros or NaN in all leads at the ends of a record are an archive's padding, and leads that are zero, flat or
        mostly missing in the rest count as not recorded, by the rules of packing (``QualityConfig``).
        Records longer than those of pretraining are cut to the middle of what was recorded; shorter ones are taken as
        they are, down to whole patches. Warns (``UserWarning``) where the amplitude makes millivolt unlikely. Raises
        UsageError where it rules it out, for leads, rates, values or shapes that cannot be used, and for a record
        without any usable lead.
        """
        rate = to_rate(rate_hz)
        if not 0 < rate < math.inf or round(rate / self.signal.rate_hz) * self.signal.rate_hz != rate:
            raise UsageError(
                f"rate_hz={rate_hz} is no whole multiple of the model's {self.signal.rate_hz} Hz; resample the signal"
            )
        adc_BLT, usable_BL = to_adc(signal_mv, leads, rate_hz=rate)
        # Before anything is made for this rate, which may be an absurd one.
        num_given = math.ceil(adc_BLT.shape[2] / (rate / self.signal.rate_hz))
        length = min(num_given, self.num_samples) // self.model.config.patch_size * self.model.config.patch_size
        if length == 0:
            raise UsageError(
                f"{adc_BLT.shape[2]} samples at rate_hz={rate_hz} are {num_given} at the model's "
                f"{self.signal.rate_hz} Hz, less than one patch of {self.model.config.patch_size}"
            )
        config = dataclasses.replace(self.signal, seconds=length / self.signal.rate_hz)
        transform = SignalTransform(config, source_rate_hz=rate, num_samples=adc_BLT.shape[2])
        B = len(adc_BLT)
        batch = Batch(
            adc=torch.from_numpy(adc_BLT),
            gain=torch.full((B, NUM_LEADS), float(UNITS_PER_MV)),
            baseline=torch.zeros(B, NUM_LEADS),
            lead_mask=torch.from_numpy(usable_BL),
            row=torch.arange(B),
            epoch=torch.zeros(B, dtype=torch.int64),
            samples_consumed=0,
            may_miss_samples=torch.ones(B, dtype=torch.bool),
        )
        signal = transform(batch.to(self.device), seed=0, train=False)
        refuse_empty(signal.valid_BLT.any(2).cpu().numpy())
        found = self.model.embed(signal.x_BLT, signal.valid_BLT, signal.lead_mask_BL)
        return SignalEmbedding(
            record=found.record_BD.cpu().numpy(),
            mean=found.mean_BD.cpu().numpy(),
            lead_weights=found.lead_weights_BL.cpu().numpy(),
        )


def load(model: str | os.PathLike[str], *, device: str = "cpu") -> ExportedModel:
    """Read an exported model: its directory, a name such as ``lamae-tiny`` of one that comes with lamae, or
    ``owner/name`` of one on the Hugging Face hub.

    Raises UsageError when there is none, LamaeError when it is damaged or newer than this lamae.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter where torch was built without it
        raise UsageError(f"device={device!r}: torch has no such device here ({str(error).splitlines()[0]})") from None
    loaded = read_export(find(model))
    return ExportedModel(loaded.model.to(device), loaded.config.signal, loaded.num_samples, device)
