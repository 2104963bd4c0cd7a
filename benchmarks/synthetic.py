"""Records in memory for steps that are measured or traced: noise on every lead, a mask anew for each micro-batch."""

import torch
from torch import Tensor

from lamae.base.leads import NUM_LEADS
from lamae.model import PretrainModel, build_model
from lamae.model.masking import Mask, draw_mask
from lamae.train.runconfig import RunConfig, load

RECORD_SECONDS = 10
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class SyntheticBatch:
    """What the model takes beside its mask: ``signal_BLT``, ``valid_BLT``, ``lead_mask_BL``.

    On torch's ``meta`` device the signal has no memory; masks are drawn on the CPU then.
    """

    def __init__(self, run: RunConfig, records: int, *, device: torch.device | str = "cpu", first_row: int = 0) -> None:
        self.run = run
        num_samples = num_record_samples(run)
        self.num_patches = num_samples // run.model.patch_size
        self.signal_BLT = torch.randn(records, NUM_LEADS, num_samples, device=device)
        self.valid_BLT = torch.ones_like(self.signal_BLT, dtype=torch.bool)
        drawn_on = "cpu" if self.signal_BLT.is_meta else device
        self.lead_mask_BL = torch.ones(records, NUM_LEADS, dtype=torch.bool, device=drawn_on)
        self._row_B = torch.arange(records, device=drawn_on) + first_row

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.signal_BLT, self.valid_BLT, self.lead_mask_BL.to(self.signal_BLT.device)

    def draw_mask(self) -> Mask:
        return draw_mask(
            self.run.mask,
            seed=0,
            epoch_B=torch.zeros_like(self._row_B),
            row_B=self._row_B,
            lead_mask_BL=self.lead_mask_BL,
            num_patches=self.num_patches,
        )


def load_run(config: str, *overrides: str) -> RunConfig:
    """A configuration whose run is never made and reads no data: the two keys without a default stay open."""
    return load(config, ["run.dir=unused", "data.path=unused", *overrides])


def num_record_samples(run: RunConfig) -> int:
    """Of the model's input: ``signal.seconds`` of a record, all RECORD_SECONDS where that is 0."""
    return round(run.signal.rate_hz * (run.signal.seconds or RECORD_SECONDS))


def build_model_of(run: RunConfig) -> PretrainModel:
    """The model of a configuration for inputs of ``num_record_samples``."""
    return build_model(run.model, run.mask, num_samples=num_record_samples(run))


def wait(tensor: Tensor) -> None:
    """Until the device has done all that was asked of it."""
    if tensor.is_cuda:
        torch.cuda.synchronize()
