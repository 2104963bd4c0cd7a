"""What ``lamae doctor`` measures from inside a job: every rank runs this, rank 0 writes the results.

    python -m lamae.cluster.examination RESULTS.json OUT [SHARDS]

OUT is a directory on the file system that runs will use.
"""

import os
import shutil
import socket
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from lamae.base import files
from lamae.data.config import DataConfig
from lamae.data.loader import RingLoader
from lamae.model.config import MaskConfig, ModelConfig
from lamae.model.masking import draw_mask
from lamae.model.pretrain import build_model
from lamae.sharding.format import ShardSet
from lamae.train.config import EngineConfig, OptimConfig
from lamae.train.engine import Engine
from lamae.train.optimizer import build_optimizer
from lamae.train.ranks import distributed
from lamae.train.ranks.distributed import Ranks
from lamae.train.schedule import plan_batch

PARITY_STEPS = 3
PARITY_RECORDS_PER_RANK = 2
PARITY_SAMPLES = 200
PARITY_LR = 1e-3
# A large eps: else AdamW turns the rounding noise of a gradient that is really zero into whole steps.
PARITY_OPTIM = OptimConfig(lr=PARITY_LR, eps=1e-2)

ALL_REDUCE_BYTES = 16 << 20
ALL_REDUCE_TIMES = 5
LATENCY_TIMES = 50
DISK_BYTES = 256 << 20
LOADER_SECONDS = 3.0
LOADER_BATCH = 64


def examine(ranks: Ranks, *, out: Path, shards: Path | None) -> dict[str, Any]:
    """Everything, the same on every rank."""
    on_each_node: dict[str, Any] = {"host": socket.gethostname(), "devices": _devices()}
    if ranks.local_rank == 0:
        on_each_node |= _measure_disk(out)
        if shards is not None:
            on_each_node["records_per_s"] = _measure_loader(shards)
    ranks.barrier()
    clocks = ranks.gather(time.time())
    return {
        "world_size": ranks.world_size,
        "device": ranks.device.type,
        "parity_error": _measure_parity(ranks),
        "clock_spread_s": max(clocks) - min(clocks),
        "nodes": [node for node in ranks.gather(on_each_node) if "free_gb" in node],
        **_measure_collectives(ranks),
    }


def _devices() -> list[str]:
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def _measure_parity(ranks: Ranks) -> float:
    """Largest relative difference between a few fp32 steps under DeepSpeed and under plain torch: losses and gradients.

    From the second step on a loss depends on the direction of the gradients before it; what clipping hides of their
    scale shows in their norm before clipping.
    """
    global_batch = PARITY_RECORDS_PER_RANK * ranks.world_size
    plan = plan_batch(global_batch, micro_batch_size=PARITY_RECORDS_PER_RANK, world_size=ranks.world_size)
    config = EngineConfig(zero_stage=1, precision="fp32")
    engine = Engine(_small_model().to(ranks.device), ranks=ranks, engine=config, optim=PARITY_OPTIM, plan=plan)
    first = ranks.rank * PARITY_RECORDS_PER_RANK
    losses, norms = [], []
    for step in range(PARITY_STEPS):
        inputs = _inputs(step, global_batch, ranks.device, first, first + PARITY_RECORDS_PER_RANK)
        (output,) = engine.take_step([inputs], learning_rate=PARITY_LR, weight_decay=PARITY_OPTIM.weight_decay)
        losses.append(float(ranks.mean(output.loss.float().cpu())))
        norms.append(engine.gradient_norm())
    engine.close()

    model = _small_model().to(ranks.device)
    optimizer = build_optimizer(model, PARITY_OPTIM)
    differences = []
    for step in range(PARITY_STEPS):
        loss = model(*_inputs(step, global_batch, ranks.device, 0, global_batch)).loss
        loss.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), PARITY_OPTIM.clip_norm))
        optimizer.step()
        optimizer.zero_grad()
        reference = float(loss.detach())
        # Not max(): it would pass over what is not a number.
        differences += [abs(losses[step] - reference) / abs(reference), abs(norms[step] - norm) / norm]
    return float(np.max(ranks.gather(np.max(differences))))


