"""What a machine with a GPU is asked first: whether everything computes what it should there, and how fast.

Each part runs in a process of its own with a time limit; its result is in the report before the next one begins, so
that the command can be started again and goes on. Parts that need data find it in a folder beside the report.
"""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lamae import console
from lamae.base.errors import LamaeError, UsageError
from lamae.base.leads import NUM_LEADS
from lamae.base.rowfile import read_rows
from lamae.base.rundirectory import RunDirectory
from lamae.benchmarks.kernels import HEAD_DIM, HEADS
from lamae.benchmarks.ranks import Session, call_apart
from lamae.benchmarks.result import combine, describe_result, read_result, run_benchmark, write_result
from lamae.benchmarks.step import TrainingStep
from lamae.benchmarks.synthetic import DTYPES, SyntheticBatch, build_model_of, load_run
from lamae.kernels import cross_lead_attention
from lamae.train import loop
from lamae.train.engine import Engine
from lamae.train.ranks import distributed
from lamae.train.runconfig import RunConfig, load
from lamae.train.schedule import BatchPlan

NAME = "gpu-check"
KERNEL_TOLERANCE = {"fp32": 1e-4, "bf16": 3e-2}
"""Largest error of an output or a gradient, relative to the largest value."""
TRAVEL_TOLERANCE = {"fp32": 1e-4, "bf16": 5e-2}
"""Of how far the weights move in PARITY_STEPS steps."""
PARITY_STEPS, PARITY_RECORDS, LEARNING_RATE = 3, 8, 1e-3
LEAST_S = 5.0


@dataclass(frozen=True)
class Part:
    """What is run in one process. ``run(folder, quick=…)`` gives what is particular to its result."""

    run: Callable[..., dict[str, Any]]
    limit_s: float


def check(path: Path, *, minutes: float, quick: bool) -> dict[str, Any]:
    """The report of all parts at ``path``; those that it holds already are not run again.

    Parts for which ``minutes`` leave no time, and those that fail, are named under ``failed``. Raises UsageError where
    ``path`` is another report.
    """
    report = read_result(path) if path.exists() else None
    if report is not None and (report["benchmark"], report["quick"]) != (NAME, quick):
        raise UsageError(f"{path}: no report of this form of {NAME}; name another file with --json")
    results: dict[str, Any] = report["results"] if report else {}
    failed: dict[str, str] = {}
    folder = path.with_name(f"{path.name}.work")
    folder.mkdir(exist_ok=True)
    ends = time.monotonic() + 60 * minutes
    for name, part in PARTS.items():
        if name in results:
            continue
        left_s = ends - time.monotonic()
        try:
            if left_s < LEAST_S:
                raise LamaeError(f"not begun: {minutes:g} minutes were over; run the same command again")
            limit_s = min(part.limit_s, left_s)
            results[name] = call_apart(run_part, timeout_s=limit_s, name=name, folder=folder, quick=quick)
            console.say(f"{name}: done in {results[name]['wall_s']:.0f} s")
        except LamaeError as error:
            failed[name] = str(error).splitlines()[-1]
            console.print_error(f"{name}: {failed[name]}")
        write_result(combine(results, failed=failed, quick=quick, name=NAME), path)
    if not failed:
        shutil.rmtree(folder)
    return combine(results, failed=failed, quick=quick, name=NAME)


def run_part(session: Session, *, name: str, folder: Path, quick: bool) -> dict[str, Any]:
    """One part, with all that a result says of its circumstances."""
    console.set_up_logging()
    start = time.monotonic()
    measured = PARTS[name].run(folder, quick=quick)
    settings = {"device": _device(), **measured.pop("settings", {})}
    about = {**describe_result(name, quick=quick), "command": f"lamae bench {NAME}{' --quick' * quick}"}
    return {
        **about,
        "wall_s": round(time.monotonic() - start, 1),
        "settings": settings,
        "measurements": {},
        "ratios": {},
        "ratio_spread": {},
        **measured,
    }


