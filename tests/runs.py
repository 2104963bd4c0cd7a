"""Tiny training runs for tests: their data, their configuration, and what they left behind."""

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import torch

from lamae.base.rowfile import read_rows
from lamae.base.settings import to_dict
from lamae.train.checkpoint.format import CheckpointReader, Piece, newest_whole
from lamae.train.runconfig import RunConfig, from_dict
from tests.shardsets import random_adc, write_shard_set

TINY: dict[str, Any] = {
    "data": {"threads": 1, "prefetch": 1},
    "signal": {"rate_hz": 100},
    "model": {
        "patch_size": 50,
        "width": 16,
        "depth": 1,
        "heads": 2,
        "latent_depth": 1,
        "decoder_width": 8,
        "decoder_heads": 2,
        "decoder_depth": 1,
    },
    "train": {"steps": 8, "global_batch_size": 8, "micro_batch_size": 4, "num_threads": 1},
    "optim": {"warmup_steps": 2, "lr": 3e-3},
    "checkpoint": {"every": 0},
    "monitor": {"log_every": 1, "tensorboard": False},
}


def write_tiny_shards(path: Path, *, num_records: int = 30) -> Path:
    """Records of 5 s at 100 Hz, two per subject; the last six are the val split, the other 24 three global batches."""
    adc = random_adc(num_records, 500)
    adc[::5, 3] = -32768  # some records lack aVR
    splits = ["train"] * (num_records - 6) + ["val"] * 6
    subjects = [100 + row // 2 for row in range(num_records)]
    return write_shard_set(path, adc, rate_hz=100.0, splits=splits, subjects=subjects)


def tiny_config(shards: Path, run_dir: Path, *overrides: str) -> RunConfig:
    """The tiny configuration with ``section.key=value`` overrides, checked as the command line checks it."""
    from omegaconf import OmegaConf

    place = {"run": {"dir": str(run_dir)}, "data": {"path": str(shards)}}
    merged = OmegaConf.merge(TINY, place, OmegaConf.from_dotlist(list(overrides)))
    return from_dict(OmegaConf.to_container(merged))  # type: ignore[arg-type]


def write_config(config: RunConfig, path: Path) -> Path:
    from omegaconf import OmegaConf

    path.write_text(OmegaConf.to_yaml(OmegaConf.create(to_dict(config))))
    return path


def losses(run_dir: Path) -> dict[int, float]:
    """Loss by step, from metrics.jsonl."""
    rows = read_rows(run_dir / "metrics.jsonl")
    assert len({row["step"] for row in rows}) == len(rows), "a step was written twice"
    return {row["step"]: row["loss"] for row in rows}


def final_state(run_dir: Path) -> dict[str, torch.Tensor]:
    """Every weight and moment of the newest checkpoint."""
    path = newest_whole(run_dir / "checkpoints")
    assert path is not None
    reader = CheckpointReader(path)
    return {
        f"{kind}/{name}": read_piece(reader, kind, name, 0, int(torch.Size(entry["shape"]).numel()))
        for name, entry in reader.manifest["parameters"].items()
        for kind in ("master", "exp_avg", "exp_avg_sq")
    }


def read_piece(reader: CheckpointReader, kind: str, name: str, start: int, numel: int) -> torch.Tensor:
    """float32 elements ``start .. start + numel`` of a flattened parameter, or of a moment."""
    values = torch.empty(numel)
    reader.fill([Piece(kind, name, start, values)])
    return values


def assert_same_state(a: Path, b: Path) -> None:
    """Bitwise equal weights and moments in the newest checkpoints of two runs."""
    left, right = final_state(a), final_state(b)
    assert left.keys() == right.keys()
    different = [name for name in left if not torch.equal(left[name], right[name])]
    assert not different


def wait_for_step(process: subprocess.Popen, run_dir: Path, step: int = 5, *, limit_s: float = 200) -> None:
    """Until the run that ``process`` started has told of a step beyond ``step``."""
    until = time.monotonic() + limit_s
    while max(losses(run_dir), default=0) <= step:
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)


def descendants(pid: int) -> list[int]:
    """A process and all below it."""
    below = [pid]
    for parent in below:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            below += map(int, task.read_text().split())
    return below


def suspend(pids: list[int], seconds: float) -> None:
    """Stop processes as Ctrl-Z, ``scontrol suspend`` or a paused machine does, and let them go on."""
    for number, pause_s in ((signal.SIGSTOP, seconds), (signal.SIGCONT, 0)):
        for pid in pids:
            os.kill(pid, number)
        time.sleep(pause_s)
