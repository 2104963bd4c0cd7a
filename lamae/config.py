"""A run's whole configuration: each part's dataclass lives beside what it configures, this module only composes them.

    defaults  <-  YAML file  <-  dotted overrides (``train.steps=1000 engine.zero_stage=2``)

Unknown keys are errors that name the nearest known one. The resolved configuration is what a run directory and every
checkpoint carry.
"""

import dataclasses
import difflib
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lamae.data.config import DataConfig, SignalConfig
from lamae.model.config import MaskConfig, ModelConfig
from lamae.sharding.errors import UsageError
from lamae.train.config import CheckpointConfig, EngineConfig, MonitorConfig, OptimConfig, ProfileConfig, TrainConfig

ConfigT = TypeVar("ConfigT")
RENAMED = {"signal.crop_seconds": "signal.seconds"}
SHIPPED = Path(__file__).parent / "configs"

KEY_IN_MESSAGE = re.compile(r"[a-z_]+(?:\.[a-z_0-9]+)+")


@dataclass
class RunSection:
    """Where the run lives."""

    dir: str = MISSING
    """Run directory: config, manifest, metrics, checkpoints and TensorBoard events go here."""


@dataclass
class RunConfig:
    """Everything that decides what a pretraining run computes."""

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


def load(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The configuration of ``path`` (YAML) with ``key.sub=value`` overrides, checked.

    ``path`` may be the name of a configuration of the package: ``tiny`` (see ``find``).
    Raises UsageError naming the file or key and the fix.
    """
    return load_as(RunConfig(), find(path, "pretrain"), overrides)


def load_as(start: ConfigT, path: str | Path, overrides: Sequence[str] = ()) -> ConfigT:
    """``load`` for any configuration dataclass: ``start`` gives the defaults and the known keys."""
    try:
        text = Path(path).read_text()
        loaded = OmegaConf.create(text)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}") from None
    except Exception as error:  # YAML's own errors span several lines and several classes
        raise UsageError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(loaded, DictConfig):
        raise UsageError(f"{path}: a configuration is a mapping of sections, this is a list or a single value")
    return _compose(start, [(str(path), loaded), ("command line", _dotted(overrides))])


def from_dict(values: dict[str, Any], *, source: str = "config") -> RunConfig:
    """The configuration stored as a plain mapping (a run directory, a checkpoint). Raises UsageError."""
    return _compose(RunConfig(), [(source, OmegaConf.create(values))])


def override(config: ConfigT, overrides: Sequence[str]) -> ConfigT:
    """Any configuration dataclass with ``key.sub=value`` overrides, checked. Raises UsageError naming the key."""
    return _compose(config, [("command line", _dotted(overrides))])


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration dataclass as plain Python values, ready for JSON or YAML."""
    return dataclasses.asdict(config)


def to_yaml(config: Any) -> str:
    return OmegaConf.to_yaml(OmegaConf.create(to_dict(config)))


def config_hash(config: RunConfig) -> str:
    """First 12 hex digits of the sha256 of the configuration without the run's own place on disk."""
    values = to_dict(config)
    values.pop("run")
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def find(name: str | Path, kind: str) -> Path:
    """The file that ``name`` names: as a path, or one of the package's own ``configs/KIND/NAME.yaml`` by NAME alone.

    ``configs/...`` is found in the working directory first, then in the package. A path that is nowhere is returned
    as it is, for the caller to open and refuse.
    """
    path = Path(name)
    if path.parts[:1] == ("configs",):
        packaged = SHIPPED.joinpath(*path.parts[1:])
    elif path.name == str(name) and not path.suffix:
        packaged = SHIPPED / kind / f"{name}.yaml"
    else:
        return path
    return packaged if packaged.is_file() and not path.is_file() else path


def _dotted(overrides: Sequence[str]) -> DictConfig:
    for entry in overrides:
        if "=" not in entry:
            raise UsageError(f"override {entry!r} has no '='; write key=value, for example train.steps=1000")
    try:
        return OmegaConf.from_dotlist(list(overrides))
    except Exception as error:
        raise UsageError(f"overrides {' '.join(overrides)}: {' '.join(str(error).split())}") from None


def _rename(layer: DictConfig) -> DictConfig:
    """Keys by the names they have today; checkpoints and configurations of before have others."""
    for old, new in RENAMED.items():
        section, _, name = old.rpartition(".")
        values = OmegaConf.select(layer, section)
        if isinstance(values, DictConfig) and name in values:
            OmegaConf.update(layer, new, values.pop(name))
    return layer


def _compose(start: ConfigT, layers: list[tuple[str, DictConfig]]) -> ConfigT:
    """``start`` with ``layers`` of (where it is from, values) merged over it, and checked."""
    merged: Any = OmegaConf.structured(start)
    known = sorted(_dotted_keys(type(start)))
    for source, layer in layers:
        _refuse_unknown(_rename(layer), known, source)
        try:
            merged = OmegaConf.merge(merged, layer)
        except OmegaConfBaseException as error:
            key = getattr(error, "full_key", None)
            reason = str(getattr(error, "msg", None) or error).splitlines()[0]
            raise UsageError(f"{source}: {key}: {reason}") from None
    missing = sorted(str(key) for key in OmegaConf.missing_keys(merged))
    if missing:
        raise UsageError(f"{layers[0][0]}: {', '.join(missing)} must be given, for example {missing[0]}=VALUE")
    config = OmegaConf.to_object(merged)
    assert isinstance(config, type(start))
    for part in (config, *vars(config).values()):
        check = getattr(part, "check", None)
        if check is not None:
            try:
                check()
            except ValueError as error:
                raise UsageError(f"{_source_of(str(error), layers)}: {error}") from None
    return config


def _source_of(problem: str, layers: list[tuple[str, DictConfig]]) -> str:
    """Where the value that a check complains of was given: the last layer that sets a key its message names.

    What follows a semicolon is the remedy, which may name other keys.
    """
    named = KEY_IN_MESSAGE.findall(problem.partition(";")[0])
    for source, layer in reversed(layers):
        if any(OmegaConf.select(layer, key) is not None for key in named):
            return source
    return layers[0][0]


def _dotted_keys(cls: type, prefix: str = "") -> Iterator[str]:
    for entry in dataclasses.fields(cls):
        name = f"{prefix}{entry.name}"
        yield name
        if dataclasses.is_dataclass(entry.type):
            yield from _dotted_keys(entry.type, f"{name}.")  # type: ignore[arg-type]


def _refuse_unknown(layer: DictConfig, known: list[str], source: str) -> None:
    top = {key for key in known if "." not in key}

    def walk(node: Any, prefix: str) -> None:
        for key in node:
            dotted = f"{prefix}{key}"
            if dotted not in known:
                near = difflib.get_close_matches(dotted, known, n=1, cutoff=0.5)
                hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(sorted(top))}"
                raise UsageError(f"{source}: unknown key {dotted}{hint}")
            child = node._get_node(key)
            # A mapping-valued key (engine.deepspeed) is free inside: only keys of dataclasses are checked.
            if isinstance(child, DictConfig) and any(k.startswith(f"{dotted}.") for k in known):
                walk(child, f"{dotted}.")

    walk(layer, "")
