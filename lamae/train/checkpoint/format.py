"""The checkpoint on disk: what is in it, whether it is whole, and how to read it.

    RUN/checkpoints/
      latest                   name of the newest checkpoint, for people; replaced last
      step-00000500/
        checkpoint.json        state, configuration, data hashes, parameters and their fragments, digests of every file
        rank-00000.safetensors one per rank: float32 master weights and moments, ``KIND/NAME/START`` one-dimensional
        subjects.safetensors   hash set of the subjects trained on
        pinned                 (optional, put there by a person) never pruned
      .writing-…/              an unfinished one; removed at the next start

A fragment is elements ``start .. start + numel`` of a flattened parameter. Fragments say nothing of ranks or stages, so
any topology reads what any other wrote. A checkpoint appears by one rename, after all its bytes are durable.
A file's digests are BLAKE3 of each 16 MiB (``tensorfile.CHUNK_BYTES``); in version 1 of the format, one sha256.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from lamae.base import files
from lamae.base.errors import LamaeError, NewerError, UsageError
from lamae.base.files import file_sha256
from lamae.base.rundirectory import STEP_NAME, RunDirectory
from lamae.model.pretrain import PretrainModel, build_model
from lamae.train.checkpoint.subjects import trained_sets
from lamae.train.checkpoint.tensorfile import TensorFile, chunk_digest, chunk_starts, on_threads
from lamae.train.monitor.health import unfit_weight
from lamae.train.runconfig import RunConfig, from_dict
from lamae.train.state import TrainState

FORMAT_VERSION = 2
MANIFEST_NAME = "checkpoint.json"
SUBJECTS_NAME = "subjects.safetensors"
PINNED_NAME = "pinned"
LATEST_NAME = "latest"
WRITING_PREFIX = ".writing-"
SMALL_NUMEL = 1 << 16
"""What is read sooner than handed to another thread."""

log = logging.getLogger(__name__)


def manifest_digest(manifest: dict[str, Any]) -> str:
    rest = {key: value for key, value in manifest.items() if key != "digest"}
    return files.json_sha256(rest)


# -- listing, verifying --------------------------------------------------------------------------------------------


@dataclass
class _FileEntry:
    bytes: int
    blake3: list[str] = field(default_factory=list)
    sha256: str = ""
    """In place of the other, in format 1."""


@dataclass
class _ParameterEntry:
    shape: list[int]
    fragments: list[list[Any]]
    """File, first element, how many."""


@dataclass
class _Manifest:
    """What every checkpoint says; those of pretraining also say what ``_Pretraining`` has."""

    state: TrainState
    files: dict[str, _FileEntry]
    parameters: dict[str, _ParameterEntry]


@dataclass
class _Set:
    name: str
    source: str | None
    index_hash: str


@dataclass
class _Pretraining:
    config: dict[str, Any]
    num_samples: int
    subject_hash: str
    index_hash: str
    sets: list[_Set] = field(default_factory=list)


@dataclass(frozen=True)
class CheckpointInfo:
    """One published checkpoint, not yet verified."""

    path: Path
    step: int
    samples_consumed: int
    """0 where the manifest is unreadable."""
    unreadable: LamaeError | None
    """Why the manifest is."""
    pinned: bool


def list_checkpoints(root: Path) -> list[CheckpointInfo]:
    """The published checkpoints of a ``checkpoints`` directory, oldest first; none where there is no directory."""
    found = []
    for path in root.iterdir() if root.is_dir() else ():
        match = STEP_NAME.fullmatch(path.name)
        if match and path.is_dir():
            samples_consumed, unreadable = 0, None
            try:
                samples_consumed = int(read_manifest(path)["state"]["samples_consumed"])
            except LamaeError as error:
                unreadable = error
            pinned = (path / PINNED_NAME).exists()
            if path.is_dir():  # else the run has pruned it meanwhile
                found.append(CheckpointInfo(path, int(match[1]), samples_consumed, unreadable, pinned))
    return sorted(found, key=lambda info: info.step)


def read_manifest(path: Path) -> dict[str, Any]:
    """``checkpoint.json`` of a checkpoint, checked against its own digest.

    Raises LamaeError when it is missing, damaged, or of a newer format than this program reads.
    """
    file = path / MANIFEST_NAME
    try:
        manifest = files.read_json(file)
    except FileNotFoundError:
        raise LamaeError(f"{path}: no {MANIFEST_NAME}, so this is no checkpoint") from None
    files.check_version(path, "checkpoint format", manifest.get("format_version"), FORMAT_VERSION)
    if manifest.get("digest") != manifest_digest(manifest):
        raise LamaeError(f"{file}: contents do not match their own digest")
    # The digest shows damage; whoever wrote the file could also have written this.
    files.check_shape(file, manifest, _Manifest)
    fragments = [fragment for entry in manifest["parameters"].values() for fragment in entry["fragments"]]
    for name in manifest["files"]:
        files.check_plain(file, name)
    for fragment in fragments:
        if [type(value) for value in fragment] != [str, int, int] or fragment[0] not in manifest["files"]:
            raise LamaeError(f"{file}: parameters: fragment {fragment!r:.80} is in none of its files")
    return manifest


def verify_checkpoint(path: Path, *, hashes: bool = True) -> list[str]:
    """What is wrong with a checkpoint, one line each; empty when every byte is as written.

    Without ``hashes`` no tensor is read: only the manifest, and that every file has its size.
    """
    try:
        manifest = read_manifest(path)
    except LamaeError as error:
        return [str(error)]
    problems, whole = [], {}
    for name, entry in manifest["files"].items():
        file = path / name
        if not file.is_file():
            problems.append(f"{file}: missing")
        elif file.stat().st_size != entry["bytes"]:
            problems.append(f"{file}: {file.stat().st_size} bytes, {entry['bytes']} were written")
        else:
            whole[name] = entry
    return problems + _find_damage(path, whole) if hashes else problems


def _find_damage(path: Path, entries: dict[str, dict[str, Any]]) -> list[str]:
    """A line for each file of a checkpoint whose bytes are not those that were written, naming the first difference."""
    digests: list[tuple[str, int | None, str | None]] = []
    for name, entry in entries.items():
        if "blake3" in entry:
            pairs = zip_longest(chunk_starts(entry["bytes"]), entry["blake3"])
            digests += [(name, begin, written) for begin, written in pairs]
        else:
            digests.append((name, None, entry.get("sha256")))

    def compare(digest: tuple[str, int | None, str | None]) -> str:
        name, begin, written = digest
        try:
            if begin is None:
                same, what = file_sha256(path / name) == written, "sha256 differs"
            else:
                same, what = chunk_digest(path / name, begin) == written, f"bytes from {begin} on differ"
        except OSError as error:
            return f"{path / name}: unreadable ({error.strerror})"
        return "" if same else f"{path / name}: {what} from what was written"

    problems: dict[str, str] = {}
    for (name, _, _), problem in zip(digests, on_threads(compare, digests), strict=True):
        if problem:
            problems.setdefault(name, problem)
    return list(problems.values())


def newest_whole(root: Path) -> Path | None:
    """The newest checkpoint that verifies; those passed over are named in the log. None when there is none.

    Raises NewerError at one of a newer format: passing over it would throw its steps away.
    """
    for info in reversed(list_checkpoints(root)):
        if isinstance(info.unreadable, NewerError):
            raise NewerError(f"{info.unreadable} or take another run.dir")
        problems = verify_checkpoint(info.path)
        if not problems:
            return info.path
        if info.path.is_dir():  # else pruned meanwhile
            log.warning("%s is damaged and passed over: %s", info.path.name, "; ".join(problems))
    return None


# -- reading -------------------------------------------------------------------------------------------------------


class Piece(NamedTuple):
    """Elements of a flattened parameter's ``master`` weight or moment, and where to put them."""

    kind: str
    name: str
    start: int
    target: torch.Tensor
    """Without gaps, on any device."""


