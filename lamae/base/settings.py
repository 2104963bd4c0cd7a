"""Loading any configuration: a dataclass gives the keys and defaults, a file and the command line go over them.

    defaults  <-  YAML file  <-  dotted overrides (``train.steps=1000 engine.zero_stage=2``)

Unknown keys are errors that name the nearest known one. A dataclass may name keys of before in ``RENAMED``
and ``RETIRED``.
"""

import dataclasses
import difflib
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lamae.base import keys
from lamae.base.errors import UsageError
from lamae.base.rundirectory import RunDirectory

ConfigT = TypeVar("ConfigT")
Layer = tuple[str, DictConfig]
"""Where values are from, and the values."""

COMMAND_LINE = "command line"
PAGE_WIDTH = 100
SHIPPED = Path(__file__).parents[1] / "configs"

KEY_IN_MESSAGE = re.compile(r"[a-z_][a-z_0-9]*(?:\.[a-z_0-9]+)+|[a-z_][a-z_0-9]*(?=[=:])")


def load_as(
    start: ConfigT, path: str | Path, overrides: Sequence[str] = (), *, kind: str, unknown: str | None = None
) -> ConfigT:
    """``load`` for any configuration dataclass: ``start`` gives the defaults and the known keys.

    kind: folder of the package's configurations of this sort. unknown: what an unknown key may mean that is near none.
    """
    return _compose(start, _layers(path, overrides, kind, type(start)), unknown=unknown)


def explain(
    start: Any,
    path: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    kind: str = "",
    unknown: str | None = None,
) -> str:
    """What ``load_as`` would give, as YAML that loads again: above each key what it does, behind it its origin.

    Keys that must be given and are not stand as ``???``. Raises UsageError as loading does, but for those.
    """
    layers = _layers(path, overrides, kind, type(start))
    merged = _merge(start, layers, unknown)
    values = OmegaConf.to_container(merged)
    for key in OmegaConf.missing_keys(merged):
        OmegaConf.update(merged, key, "unused")
    if path is not None or overrides:
        _checked(merged, layers)
    lines = [f"# {line}" for line in textwrap.wrap(inspect.getdoc(type(start)) or "", PAGE_WIDTH)]
    return "\n".join([*lines, "", *_page(type(start), values, type(start)(), start, layers, prefix="")])


def _layers(path: str | Path | None, overrides: Sequence[str], kind: str, cls: type) -> list[Layer]:
    """What a file, if there is one, and the command line set. Raises UsageError."""
    return [*([] if path is None else [_read(path, kind, cls)]), (COMMAND_LINE, _dotted(overrides, cls))]


