"""Training steps on a rank: our engine under DeepSpeed at any ZeRO stage, on synthetic signal in memory.

The functions take a rank's session first (benchmarks.ranks) and are called on all ranks of a job at once.
"""

import contextlib
import ctypes
import gc
import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lamae.base.allocator import return_freed_memory
from lamae.benchmarks.ranks import COLLECTIVE_TIMEOUT_S, Session
from lamae.benchmarks.synthetic import SyntheticBatch, build_model_of, load_run, wait
from lamae.benchmarks.wire import Wire, tap
from lamae.model.pretrain import PretrainModel
from lamae.train.blocks import checkpoint_activations
from lamae.train.clock import StepClock
from lamae.train.engine import Engine
from lamae.train.precision import is_bf16_faster, settle_precision
from lamae.train.ranks import distributed
from lamae.train.runconfig import RunConfig
from lamae.train.schedule import plan_batch


@dataclass(frozen=True)
class StepCost:
    """What one rank spent on some steps, per step."""

    seconds: float
    phase_s: dict[str, float]
    """What it was spent on (lamae.train.clock): they sum to ``seconds``. Communication is sending, and waiting for
    slower ranks; on CUDA what of it holds the device up."""
    sent_bytes: float
    tensor_bytes: dict[str, int]
    calls: dict[str, int]


def join(session: Session) -> None:
    """Find the other ranks, and watch what is sent to them from now on."""
    if "ranks" not in session:
        session["ranks"] = distributed.start(
            timeout_s=COLLECTIVE_TIMEOUT_S, num_threads=int(os.environ.get("OMP_NUM_THREADS", 0))
        )
        session["wire"] = tap(session["ranks"].world_size)


def open_steps(session: Session, *, config: str, overrides: list[str]) -> int:
    """Build model and engine of a configuration on this rank; its number of parameters."""
    join(session)
    release_memory()
    session["resident_before"] = _status_bytes("VmRSS") if reset_peak() else None
    ranks = session["ranks"]
    run = settle_precision(load_run(config, *overrides), prefer_bf16=is_bf16_faster(ranks.device))
    session["steps"] = _Steps(run, ranks, session["wire"])
    return int(session["steps"].engine.num_parameters)


def time_steps(session: Session, *, num_steps: int) -> StepCost:
    """Take steps, all ranks together from the first to the end of the last."""
    steps: _Steps = session["steps"]
    session["ranks"].barrier()
    steps.wire.reset()
    before = steps.clock.read()
    began = time.perf_counter()
    for _ in range(num_steps):
        steps.take_one()
    seconds = time.perf_counter() - began
    times = steps.clock.read().since(before)
    assert times is not None
    wire = steps.wire
    return StepCost(
        seconds=seconds / num_steps,
        phase_s=times.phase_s,
        sent_bytes=wire.sent_bytes / num_steps,
        tensor_bytes={name: n // num_steps for name, n in wire.tensor_bytes.items()},
        calls={name: n // num_steps for name, n in wire.calls.items()},
    )


def close_steps(session: Session) -> None:
    """Free model and engine."""
    session.pop("steps").engine.close()
    gc.collect()
    release_memory()


def map_large_blocks(session: Session) -> None:
    """Have the C library map every large block on its own, and give it back when it is freed.

    It keeps freed blocks otherwise, on a CPU because training asks it to (lamae.base.allocator), and what a process
    holds says more of that than of the program (glibc, mallopt(3)). Call it first: what was kept before is still
    handed out. Slower; does nothing without glibc.
    """
    join(session)
    return_freed_memory()


def peak_bytes(session: Session) -> int | None:
    """The most memory that model, engine and steps have held since ``open_steps``; None where that is not known."""
    before = session["resident_before"]
    return None if before is None else _status_bytes("VmHWM") - before


def reset_peak() -> bool:
    """Begin to count the peak anew (Linux, proc(5): clear_refs); whether that was allowed."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _status_bytes(key: str) -> int:
    """Of this process (Linux, proc(5): status)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def release_memory() -> None:
    """Give freed memory back, so that the next engine's can be seen. On CPUs does nothing without glibc."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


class _Steps:
    """An engine and a rank's share of one global batch, again and again."""

    def __init__(self, run: RunConfig, ranks: distributed.Ranks, wire: Wire) -> None:
        self.wire = wire
        self.run = run
        self.plan = plan_batch(
            run.train.global_batch_size, micro_batch_size=run.train.micro_batch_size, world_size=ranks.world_size
        )
        torch.manual_seed(run.train.seed)
        model = self.build_model()
        if run.train.activation_checkpointing:
            checkpoint_activations(model)
        self.clock = StepClock(ranks.device)
        self.engine = Engine(model, ranks=ranks, engine=run.engine, optim=run.optim, plan=self.plan, clock=self.clock)
        self._steps = self.clock.steps(itertools.repeat(None), is_asked_for=lambda: True)
        micro = self.plan.micro
        self.batch = SyntheticBatch(run, micro, device=ranks.device, first_row=ranks.rank * micro)

    def build_model(self) -> PretrainModel:
        return build_model_of(self.run)

    def take_one(self) -> None:
        """One optimiser step, micro-batch by micro-batch as the training loop takes it."""
        next(self._steps)
        self.engine.take_step(self._micro_batches(), learning_rate=1e-5, weight_decay=0.05)
        self.clock.end_step()
        wait(self.batch.signal_BLT)

    def _micro_batches(self) -> Iterator[tuple[Any, ...]]:
        for _ in range(self.plan.accumulation):
            with self.clock.phase("copy"):
                mask = self.batch.draw_mask()
            yield *self.batch.inputs, mask
