"""Saving without stopping: a snapshot to host memory, files written on a thread, published once all ranks' are durable.

    step n     every rank copies its fragments to host memory and its thread starts writing   (Saver.begin)
    step m     the flags say that every rank's file is durable                                (Saver.flags, follow)
    step m+1   ranks hand rank 0 their digests; it writes checkpoint.json, renames, prunes

The thread does plain file I/O only: no collective runs off the main thread.
"""

import logging
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lamae.base.errors import LamaeError
from lamae.base.rundirectory import step_name
from lamae.train.checkpoint.format import WRITING_PREFIX
from lamae.train.checkpoint.tensorfile import save_tensors
from lamae.train.checkpoint.writing import prune_checkpoints, publish
from lamae.train.config import CheckpointConfig
from lamae.train.engine import MOMENTS, Engine
from lamae.train.monitor.health import unfit_weight
from lamae.train.ranks.distributed import Ranks
from lamae.train.state import TrainState

log = logging.getLogger(__name__)


@dataclass
class Snapshot:
    """One rank's state in host memory, untouched by the steps that follow."""

    tensors: dict[str, torch.Tensor]
    fragments: dict[str, list[tuple[int, int]]]
    """(start, numel) of this rank's fragments of each parameter."""

    def weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The master weights, each with its parameter's name."""
        for key, tensor in self.tensors.items():
            kind, _, place = key.partition("/")
            if kind == "master":
                yield place.rpartition("/")[0], tensor


def take_snapshot(engine: Engine, *, with_buffers: bool) -> Snapshot:
    """Copy what this rank owns, and the model's buffers if asked, to host memory."""
    tensors: dict[str, torch.Tensor] = {}
    fragments: dict[str, list[tuple[int, int]]] = {}
    for fragment in engine.fragments():
        if not fragment.owned:
            continue
        fragments.setdefault(fragment.name, []).append((fragment.start, fragment.numel))
        key = f"{fragment.name}/{fragment.start}"
        tensors[f"master/{key}"] = fragment.view(fragment.flat).to("cpu", torch.float32, copy=True)
        for kind in MOMENTS:
            tensors[f"{kind}/{key}"] = engine.moment(fragment, kind).to("cpu", torch.float32, copy=True)
    if with_buffers:
        for name, buffer in engine.persistent_buffers().items():
            tensors[f"buffer/{name}"] = buffer.to("cpu", copy=True)
    return Snapshot(tensors, fragments)


