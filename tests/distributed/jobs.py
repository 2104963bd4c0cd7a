"""Training runs as a rank of a test job carries them out, healthy and sick, several in one process."""

import logging
import os
import signal
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

from lamae.base.errors import LamaeError
from lamae.train.checkpoint import saver
from lamae.train.checkpoint.saver import take_snapshot
from lamae.train.inputs import Inputs
from lamae.train.loop import train
from lamae.train.ranks import distributed
from tests.runs import tiny_config

Job = tuple[Path, tuple[str, ...]]


def run_jobs(shards: Path, jobs: list[Job]) -> list[int]:
    """Train each (run directory, overrides) in turn; the exit codes."""
    return [train(tiny_config(shards, run_dir, *overrides)) for run_dir, overrides in jobs]


def decide_badly(shards: Path) -> tuple[str, str]:
    """Type and text of what each rank raises where rank 0 meets a disk that fails."""

    def fail() -> None:
        raise OSError(5, "Input/output error", str(shards))

    try:
        distributed.start(timeout_s=60, num_threads=1).decide(fail)
    except Exception as error:
        return type(error).__name__, str(error)
    return "", ""


def run_with_poison(shards: Path, job: Job, *, rank: int, micro_batches: list[int]) -> tuple[int, str, list[int]]:
    """Train while the first record of some micro-batches of one rank turns into NaN.

    Gives the exit code, the error (empty where there was none), and the rows that were poisoned on this rank.
    """
    prepare, calls, poisoned = Inputs.prepare, 0, []

    def poison(self: Inputs, batch: Any, **options: Any) -> Any:
        nonlocal calls
        prepared, mask = prepare(self, batch, **options)
        if int(os.environ["RANK"]) == rank and calls in micro_batches:
            prepared.x_BLT[0] = float("nan")
            poisoned.append(int(batch.row[0]))
        calls += 1
        return prepared, mask

    with patch.object(Inputs, "prepare", poison):
        try:
            return train(tiny_config(shards, job[0], *job[1])), "", poisoned
        except LamaeError as error:
            return error.exit_code, str(error), poisoned


def run_diverging(shards: Path, job: Job, *, rank: int) -> tuple[int, str]:
    """Train while a weight of which one rank holds the master copy is NaN in every snapshot; exit code and error."""

    def snapshot(*arguments: Any, **options: Any) -> saver.Snapshot:
        taken = take_snapshot(*arguments, **options)
        if int(os.environ["RANK"]) == rank:
            next(tensor for _, tensor in taken.weights())[0] = float("nan")
        return taken

    with patch.object(saver, "take_snapshot", snapshot):
        try:
            return train(tiny_config(shards, job[0], *job[1])), ""
        except LamaeError as error:
            return error.exit_code, str(error)


def hear_poison(shards: Path, job: Job, *, rank: int, micro_batches: list[int]) -> str:
    """What each rank warns of meanwhile."""
    heard = StringIO()
    handler = logging.StreamHandler(heard)
    handler.setLevel(logging.WARNING)
    logging.getLogger("lamae").addHandler(handler)
    try:
        run_with_poison(shards, job, rank=rank, micro_batches=micro_batches)
    finally:
        logging.getLogger("lamae").removeHandler(handler)
    return heard.getvalue()


def run_with_signal(shards: Path, job: Job, *, rank: int, number: signal.Signals, micro_batch: int) -> int:
    """Train while one rank gets a signal during its ``micro_batch``-th micro-batch (0-based)."""
    prepare, calls = Inputs.prepare, 0

    def prepare_and_signal(self: Inputs, batch: Any, **options: Any) -> Any:
        nonlocal calls
        if int(os.environ["RANK"]) == rank and calls == micro_batch:
            os.kill(os.getpid(), number)
        calls += 1
        return prepare(self, batch, **options)

    with patch.object(Inputs, "prepare", prepare_and_signal):
        return train(tiny_config(shards, job[0], *job[1]))