def check_kernels(_folder: Path, *, quick: bool) -> dict[str, Any]:
    """Attention among the leads by every implementation that this machine has, beside float64."""
    groups, device = (64 if quick else 4096), _device()
    generator = torch.Generator().manual_seed(0)
    exact = torch.randn(groups, NUM_LEADS, 3, HEADS, HEAD_DIM, generator=generator, dtype=torch.float64)
    mask = (torch.rand(groups, NUM_LEADS, generator=generator) < 0.8).to(device)
    errors, too_large = {}, []
    for precision, dtype in DTYPES.items():
        rounded = exact.to(device, dtype)
        expected = _attend(rounded.double(), mask, "eager")
        for name in ("eager", "sdpa", *(["triton"] if device == "cuda" else [])):
            actual = _attend(rounded, mask, name)
            relative = [(a.double() - e).abs().max() / e.abs().max() for a, e in zip(actual, expected, strict=True)]
            error = float(torch.stack(relative).max())  # NaN where any is, which Python's max may drop
            errors[f"{name}_{precision}"] = {"error": error}
            if not error <= KERNEL_TOLERANCE[precision]:
                too_large.append(f"{name} in {precision} by {error:.1e}")
    _refuse(too_large, "attention differs from float64")
    return {"settings": {"groups": groups, "tolerance": KERNEL_TOLERANCE}, "measurements": errors}


def _attend(qkv: Tensor, mask: Tensor, implementation: str) -> tuple[Tensor, Tensor]:
    leaf = qkv.detach().clone().requires_grad_()
    out = cross_lead_attention(leaf, mask, implementation=implementation)
    return out.detach(), torch.autograd.grad(out, leaf, torch.ones_like(out))[0]


def check_zero(_folder: Path, *, quick: bool) -> dict[str, Any]:
    """DeepSpeed's stages 1 to 3 on one device, beside plain torch from the same weights on the same batch."""
    ranks = distributed.start(timeout_s=60, num_threads=0)
    errors, too_large = {}, []
    for precision in DTYPES:
        size = "tiny" if quick else "small"
        # A large eps: else AdamW turns the rounding noise of a gradient that is really zero into whole steps.
        run = load_run(size, f"engine.precision={precision}", "optim.eps=1e-2", f"optim.lr={LEARNING_RATE}")
        plain = TrainingStep(run, dtype=DTYPES[precision], batch_size=PARITY_RECORDS, device=_device())
        plain.master.load_state_dict(plain.model.state_dict())  # training starts from weights that bfloat16 can hold
        start = _flatten(dict(plain.master.named_parameters()))
        for _ in range(PARITY_STEPS):
            plain()
        expected = _flatten(dict(plain.master.named_parameters()))
        for stage in (1, 2, 3):
            run.engine.zero_stage = stage
            error = float((engine_steps(run, ranks, plain.batch) - expected).norm() / (expected - start).norm())
            errors[f"stage_{stage}_{precision}"] = {"error": error}
            if not error <= TRAVEL_TOLERANCE[precision]:
                too_large.append(f"stage {stage} in {precision} by {error:.1e}")
    _refuse(too_large, "steps differ from plain torch's")
    return {"settings": {"size": size, "steps": PARITY_STEPS, "tolerance": TRAVEL_TOLERANCE}, "measurements": errors}


def engine_steps(run: RunConfig, ranks: distributed.Ranks, batch: SyntheticBatch) -> Tensor:
    """Master weights, one after the other by name, after PARITY_STEPS of our engine from the weights of seed 0."""
    torch.manual_seed(0)
    plan = BatchPlan(world_size=1, accumulation=1, micro=PARITY_RECORDS)
    engine = Engine(build_model_of(run), ranks=ranks, engine=run.engine, optim=run.optim, plan=plan)
    for _ in range(PARITY_STEPS):
        micro_batch = (*batch.inputs, batch.draw_mask())
        engine.take_step([micro_batch], learning_rate=LEARNING_RATE, weight_decay=run.optim.weight_decay)
    weights = _flatten({each.name: each.view(each.flat) for each in engine.fragments()})
    engine.close()
    return weights


def _flatten(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensors[name].detach().flatten() for name in sorted(tensors)])


def check_training(folder: Path, *, quick: bool) -> dict[str, Any]:
    """Steps from shards that ``lamae synth`` and ``lamae shard`` made, and what of them waits for the loader."""
    run_dir = folder / "run"
    shutil.rmtree(run_dir, ignore_errors=True)
    steps, every = (4, 2) if quick else (100, 20)
    _train(folder, run_dir, f"train.steps={steps}", f"monitor.log_every={every}", quick=quick)
    # The first interval warms up: imports, kernels, the page cache.
    rows = [row for row in read_rows(RunDirectory(run_dir).metrics) if "data_wait_share" in row][1:]
    last = {key: rows[-1][key] for key in ("records_per_s", "step_s", "data_wait_share", "memory_gb", "loss")}
    return {"settings": {"steps": steps, "pinned": torch.cuda.is_available()}, "measurements": {"training": last}}