def write_rank_file(folder: Path, rank: int, snapshot: Snapshot) -> dict[str, Any]:
    """Write a rank's tensors durably; its entry for the manifest. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"rank-{rank:05d}.safetensors"
    return {"name": path.name, "file": save_tensors(snapshot.tensors, path), "fragments": snapshot.fragments}


class Saver:
    """Writes checkpoints of a run, one at a time. All methods are called by all ranks at the same step."""

    NUM_FLAGS = 2

    def __init__(
        self, root: Path, *, ranks: Ranks, config: CheckpointConfig, about: dict[str, Any], subjects: np.ndarray
    ) -> None:
        self.last_seconds: float | None = None
        """What the latest checkpoint took: snapshot and files of the slowest rank, publication; no steps between."""
        self.last_step = -1
        """Step of the latest published checkpoint."""
        self._root = root
        self._ranks = ranks
        self._config = config
        self._about = about
        self._subjects = subjects
        self._attempt = 0
        self._durable = 0
        self._failed = 0
        self._thread: threading.Thread | None = None
        self._entry: dict[str, Any] | None = None
        self._error = ""
        self._unfit = ""
        self._crash: BaseException | None = None
        self._state = TrainState()
        self._began, self._written_s = 0.0, 0.0

    def begin(self, engine: Engine, state: TrainState) -> None:
        """Snapshot now and write on a thread; an earlier save in flight is finished first."""
        self.finish()
        self._attempt += 1
        self._began = time.perf_counter()
        self._state = TrainState.from_dict(state.to_dict())
        snapshot = take_snapshot(engine, with_buffers=self._ranks.is_main)
        self._thread = threading.Thread(target=self._write, args=(snapshot, self._attempt), name="lamae-saver")
        self._thread.start()

    def flags(self) -> list[int]:
        """For the flag exchange: what this rank has written durably, and what it did not write."""
        return [-self._durable, self._failed]

    def follow(self, agreed: list[int]) -> bool:
        """Publish or give up the save in flight if ``agreed``, the maxima of every rank's flags, say so.

        Gives False when a save was given up, for the caller to try again later. Raises LamaeError on all ranks where
        the weights of any cannot be gone on from.
        """
        least_durable, failed = -agreed[0], agreed[1]
        if self._thread is None or self._attempt not in (least_durable, failed):
            return True
        return self._settle()

    def finish(self) -> bool:
        """Wait for the save in flight and publish it; False when it was given up. Raises LamaeError as ``follow``."""
        return self._settle() if self._thread is not None else True

    def _write(self, snapshot: Snapshot, attempt: int) -> None:
        self._entry, self._error, self._unfit, self._crash = None, "", "", None
        try:
            self._unfit = unfit_weight(snapshot.weights())
            if self._unfit:
                self._failed = attempt
                return
            self._entry = write_rank_file(self._writing(attempt), self._ranks.rank, snapshot)
            self._durable = attempt
        except OSError as error:
            self._error = " ".join(str(error).split())
            self._failed = attempt
        except BaseException as error:  # a programming error: raised where the main thread meets it
            self._crash = error
            self._failed = attempt
        finally:
            self._written_s = time.perf_counter() - self._began

    def _writing(self, attempt: int) -> Path:
        return self._root / f"{WRITING_PREFIX}{step_name(self._state.step)}-{attempt}"

    def _settle(self) -> bool:
        assert self._thread is not None
        self._thread.join()
        self._thread = None
        if self._crash is not None:
            raise self._crash
        began = time.perf_counter()
        reports = self._ranks.gather((self._entry, self._error or self._unfit, self._unfit, self._written_s))
        errors = [f"rank {rank}: {error}" for rank, (entry, error, *_) in enumerate(reports) if entry is None]
        problem = ""
        if self._ranks.is_main:
            folder = self._writing(self._attempt)
            try:
                if not errors:
                    self._publish(folder, [entry for entry, *_ in reports])
            except OSError as error:
                errors = [str(error)]
            if errors:
                shutil.rmtree(folder, ignore_errors=True)
                problem = "; ".join(errors)
        if unfit := next(filter(None, (unfit for *_, unfit, _ in reports)), ""):
            raise LamaeError(
                f"the weights have diverged by step {self._state.step}, which is not saved: {unfit}. Start again with "
                "a lower learning rate or clipped gradients; what was saved before is kept",
                all_ranks=True,
            )
        problem = self._ranks.share(problem)
        if problem and self._ranks.is_main:
            log.warning("checkpoint of step %d not written: %s", self._state.step, problem)
        if problem:
            return False
        self.last_step = self._state.step
        self.last_seconds = max(written_s for *_, written_s in reports) + time.perf_counter() - began
        return True

    def _publish(self, folder: Path, entries: list[dict[str, Any]]) -> None:
        parameters: dict[str, Any] = {
            name: {"shape": list(shape), "fragments": []} for name, shape in self._about["shapes"].items()
        }
        for entry in entries:
            for name, pieces in entry["fragments"].items():
                parameters[name]["fragments"] += [[entry["name"], start, numel] for start, numel in pieces]
        manifest = {
            "state": self._state.to_dict(),
            **{key: value for key, value in self._about.items() if key != "shapes"},
            "parameters": parameters,
            "files": {entry["name"]: entry["file"] for entry in entries},
        }
        final = publish(folder, manifest, subjects=self._subjects, root=self._root)
        log.debug("published %s", final)
        try:
            prune_checkpoints(self._root, keep=self._config.keep, published=final)
        except (OSError, LamaeError) as error:  # the checkpoint is there all the same
            log.warning("%s: older checkpoints could not be removed: %s", self._root, error)