class CheckpointReader:
    """The tensors of one checkpoint, whichever topology wrote it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = read_manifest(path)
        self._files: dict[str, TensorFile] = {}

    @property
    def state(self) -> TrainState:
        return TrainState.from_dict(self.manifest["state"])

    @cached_property
    def subjects(self) -> np.ndarray:
        """Sorted uint64 hashes of the subjects trained on."""
        try:
            return np.asarray(load_file(self.path / SUBJECTS_NAME)["subjects"])
        except (OSError, KeyError, SafetensorError) as error:
            raise LamaeError(f"{self.path / SUBJECTS_NAME}: unreadable ({error})") from None

    def fill(self, pieces: Sequence[Piece]) -> None:
        """Read into tensors that exist, several at once. Raises LamaeError where the checkpoint lacks any of it."""
        for file in {fragment[0] for piece in pieces for fragment in self._fragments(piece.name)} - self._files.keys():
            self._files[file] = TensorFile(self.path / file)
        large = []
        for piece in pieces:
            if piece.target.numel() < SMALL_NUMEL:
                self._fill_one(piece)
            else:
                large.append(piece)
        on_threads(self._fill_one, large)

    def _fragments(self, name: str) -> list[tuple[str, int, int]]:
        fragments: list[tuple[str, int, int]] = self.manifest["parameters"][name]["fragments"]
        return fragments

    def _fill_one(self, piece: Piece) -> None:
        kind, name, start, target = piece
        flat, numel, filled = target.detach().view(-1), target.numel(), 0
        host = flat if flat.is_cpu and flat.dtype == torch.float32 else torch.empty(numel)
        for file, begin, length in self._fragments(name):
            low, high = max(begin, start), min(begin + length, start + numel)
            if low < high:
                self._files[file].read_into(host[low - start : high - start], f"{kind}/{name}/{begin}", low - begin)
                filled += high - low
        if filled != numel:
            raise LamaeError(f"{self.path}: {numel - filled} of {numel} elements of {kind} {name} are missing")
        if host is not flat:
            flat.copy_(host)

    def buffers(self) -> dict[str, torch.Tensor]:
        """The model's persistent buffers, as rank 0 had them."""
        with safe_open(self.path / "rank-00000.safetensors", framework="pt") as file:
            names = [key for key in file.keys() if key.startswith("buffer/")]  # noqa: SIM118
            return {name.removeprefix("buffer/"): file.get_tensor(name) for name in names}