def _small_model() -> Any:
    torch.manual_seed(0)
    config = ModelConfig(
        patch_size=25, width=16, depth=1, heads=2, latent_depth=1, decoder_width=8, decoder_depth=1, decoder_heads=2
    )
    return build_model(config, MaskConfig(), num_samples=PARITY_SAMPLES)


def _inputs(step: int, count: int, device: torch.device, start: int, stop: int) -> tuple[Any, ...]:
    """Records ``start`` to ``stop`` of ``count`` of a step, drawn on the CPU so that every rank draws the same."""
    generator = torch.Generator().manual_seed(step)
    x_BLT = torch.randn(count, 12, PARITY_SAMPLES, generator=generator).cumsum(-1)[start:stop] / 5
    lead_mask_BL = torch.ones(stop - start, 12, dtype=torch.bool)
    mask = draw_mask(
        MaskConfig(),
        seed=0,
        epoch_B=torch.full((stop - start,), step),
        row_B=torch.arange(start, stop),
        lead_mask_BL=lead_mask_BL.to(device),
        num_patches=PARITY_SAMPLES // 25,
    )
    valid_BLT = torch.ones_like(x_BLT, dtype=torch.bool)
    return x_BLT.to(device), valid_BLT.to(device), lead_mask_BL.to(device), mask


def _measure_collectives(ranks: Ranks) -> dict[str, float | None]:
    """Bandwidth of a large all-reduce (bytes each rank sends per second in a ring) and time of a tiny one."""
    if ranks.world_size == 1:
        return {"bus_gb_per_s": None, "latency_us": None}
    large = torch.ones(ALL_REDUCE_BYTES // 4, device=ranks.device)
    small = torch.ones(1, device=ranks.device)
    large_s = _time_all_reduce(large, ALL_REDUCE_TIMES)
    sent = 2 * (ranks.world_size - 1) / ranks.world_size * ALL_REDUCE_BYTES
    return {"bus_gb_per_s": sent / large_s / 1e9, "latency_us": _time_all_reduce(small, LATENCY_TIMES) * 1e6}


def _time_all_reduce(tensor: torch.Tensor, times: int) -> float:
    """Seconds per call, after one to warm up."""
    dist.all_reduce(tensor)
    _synchronise(tensor)
    began = time.perf_counter()
    for _ in range(times):
        dist.all_reduce(tensor)
    _synchronise(tensor)
    return (time.perf_counter() - began) / times


def _synchronise(tensor: torch.Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)


def _measure_disk(out: Path) -> dict[str, Any]:
    """Durable write speed, free space, and whether a rename replaces a file at once, as checkpoints need."""
    out.mkdir(parents=True, exist_ok=True)
    block = os.urandom(1 << 20)
    path = out / f".doctor-{socket.gethostname()}-{os.getpid()}"
    began = time.perf_counter()
    try:
        with path.open("wb") as file:
            for _ in range(DISK_BYTES >> 20):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        seconds = time.perf_counter() - began
        other = path.with_name(path.name + ".new")
        other.write_text("new")
        other.replace(path)
        renamed = path.read_text() == "new" and not other.exists()
    finally:
        path.unlink(missing_ok=True)
    return {
        "write_mb_per_s": DISK_BYTES / 1e6 / seconds,
        "rename_replaces": renamed,
        "free_gb": shutil.disk_usage(out).free / 1e9,
    }


def _measure_loader(shards: Path) -> float:
    """Records per second that one rank's loader reads and checks."""
    shard_set = ShardSet.open(shards)
    rows = shard_set.rows_of_split("all")
    with RingLoader(
        shard_set,
        rows,
        config=DataConfig(path=str(shards)),
        seed=0,
        global_batch_size=LOADER_BATCH,
        rank=0,
        world_size=1,
    ) as loader:
        next(loader)
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < LOADER_SECONDS:
            next(loader)
            count += LOADER_BATCH
        return count / (time.perf_counter() - began)


def main() -> None:
    results, out, *shards = (Path(word) for word in sys.argv[1:])
    ranks = distributed.start(timeout_s=120, num_threads=1)
    found = examine(ranks, out=out, shards=shards[0] if shards else None)
    if ranks.is_main:
        files.write_json(results, found)
    ranks.barrier()


if __name__ == "__main__":
    main()
