"""From ADC units as recorded to the float32 signal a model sees, for whole batches on the batch's device.

    sentinel -> validity   resample   crop   millivolt   (augment)   missing -> 0   clip   scale

Shapes: B records, L leads (12), T samples.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from lamae import keyed
from lamae.base.errors import UsageError
from lamae.data.augment import drop_leads
from lamae.data.batch import Batch
from lamae.data.config import SignalConfig
from lamae.data.mixture import Mixture
from lamae.data.resample import Decimator
from lamae.sharding.format import NO_SAMPLE

logger = logging.getLogger(__name__)

# What an error proposes; the QRS complex is gone below.
_LOWEST_RATE_HZ = 50
# A lead that is flatter than this keeps its size under the per-lead scalings.
_FLAT_MV = 0.01


@dataclass
class Signal:
    """What the model is given."""

    x_BLT: torch.Tensor
    """float32 ``[B, 12, T]``: millivolt over the scale; 0 where not valid."""

    valid_BLT: torch.Tensor
    """bool ``[B, 12, T]``: True where a sample was recorded and no filter mixed it with a missing one."""

    lead_mask_BL: torch.Tensor
    """bool ``[B, 12]``: True where the lead is there and usable."""

    row: torch.Tensor
    """int64 ``[B]``: rows of the shard set."""

    epoch: torch.Tensor
    """int64 ``[B]``"""


def _fitting_rates(rates_hz: Sequence[float]) -> str:
    """The highest rates of a model that divide all of ``rates_hz``, as a part of an error."""
    common = math.gcd(*(int(rate) for rate in rates_hz)) if all(rate == int(rate) for rate in rates_hz) else 0
    fitting = [str(rate) for rate in range(common, _LOWEST_RATE_HZ - 1, -1) if common % rate == 0]
    return f"signal.rate_hz={' or '.join(fitting[:3])}" if fitting else "another signal.rate_hz"


class SignalTransform:
    """Turns a ``Batch`` into a ``Signal``; nothing in it loops over records or waits for the device.

    Raises UsageError when the configuration does not fit the source's rate or length. ``all_rates_hz`` are those of
    all sets of a mixture.
    """

    def __init__(
        self, config: SignalConfig, *, source_rate_hz: float, num_samples: int, all_rates_hz: Sequence[float] = ()
    ) -> None:
        factor = source_rate_hz / config.rate_hz
        if factor < 1 or factor != int(factor):
            fitting = _fitting_rates(all_rates_hz or [source_rate_hz])
            raise UsageError(
                f"signal.rate_hz={config.rate_hz} must divide the shard set's {source_rate_hz:g} Hz without remainder; "
                f"take {fitting}, or pack with 'lamae shard SOURCE OUT --rate {config.rate_hz}'"
            )
        self.config = config
        self._decimate = Decimator(int(factor))
        whole = self._decimate.num_outputs(num_samples)
        wanted = round(config.seconds * config.rate_hz)
        if config.seconds > 0 and wanted < 1:
            raise UsageError(f"signal.seconds={config.seconds:g} is less than a sample at {config.rate_hz} Hz")
        self._num_positions = max(whole - wanted, 0) + 1 if wanted else 1
        self._num_padded = max(wanted - whole, 0)
        self.num_samples = wanted or whole
        """Samples per lead of the model's input."""

    def __call__(self, batch: Batch, *, seed: int, train: bool) -> Signal:
        """``train`` turns random crops and augmentations on; they depend on (seed, epoch, record) alone."""
        config = self.config
        x, valid, incomplete = self._resample(batch)
        if self._num_positions > 1:
            x, valid = self._crop(x, valid, batch, incomplete, seed=seed if train else None)
        if self._num_padded:
            x, valid = F.pad(x, (0, self._num_padded)), F.pad(valid, (0, self._num_padded))
        x = x.sub_(batch.baseline[..., None]).div_(batch.gain[..., None])
        lead_mask = batch.lead_mask
        if train and config.lead_dropout > 0:
            lead_mask = drop_leads(
                lead_mask, probability=config.lead_dropout, seed=seed, epoch=batch.epoch, row=batch.row
            )
            valid &= lead_mask[..., None]
        x = self._scale(x.masked_fill_(~valid, 0), valid)
        return Signal(x, valid, lead_mask, batch.row, batch.epoch)

    def _scale(self, x: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        """Millivolt (0 where not valid) to the model's unit, clipped."""
        clip_mv = self.config.clip_mv or math.inf
        if self.config.scaling == "global":
            return x.clamp_(-clip_mv, clip_mv).div_(self.config.scale_mv)
        count = valid.sum(-1, keepdim=True).clamp(min=1)
        # An electrode's offset, which may exceed any beat, goes with the mean and must not be what is clipped.
        offset = x.sum(-1, keepdim=True) / count
        x = x.clamp_(offset - clip_mv, offset + clip_mv).masked_fill_(~valid, 0)
        x = (x - x.sum(-1, keepdim=True) / count).masked_fill_(~valid, 0)
        rms = (x.square().sum(-1, keepdim=True) / count).sqrt()
        return x / rms.clamp(min=_FLAT_MV)

    def _resample(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """ADC units at the model's rate, where they are valid, and the records that may not be everywhere."""
        x = self._decimate(batch.adc)
        valid = batch.lead_mask[..., None].expand(x.shape).clone()
        # Missing samples are rare: the index says which records hold any, so only those pay for looking.
        incomplete = batch.may_miss_samples.nonzero().flatten().to(batch.adc.device, non_blocking=True)
        if len(incomplete):
            adc = batch.adc[incomplete]
            missing = adc == NO_SAMPLE
            # Any finite filling does: outputs that see it are marked invalid.
            x[incomplete] = self._decimate(adc.masked_fill(missing, 0))
            valid[incomplete] &= ~self._decimate.touches(missing)
        return x, valid, incomplete

    def _crop(
        self, x: torch.Tensor, valid: torch.Tensor, batch: Batch, incomplete: torch.Tensor, *, seed: int | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One stretch per record, of what was recorded: random under a seed, the middle without."""
        last = self._num_positions - 1
        if seed is None and not len(incomplete):
            stretch = slice(last // 2, last // 2 + self.num_samples)
            return x[..., stretch].clone(), valid[..., stretch].clone()
        low_B = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        high_B = torch.full_like(low_B, last)
        if len(incomplete):
            low_B[incomplete], high_B[incomplete] = self._positions(valid[incomplete])
        if seed is None:
            start_B = (low_B + high_B) // 2
        else:
            (key_B,) = keyed.record_keys(seed, batch.epoch, batch.row, purposes=[keyed.CROP])
            start_B = low_B + keyed.below(key_B, high_B - low_B + 1)
        index = start_B[:, None, None] + torch.arange(self.num_samples, device=x.device)
        index = index.expand(-1, x.shape[1], -1)
        return x.gather(2, index), valid.gather(2, index)

    def _positions(self, valid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """int64 ``[B]``: the first and the last start of a crop that lies within what was recorded of any lead.

        Where less was recorded than a crop holds, they are one: what was recorded is in the crop's middle.
        """
        length = valid.shape[-1]
        recorded_BT = valid.any(1).long()
        first_B, end_B = recorded_BT.argmax(-1), length - recorded_BT.flip(-1).argmax(-1)
        low_B, high_B = first_B, end_B - self.num_samples
        middle_B, last = (low_B + high_B) // 2, self._num_positions - 1
        return torch.minimum(low_B, middle_B).clamp(0, last), torch.maximum(high_B, middle_B).clamp(0, last)


class MixtureTransform:
    """``SignalTransform`` for batches of several sets: each record by its own set's rate and length.

    Raises UsageError when a set's rate does not fit, or when records would come out in several lengths.
    """

    def __init__(self, config: SignalConfig, records: Mixture) -> None:
        if config.scaling != "global":
            logger.warning(
                "signal.scaling=%s destroys amplitude, and with it voltage criteria (hypertrophy) and ST level",
                config.scaling,
            )
        self._records = records
        self._by_set: list[SignalTransform] = []
        rates_hz = [shard_set.rate_hz for shard_set in records.sets]
        for shard_set in records.sets:
            try:
                transform = SignalTransform(
                    config,
                    source_rate_hz=shard_set.rate_hz,
                    num_samples=shard_set.num_samples,
                    all_rates_hz=rates_hz,
                )
            except UsageError as error:
                raise UsageError(f"{shard_set.root}: {error}") from None
            self._by_set.append(transform)
        seconds = [shard_set.num_samples / shard_set.rate_hz for shard_set in records.sets]
        if len({transform.num_samples for transform in self._by_set}) > 1:
            lengths = ", ".join(f"{shard_set.root} {s:g} s" for shard_set, s in zip(records.sets, seconds, strict=True))
            raise UsageError(
                f"data.path: sets of several lengths ({lengths}); choose the model's with "
                f"signal.seconds={min(seconds):g} (longer records are cropped, shorter ones end in 'no sample')"
            )
        if config.seconds > max(seconds):
            raise UsageError(
                f"signal.seconds={config.seconds:g} is longer than any record of {records.root} ({max(seconds):g} s)"
            )

    @property
    def num_samples(self) -> int:
        """Samples per lead of the model's input."""
        return self._by_set[0].num_samples

    def __call__(self, batch: Batch, *, seed: int, train: bool) -> Signal:
        """As ``SignalTransform``."""
        if batch.set_of is None:
            return self._by_set[0](batch, seed=seed, train=train)
        places, signals = [], []
        for number, (shard_set, transform) in enumerate(zip(self._records.sets, self._by_set, strict=True)):
            place = (batch.set_of == number).nonzero().flatten()
            if len(place):
                places.append(place)
                part = batch.of_one_set(place, num_samples=shard_set.num_samples)
                signals.append(transform(part, seed=seed, train=train))
        back = torch.cat(places).argsort().to(batch.adc.device, non_blocking=True)
        tensors = zip(*(vars(signal).values() for signal in signals), strict=True)
        return Signal(*(torch.cat(parts)[back] for parts in tensors))
