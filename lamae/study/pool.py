"""Runs as processes of their own, a few at a time: no run needs anything of another."""

import math
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from lamae import console
from lamae.base import processes, signals
from lamae.base.errors import EXIT_STOPPED, LamaeError
from lamae.base.progress import Progress
from lamae.base.rundirectory import RunDirectory
from lamae.base.text import format_duration
from lamae.study import worker
from lamae.study.directory import StudyDirectory
from lamae.study.runs import Run
from lamae.train import runconfig

POLL_S = 0.5
SAY_EVERY_S = 30.0
LOG_NAME = "run.log"


def execute(
    study: StudyDirectory,
    runs: Iterable[Run],
    *,
    workers: int,
    stage: str,
    is_done: Callable[[Run], bool],
    progress: Progress,
) -> None:
    """Run those that are not done yet, in their order, ``workers`` processes at a time, or (0) all in this process.

    Where there are GPUs, the processes share them out in turn. Raises LamaeError when one fails; the others are then
    asked to stop, and go on from there when started again.
    """
    wanted = list({run.name: run for run in runs}.values())
    waiting = [run for run in wanted if not is_done(run)]
    num_done = len(wanted) - len(waiting)
    progress(stage, num_done, len(wanted))
    if workers == 0:
        for number, run in enumerate(waiting):
            study.write_run(run)
            _check(study, run.name, worker.run_one(study, run.name))
            progress(stage, num_done + number + 1, len(wanted))
        return
    running: dict[int, tuple[str, processes.Process]] = {}
    said_at = time.monotonic()
    # However long a run takes to save: the study, started again, would meet it at work.
    with signals.leaving_on_request(lambda: processes.stop([one for _, one in running.values()], grace_s=math.inf)):
        while waiting or running:
            for slot in range(workers):
                if waiting and slot not in running:
                    run = waiting.pop(0)
                    running[slot] = run.name, _start(study, run, slot=slot, workers=workers)
            time.sleep(POLL_S)
            for slot, (name, process) in list(running.items()):
                code = process.poll()
                if code is not None:
                    del running[slot]
                    _check(study, name, code)
                    num_done += 1
            progress(stage, num_done, len(wanted))
            if time.monotonic() - said_at >= SAY_EVERY_S:
                said_at = time.monotonic()
                for name, _ in running.values():
                    console.hint(f"{name}: {_describe(study.run(name))}")


def _describe(run: Path) -> str:
    """Where a run is: step, loss, time left."""
    row = RunDirectory(run).last_metrics(with_key="loss")
    if not row:
        return "no step yet"
    steps = runconfig.load(RunDirectory(run).config).train.steps
    loss = "not finite" if row["loss"] is None else f"{row['loss']:.4f}"
    left = "trained" if row["step"] >= steps else f"{format_duration((steps - row['step']) * row['step_s'])} left"
    return f"step {row['step']:,} of {steps:,}, loss {loss}, {left}"


def _check(study: StudyDirectory, name: str, code: int) -> None:
    if code == EXIT_STOPPED:
        raise LamaeError(f"run {name} was stopped by a signal after saving; run the same command again to go on")
    if code != 0:
        log = study.run(name) / LOG_NAME
        raise LamaeError(f"run {name} ended with exit code {code}; see {log}: {processes.last_lines(log, 1)}")


def _start(study: StudyDirectory, run: Run, *, slot: int, workers: int) -> processes.Process:
    study.write_run(run)
    environment = {}
    if "OMP_NUM_THREADS" not in os.environ:
        environment["OMP_NUM_THREADS"] = str(max(1, processes.usable_cores() // workers))
    devices = [device for device in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if device]
    devices = devices or [str(number) for number in range(torch.cuda.device_count())]
    if devices:
        environment["CUDA_VISIBLE_DEVICES"] = devices[slot % len(devices)]
    command = ["-m", "lamae.study.worker", str(study.root), run.name]
    return processes.start(command, environment, log=study.run(run.name) / LOG_NAME, orphaned=signal.SIGTERM)
