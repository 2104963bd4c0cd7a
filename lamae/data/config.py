"""What a run reads and what signal the model sees: the ``data:`` and ``signal:`` sections of a configuration."""

import math
from dataclasses import dataclass, field
from typing import Any

from lamae.base.validate import above, at_least, below, one_of
from lamae.sharding.format import SPLITS

ORDERS = ("global", "window")
ON_CORRUPT = ("raise", "skip")
SCALINGS = ("global", "lead_zscore")


def _require(condition: bool, key: str, rule: str, value: object) -> None:
    if not condition:
        raise ValueError(f"{key} must be {rule}, not {value!r}")


@dataclass
class DataConfig:
    """Which records are read, in which order, and how."""

    path: Any = "???"
    """Shard set made by ``lamae shard``, or a list of several to pretrain on together: ``[mimic,code15]``."""

    weights: list[float] = field(default_factory=list)
    """How often the records of each set are read while the others with weight 1 are read once; empty: all once."""

    split: str = "train"
    """Records to read: train, val, test or all."""

    order: str = "global"
    """``global`` shuffles all records (NVMe, page cache); ``window`` shuffles shards and then records within windows
    of shards, so that reads stay near each other (hard disks, network file systems)."""

    window_shards: int = 16
    """Shards per window of ``order: window``."""

    threads: int = 2
    """Reader threads per rank. They wait for storage and hash outside the GIL, so more threads hide more latency."""

    prefetch: int = 4
    """Batches read ahead per rank; each holds ``global_batch_size / world_size`` records of memory."""

    check_crc: bool = True
    """Compare every record with the CRC-32C of the index as it is read."""

    on_corrupt: str = "raise"
    """``raise`` stops at an unreadable record and names it; ``skip`` reads another record of the split, always the
    same one, in its place and counts it."""

    @property
    def paths(self) -> list[str]:
        """The shard sets, in the order given."""
        return [str(path) for path in self.path] if isinstance(self.path, list) else [str(self.path)]

    def check(self) -> None:
        """Raises ValueError naming the key to change."""
        named = self.path if isinstance(self.path, list) else [self.path]
        paths = bool(named) and all(isinstance(path, str) and path for path in named)
        _require(paths, "data.path", "a shard set or a list of shard sets", self.path)
        if self.weights:
            one_each = len(self.weights) == len(named)
            _require(one_each, "data.weights", f"{len(named)} numbers, one for each set of data.path", self.weights)
            positive = all(0 < weight < math.inf for weight in self.weights)
            _require(positive, "data.weights", "positive; leave a set out of data.path instead", self.weights)
        one_of(self, "data", split=(*SPLITS, "all"), order=ORDERS, on_corrupt=ON_CORRUPT)
        at_least(self, "data", window_shards=1, threads=1, prefetch=1)


@dataclass
class SignalConfig:
    """From ADC units as recorded to what the model sees. Augmentations act in training only, keyed by record."""

    rate_hz: int = 250
    """Sampling rate of the model's input; the source's rate must be a whole multiple of it."""

    seconds: float = 0.0
    """Length of the model's input: of longer records a random crop in training and the middle in evaluation; shorter
    ones end in "no sample". 0 keeps whole records, which then must all have one length."""

    scaling: str = "global"
    """``global`` divides by ``scale_mv``: amplitude, which carries diagnosis, survives. ``lead_zscore`` brings
    each lead to mean 0 and deviation 1: destroys voltage criteria, ST level and the baseline."""

    scale_mv: float = 0.25
    """Millivolt that become 1.0 under ``scaling: global``."""

    clip_mv: float = 5.0
    """Samples beyond this many millivolt from 0, or under ``scaling: lead_zscore`` from their lead's mean, are clipped
    to it; 0 leaves them."""

    lead_dropout: float = 0.0
    """Augmentation: probability that a lead is withheld as if it had not been recorded; one always stays."""

    @property
    def output_scale(self) -> tuple[float, str]:
        """Factor from the model's units to a unit, and that unit: millivolt unless ``scaling`` gave amplitude up."""
        return (self.scale_mv, "mV") if self.scaling == "global" else (1.0, "model units")

    def check(self) -> None:
        """Raises ValueError naming the key to change."""
        at_least(self, "signal", rate_hz=1, seconds=0, clip_mv=0)
        above(self, "signal", scale_mv=0)
        below(self, "signal", lead_dropout=1)
        one_of(self, "signal", scaling=SCALINGS)