def _read(path: str | Path, kind: str, cls: type) -> Layer:
    found = find(path, kind)
    try:
        text = found.read_text()
        loaded = OmegaConf.create(text)
    except OSError as error:
        inside = RunDirectory(found).config
        names = sorted(file.stem for file in (SHIPPED / kind).glob("*.yaml"))
        near = [str(inside)] if inside.is_file() else difflib.get_close_matches(found.stem, names, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UsageError(
            f"{path}: {error.strerror or error}; {hint}names that need no file: {', '.join(names)}"
        ) from None
    except Exception as error:  # YAML's own errors span several lines and several classes
        reason = " ".join(str(error).split()) or "no mapping of keys"
        raise UsageError(f"{path}: not valid YAML: {reason}") from None
    if not isinstance(loaded, DictConfig):
        raise UsageError(f"{path}: a configuration is a mapping of sections, this is a list or a single value")
    return str(path), _as_written(loaded, yaml.load(text, yaml.BaseLoader), cls)


def _as_written(layer: DictConfig, text: Any, cls: type) -> DictConfig:
    """``layer`` with text as it is written; see ``keys.as_written``."""
    return OmegaConf.create(keys.as_written(cls, OmegaConf.to_container(layer), text))


def from_mapping(start: ConfigT, values: Mapping[str, Any], *, source: str) -> ConfigT:
    """The configuration stored as a plain mapping (a run directory, a checkpoint). Raises UsageError."""
    try:
        layer = OmegaConf.create(dict(values))
    except OmegaConfBaseException as error:
        raise UsageError(f"{source}: {' '.join(str(error).split())}") from None
    return _compose(start, [(source, layer)])


def override(config: ConfigT, overrides: Sequence[str], *, source: str = COMMAND_LINE) -> ConfigT:
    """Any configuration dataclass with ``key.sub=value`` overrides, checked. Raises UsageError naming the key and where
    they are from."""
    return _compose(config, [(source, _dotted(overrides, type(config)))])


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration dataclass as plain Python values, ready for JSON or YAML."""
    return dataclasses.asdict(config)


def to_yaml(config: Any) -> str:
    return OmegaConf.to_yaml(OmegaConf.create(to_dict(config)))


def find(name: str | Path, kind: str) -> Path:
    """The file that ``name`` names: as a path, or one of the package's own ``configs/KIND/NAME.yaml`` by NAME alone.

    ``configs/...`` is found in the working directory first, then in the package. A path that is nowhere is returned
    as it is, for the caller to open and refuse.
    """
    path = Path(name)
    if path.parts[:1] == ("configs",):
        packaged = SHIPPED.joinpath(*path.parts[1:])
    elif path.name == str(name) and path.suffix in ("", ".yaml"):
        packaged = SHIPPED / kind / f"{path.stem}.yaml"
    else:
        return path
    return packaged if packaged.is_file() and not path.is_file() else path


def _dotted(overrides: Sequence[str], cls: type) -> DictConfig:
    for entry in overrides:
        if "=" not in entry:
            raise UsageError(f"override {entry!r} has no '='; write key=value, for example train.steps=1000")
    try:
        layer, text = OmegaConf.from_dotlist(list(overrides)), OmegaConf.create()
        for key, _, words in (entry.partition("=") for entry in overrides):
            OmegaConf.update(text, key, yaml.load(words, yaml.BaseLoader))
        return _as_written(layer, OmegaConf.to_container(text), cls)
    except Exception as error:
        raise UsageError(f"overrides {' '.join(overrides)}: {' '.join(str(error).split())}") from None


def _with_current_keys(layer: DictConfig, kind: type) -> DictConfig:
    """Renames and drops the keys of older versions.

    A key of ``RETIRED`` is dropped where it has the one value that is still supported; with any other it is unknown.
    """
    renamed, retired = getattr(kind, "RENAMED", {}), getattr(kind, "RETIRED", {})
    for old in (*renamed, *retired):
        section, _, name = old.rpartition(".")
        values = OmegaConf.select(layer, section) if section else layer
        if not isinstance(values, DictConfig) or name not in values:
            continue
        if old in renamed:
            OmegaConf.update(layer, renamed[old], values.pop(name))
        elif values[name] == retired[old]:
            del values[name]
    return layer


def _merge(start: Any, layers: Sequence[Layer], unknown: str | None) -> DictConfig:
    """``start`` with ``layers`` merged over it; keys without a value are ``???``. Raises UsageError naming the key."""
    merged: Any = OmegaConf.structured(start)
    known = sorted(_dotted_keys(type(start)))
    for source, layer in layers:
        _refuse_interpolation(layer, source)
        _refuse_unknown(_with_current_keys(layer, type(start)), known, source, unknown)
        for misfit in keys.misfits(type(start), OmegaConf.to_container(layer)):
            raise UsageError(f"{source}: {misfit}")
        try:
            merged = OmegaConf.merge(merged, layer)
        except OmegaConfBaseException as error:
            key = getattr(error, "full_key", None)
            reason = str(getattr(error, "msg", None) or error).splitlines()[0]
            raise UsageError(f"{source}: {key}: {reason}") from None
        for key in OmegaConf.missing_keys(layer):  # which merging passes over where the default is a value
            OmegaConf.update(merged, str(key), MISSING)
    return merged


def _compose(start: ConfigT, layers: Sequence[Layer], *, unknown: str | None = None) -> ConfigT:
    """``start`` with ``layers`` merged over it, whole and checked."""
    merged = _merge(start, layers, unknown)
    missing = sorted(str(key) for key in OmegaConf.missing_keys(merged))
    if missing:
        about = "; ".join(f"{key} is: {keys.first_sentence(type(start), key)}" for key in missing)
        raise UsageError(f"{layers[0][0]}: {', '.join(missing)} must be given, for example {missing[0]}=VALUE; {about}")
    return _checked(merged, layers)


def _checked(merged: DictConfig, layers: Sequence[Layer]) -> Any:
    config = OmegaConf.to_object(merged)
    for part in (*vars(config).values(), config):  # sections first: the whole may take them for valid
        check = getattr(part, "check", None)
        if check is not None:
            try:
                check()
            except ValueError as error:
                raise UsageError(f"{_source_of(str(error), layers)}: {error}") from None
    return config


def _source_of(problem: str, layers: Sequence[Layer]) -> str:
    """Where the value that a check complains of was given: the last layer that sets a key its message names.

    What follows a semicolon is the remedy, which may name other keys.
    """
    named = KEY_IN_MESSAGE.findall(problem.partition(";")[0])
    for source, layer in reversed(layers):
        if any(_sets(layer, key) for key in named):
            return source
    return layers[0][0]


def _sets(layer: DictConfig, key: str) -> bool:
    """Whether a layer gives ``key``, or anything in it, a value, null included."""
    *sections, last = key.split(".")
    node: Any = layer
    for section in sections:
        node = node._get_node(section) if isinstance(node, DictConfig) else None
    return isinstance(node, DictConfig) and node._get_node(last) is not None


def _dotted_keys(cls: type, prefix: str = "") -> Iterator[str]:
    for entry in dataclasses.fields(cls):
        name = f"{prefix}{entry.name}"
        yield name
        if dataclasses.is_dataclass(entry.type):
            yield from _dotted_keys(entry.type, f"{name}.")  # type: ignore[arg-type]


def _refuse_interpolation(layer: DictConfig, source: str) -> None:
    """OmegaConf fills in ``${...}``, from the environment too: a configuration from elsewhere would read ours."""

    def walk(value: Any, key: str) -> None:
        inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for name, entry in inner:
            walk(entry, f"{key}.{name}".strip("."))
        if isinstance(value, str) and "${" in value:
            raise UsageError(f"{source}: {key}: '${{' is not filled in; write the value itself (for a shell, $NAME)")

    walk(OmegaConf.to_container(layer), "")


def _refuse_unknown(layer: DictConfig, known: list[str], source: str, unknown: str | None) -> None:
    top = {key for key in known if "." not in key}

    def walk(node: Any, prefix: str) -> None:
        for key in node:
            dotted = f"{prefix}{key}"
            if dotted in known and "." in str(key):
                raise UsageError(f"{source}: {dotted}: write it as a mapping, {dotted.replace('.', ': {')}: …}}")
            if dotted not in known:
                near = difflib.get_close_matches(dotted, known, n=1, cutoff=0.75 if unknown else 0.5)
                hint = f"did you mean {near[0]}?" if near else unknown or f"known are {', '.join(sorted(top))}"
                raise UsageError(f"{source}: unknown key {dotted}; {hint}")
            child = node._get_node(key)
            # A mapping-valued key (engine.deepspeed) is free inside: only keys of dataclasses are checked.
            if isinstance(child, DictConfig) and any(k.startswith(f"{dotted}.") for k in known):
                walk(child, f"{dotted}.")

    walk(layer, "")


def _page(cls: type, values: Any, default: Any, start: Any, layers: Any, *, prefix: str) -> Iterator[str]:
    pad = "  " * prefix.count(".")
    for name, text in keys.docstrings(cls).items():
        key, section = f"{prefix}{name}", keys.section_of(cls, name)
        if section is not None:
            yield ""
        yield from (f"{pad}# {line}" for line in textwrap.wrap(text, PAGE_WIDTH - len(pad)))
        before, started = getattr(default, name, None), getattr(start, name, None)
        if section is None or not values[name]:
            given = [source for source, layer in layers if _sets(layer, key)]
            origin = given[-1] if given else "default" if started == before else COMMAND_LINE
            was = "" if values[name] == before or before == MISSING else f", default {_flow(before)}"
            yield f"{pad}{name}: {_flow(values[name])}  # {origin}{was}"
            continue
        yield f"{pad}{name}:"
        if isinstance(before, Mapping):  # named by the user
            for entry, inner in values[name].items():
                yield f"{pad}  {_flow(entry)}:"
                yield from _page(section, inner, section(), section(), layers, prefix=f"{key}.{entry}.")
        else:
            yield from _page(section, values[name], before, started, layers, prefix=f"{key}.")


def _flow(value: Any) -> str:
    """A value as YAML on one line."""
    if value == MISSING:
        return str(value)
    return (
        yaml.safe_dump(value, default_flow_style=True, width=float("inf"), sort_keys=False)
        .removesuffix("...\n")
        .strip()
    )