def check_embedding(folder: Path, *, quick: bool) -> dict[str, Any]:
    """Records per second from shards to embeddings, with the model that ``training`` left."""
    from lamae.evaluate.embeddings.embed import embed
    from lamae.sharding.format import ShardSet

    shutil.rmtree(folder / "embeddings.zarr", ignore_errors=True)
    shard_set, batch_size, seconds = ShardSet.open(_shards(folder, quick=quick)), 8 if quick else 256, []
    for _ in range(2):  # the first warms up
        shutil.rmtree(folder / "embeddings.zarr", ignore_errors=True)
        start = time.monotonic()
        embed(folder / "run", shard_set, folder / "embeddings.zarr", batch_size=batch_size, device=_device())
        seconds.append(time.monotonic() - start)
    rate = {"records_per_s": shard_set.num_records / seconds[-1]}
    return {"settings": {"batch_size": batch_size}, "measurements": {"embed": rate}}


def check_profile(folder: Path, *, quick: bool) -> dict[str, Any]:
    """Where three steps of training go; the trace itself is left beside the report."""
    run_dir, first = folder / "profiled", 2 if quick else 8
    shutil.rmtree(run_dir, ignore_errors=True)
    _train(folder, run_dir, f"train.steps={first + 3}", f"profile.steps=[{first},{first + 2}]", quick=quick)
    profile = run_dir / "profile"
    kept = folder.with_name(folder.name.replace(".work", ".profile"))
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(profile, kept)
    [table] = profile.glob("*/table.txt")
    return {"settings": {"traces": kept.name}, "table": table.read_text().splitlines()}


def _train(folder: Path, run_dir: Path, *overrides: str, quick: bool) -> None:
    on_gpu, shards = torch.cuda.is_available(), _shards(folder, quick=quick)
    batch = 4 if quick else 256
    config = load(
        "tiny" if quick else "small",
        [
            *(f"run.dir={run_dir}", f"data.path={shards}"),
            *(f"train.global_batch_size={batch}", f"train.micro_batch_size={batch}"),
            *("engine.zero_stage=1", f"engine.precision={'bf16' if on_gpu else 'fp32'}"),
            *overrides,
        ],
    )
    code = loop.train(config)
    if code:
        raise LamaeError(f"training ended with exit code {code}")


def _shards(folder: Path, *, quick: bool) -> Path:
    """Of synthetic records, made where they are not there yet."""
    from lamae.sharding.pack import PackOptions, pack
    from lamae.sharding.synth import synthesize

    source, shards, num_records = folder / "source", folder / "shards", 32 if quick else 1024
    if not source.exists():
        synthesize(source, num_records=num_records, num_subjects=num_records // 4, seed=0)
    pack(source, shards, options=PackOptions(shard_size=num_records // 4))
    return shards


def _kernels(_folder: Path, *, quick: bool) -> dict[str, Any]:
    return _benchmark("kernels", quick=quick)


def _steps(size: str, _folder: Path, *, quick: bool) -> dict[str, Any]:
    """Eager and compiled steps side by side."""
    smaller: dict[str, Any] = {"sizes": ("tiny",), "precisions": ("fp32" if size == "small" else "bf16",)}
    full: dict[str, Any] = {"sizes": (size,), "repeats": 3, "compiled": True}
    return _benchmark("step", quick=quick, **(smaller if quick else full))


def _benchmark(name: str, *, quick: bool, **options: Any) -> dict[str, Any]:
    measured = run_benchmark(name, quick=quick, **options)
    return {key: measured[key] for key in ("settings", "measurements", "ratios", "ratio_spread", "notes")}


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _refuse(too_large: list[str], what: str) -> None:
    if too_large:
        raise LamaeError(f"{what}: {', '.join(too_large)}")


PARTS = {
    "kernel-parity": Part(check_kernels, 60),
    "zero-parity": Part(check_zero, 120),
    "kernels": Part(_kernels, 120),
    "step-small": Part(partial(_steps, "small"), 150),
    "training": Part(check_training, 120),
    "embed": Part(check_embedding, 60),
    "step-base": Part(partial(_steps, "base"), 180),
    "profile": Part(check_profile, 60),
}
