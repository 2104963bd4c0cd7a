"""Where a pretrained model comes from: a run, an export, the package itself, or the Hugging Face hub.

An export is a directory of three files without ids, and nothing in it is executed:

    model.safetensors   weights, float32
    config.json         format version, model, mask and signal configuration, input length, sha256 of the weights
    README.md           model card
"""

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from lamae.base import files
from lamae.base.errors import LamaeError, UsageError
from lamae.base.files import file_sha256
from lamae.model import build_model
from lamae.train import runconfig
from lamae.train.checkpoint.format import LoadedModel, load_model
from lamae.train.monitor.health import unfit_weight

log = logging.getLogger(__name__)

EXPORT_VERSION = 1
WEIGHTS_NAME, CONFIG_NAME, CARD_NAME = "model.safetensors", "config.json", "README.md"
_BUNDLED = Path(__file__).parents[1] / "weights"
_OF_THE_HUB = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def bundled() -> list[str]:
    """Names of the models that come with lamae."""
    return sorted(path.parent.name for path in _BUNDLED.glob(f"*/{CONFIG_NAME}"))


def find(model: str | os.PathLike[str]) -> Path:
    """The directory of a model: ``model`` itself where that exists, else one that comes with lamae, else of the hub.

    A name such as ``owner/name`` is fetched from the Hugging Face hub, where huggingface_hub is installed. What is
    neither is returned as it is, for whoever reads it to refuse. Raises UsageError where the hub does not give it.
    """
    path, name = Path(model), os.fspath(model)
    if path.exists():
        return path
    if name in bundled():
        return _BUNDLED / name
    # runs/typo beside a folder runs is a typo, and no name of the hub.
    return _fetch(name) if _OF_THE_HUB.fullmatch(name) and not Path(path.parts[0]).exists() else path


def load_pretrained(model: str | os.PathLike[str], *, device: str | torch.device = "cpu") -> LoadedModel:
    """The model of a run, a checkpoint or anything that ``find`` finds, in eval mode, float32.

    Raises UsageError where there is none and LamaeError where it is damaged.
    """
    path = find(model)
    if (path / CONFIG_NAME).is_file():
        loaded = read_export(path)
        loaded.model.to(device)
        return loaded
    try:
        return load_model(path, device=device)
    except UsageError:
        if path.exists():
            raise
        what = "no such run, checkpoint or export"
        raise UsageError(f"{path}: {what}, and no model that comes with lamae ({', '.join(bundled())})") from None


@dataclass
class _Content:
    """What reading needs of config.json."""

    export_version: int
    model: dict[str, Any]
    mask: dict[str, Any]
    signal: dict[str, Any]
    num_samples: int
    step: int
    samples_consumed: int
    weights_sha256: str


def read_export(root: Path) -> LoadedModel:
    """Read an exported model, which does not hold its pretraining subjects.

    Raises UsageError where ``root`` is none, LamaeError where it is damaged, newer than this lamae or of a run that had
    diverged.
    """
    place = root / CONFIG_NAME
    try:
        content = files.read_json(place)
    except FileNotFoundError:
        raise UsageError(
            f"{root}: no {CONFIG_NAME}, so this is no exported model; make one with 'lamae export RUN OUT', or take "
            f"one that comes with lamae: {', '.join(bundled())}"
        ) from None
    files.check_version(root, "export version", content.get("export_version"), EXPORT_VERSION)
    files.check_shape(place, content, _Content)
    _check_weights(root / WEIGHTS_NAME, content["weights_sha256"])
    sections = {name: content[name] for name in ("model", "mask", "signal")}
    values = {"run": {"dir": "none"}, "data": {"path": "none"}, **sections}
    config = runconfig.from_dict(values, source=str(place))
    with torch.random.fork_rng(devices=[]):
        model = build_model(config.model, config.mask, num_samples=content["num_samples"])
    try:
        model.load_state_dict(load_file(root / WEIGHTS_NAME))
    except (OSError, SafetensorError, RuntimeError) as error:  # of torch: another model
        raise LamaeError(f"{root / WEIGHTS_NAME}: {' '.join(str(error).split())[:300]}; export again") from None
    if problem := unfit_weight(model.named_parameters()):
        raise LamaeError(f"{root / WEIGHTS_NAME}: {problem}; export an earlier checkpoint")
    return LoadedModel(
        model=model.eval(),
        config=config,
        path=root,
        step=content["step"],
        samples_consumed=content["samples_consumed"],
        num_samples=content["num_samples"],
        subject_hashes=np.empty(0, np.uint64),
        subject_hash="",
        sets=None,
    )


def _check_weights(path: Path, sha256: str) -> None:
    """Raises LamaeError unless the file has this sha256."""
    try:
        found = file_sha256(path)
    except OSError as error:
        raise LamaeError(f"{path}: {error.strerror or error}; export again") from None
    if found != sha256:
        raise LamaeError(f"{path}: damaged, its sha256 is not the one in {CONFIG_NAME}; copy it or export it again")


def _fetch(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ModuleNotFoundError:
        raise UsageError(
            f"{name}: no such directory; if it is a model of the Hugging Face hub: pip install 'lamae[hub]'"
        ) from None
    log.info("%s: of the Hugging Face hub", name)
    try:
        return Path(snapshot_download(name, allow_patterns=[WEIGHTS_NAME, CONFIG_NAME, CARD_NAME]))
    except Exception as error:  # of the network, of the hub, of the disk
        raise UsageError(f"{name}: no such directory, and not had from the hub: {str(error).strip()[:300]}") from None