@dataclass
class LoadedModel:
    """A model as a checkpoint holds it, ready to evaluate, and where it comes from."""

    model: PretrainModel
    config: RunConfig
    path: Path
    step: int
    samples_consumed: int
    num_samples: int
    """Samples per lead of the model's input."""
    subject_hashes: np.ndarray
    """Sorted uint64 hashes of the subjects it was pretrained on; see lamae.train.checkpoint.subjects."""
    subject_hash: str
    """One sha256 over that set."""
    sets: list[dict[str, Any]] | None
    """The shard sets it was trained on, see lamae.train.checkpoint.subjects; None: not known, as of an export."""


def load_model(run_or_checkpoint: Path, *, device: str | torch.device = "cpu") -> LoadedModel:
    """The model of a checkpoint directory, or of the newest whole checkpoint of a run directory, in eval mode, float32.

    Raises UsageError where there is none and LamaeError where the one asked for is damaged, or its run had diverged.
    """
    path = Path(run_or_checkpoint)
    newest = RunDirectory(path).newest_step()
    try:
        return _load_model(path, device=device)
    except (LamaeError, OSError):
        if RunDirectory(path).newest_step() == newest:
            raise
        return _load_model(path, device=device)  # the run trains, and has replaced what was being read


def _load_model(path: Path, *, device: str | torch.device) -> LoadedModel:
    if (path / MANIFEST_NAME).is_file():
        if problems := verify_checkpoint(path):
            raise LamaeError(f"{path} is damaged: {'; '.join(problems)}")
    else:
        if (whole := newest_whole(RunDirectory(path).checkpoints)) is None:
            raise UsageError(f"{path}: neither a checkpoint nor a run directory with a whole one below checkpoints/")
        path = whole
    reader = CheckpointReader(path)
    manifest = reader.manifest
    files.check_shape(path / MANIFEST_NAME, manifest, _Pretraining)
    config = from_dict(manifest["config"], source=str(path))
    with torch.random.fork_rng():
        model = build_model(config.model, config.mask, num_samples=int(manifest["num_samples"]))
    load_weights(model, reader)
    return LoadedModel(
        model=model.to(device).eval(),
        config=config,
        path=path,
        step=reader.state.step,
        samples_consumed=reader.state.samples_consumed,
        num_samples=int(manifest["num_samples"]),
        subject_hashes=reader.subjects,
        subject_hash=manifest["subject_hash"],
        sets=trained_sets(manifest),
    )


def load_weights(model: torch.nn.Module, reader: CheckpointReader) -> None:
    """Put a checkpoint's float32 weights and buffers into a model.

    Raises LamaeError where names or shapes differ, and where the run had diverged.
    """
    parameters, weights = dict(model.named_parameters()), {}
    for name, entry in reader.manifest["parameters"].items():
        own = parameters.get(name)
        # Read where they are to be, if they can be: load_state_dict then finds nothing to copy.
        fits = own is not None and list(own.shape) == entry["shape"]
        weights[name] = own if own is not None and fits else torch.empty(entry["shape"])
    reader.fill([Piece("master", name, 0, tensor) for name, tensor in weights.items()])
    try:
        model.load_state_dict({**weights, **reader.buffers()})
    except (RuntimeError, SafetensorError) as error:
        differences = " ".join(str(error).split())
        raise LamaeError(f"{reader.path}: weights do not fit this model: {differences[:500]}") from None
    if problem := unfit_weight(model.named_parameters()):
        raise LamaeError(
            f"{reader.path}: {problem}. The run had diverged; to use its checkpoint before this one, move this one "
            f"out: mv {reader.path} {reader.path.parent.parent}",
            all_ranks=True,
        )
