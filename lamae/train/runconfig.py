"""A run's whole configuration: each section's dataclass lives beside what it configures, this module composes them.

The resolved configuration is what a run directory and every checkpoint carry.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import MISSING

from lamae.base import files, settings
from lamae.base.errors import UsageError
from lamae.data.config import DataConfig, SignalConfig
from lamae.model.config import MaskConfig, ModelConfig
from lamae.train.config import (
    CheckpointConfig,
    EngineConfig,
    MonitorConfig,
    OptimConfig,
    ProfileConfig,
    TrainConfig,
    check_schedule,
)


@dataclass
class RunSection:
    """Where the run lives."""

    dir: str = MISSING
    """Run directory: config, manifest, metrics, checkpoints and TensorBoard events go here."""

    def check(self) -> None:
        """Raises ValueError naming the key."""
        if not self.dir.strip() or not self.dir.isprintable():
            raise ValueError(f"run.dir={self.dir!r} must name a directory")


@dataclass
class RunConfig:
    """Everything that decides what a pretraining run computes."""

    RENAMED: ClassVar = {"signal.crop_seconds": "signal.seconds"}
    RETIRED: ClassVar = {
        "model.positions": "sincos",
        "model.max_patches": 256,
        "model.lead_embedding": True,
        "model.loss": "mse",
        "model.huber_delta": 1.0,
        "signal.highpass_hz": 0.0,
        "signal.wander_mv": 0.0,
        "signal.gain_jitter": 0.0,
        "signal.noise_mv": 0.0,
        "model.normalize_targets": False,
    }

    run: RunSection = field(default_factory=RunSection)
    data: DataConfig = field(default_factory=DataConfig)
    signal: SignalConfig = field(default_factory=SignalConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    mask: MaskConfig = field(default_factory=MaskConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    profile: ProfileConfig = field(default_factory=ProfileConfig)

    def check(self) -> None:
        """What no section can check alone. Raises ValueError naming the key."""
        check_schedule(self.optim, steps=self.train.steps)


def load(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The configuration of ``path`` (YAML) with ``key.sub=value`` overrides, checked.

    ``path`` may be the name of a configuration of the package: ``tiny`` (see ``settings.find``).
    Raises UsageError naming the file or key and the fix.
    """
    return settings.load_as(RunConfig(), path, overrides, kind="pretrain")


def from_dict(values: Any, *, source: str = "config") -> RunConfig:
    """The configuration stored as a plain mapping (a run directory, a checkpoint). Raises UsageError."""
    if not isinstance(values, dict):
        raise UsageError(f"{source}: expected a mapping of sections, not {values!r:.80}")
    return settings.from_mapping(RunConfig(), values, source=source)


def config_hash(config: RunConfig) -> str:
    """First 12 hex digits of the sha256 of the configuration without the run's own place on disk."""
    values = settings.to_dict(config)
    values.pop("run")
    return files.json_sha256(values)[:12]
