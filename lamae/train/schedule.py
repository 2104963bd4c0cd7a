"""Pure functions of the step: learning rate, weight decay, and how a global batch is cut into micro-batches."""

import math
from dataclasses import dataclass

from lamae.base.errors import UsageError
from lamae.train.config import OptimConfig


def _cosine(start: float, end: float, progress: float) -> float:
    """From ``start`` at progress 0 to ``end`` at progress 1 along half a cosine."""
    return end + (start - end) * 0.5 * (1.0 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))


def learning_rate(step: int, config: OptimConfig, *, steps: int) -> float:
    """Learning rate of optimiser step ``step`` (0-based) of ``steps``.

    Rises linearly over the warm-up to ``lr``, which step ``warmup_steps`` uses, then falls along a cosine to
    ``final_lr`` at the last step, or the last before ``decay_end``, and stays there. From step ``restart_from`` on it
    falls along a second cosine to ``final_lr`` at the last step.
    """
    if config.restart_from is not None and step >= config.restart_from:
        start = config.restart_lr
        if start is None:
            start = _first_cycle(config.restart_from, config, steps=steps)
        return _cosine(start, config.final_lr, (step - config.restart_from) / max(steps - 1 - config.restart_from, 1))
    return _first_cycle(step, config, steps=steps)


def _first_cycle(step: int, config: OptimConfig, *, steps: int) -> float:
    end = config.decay_end or steps
    warmup = min(config.warmup_steps, end)
    if step >= end:
        return config.final_lr
    if step < warmup:
        return config.lr * (step + 1) / (warmup + 1)
    return _cosine(config.lr, config.final_lr, (step - warmup) / max(end - 1 - warmup, 1))


def without_decay(config: OptimConfig, *, steps: int) -> str:
    """A sentence where the warm-up leaves the learning rate no step to fall in; empty where it does fall."""
    name, end = ("optim.decay_end", config.decay_end) if config.decay_end else ("train.steps", steps)
    if config.warmup_steps < end - 1 or config.final_lr == config.lr or config.restart_from is not None:
        return ""
    return (
        f"optim.warmup_steps={config.warmup_steps} leaves no step of {name}={end} for the learning rate to fall to "
        f"optim.final_lr={config.final_lr:g}; set optim.warmup_steps to fewer, for example {end // 10}"
    )


def weight_decay(step: int, config: OptimConfig, *, steps: int) -> float:
    """Weight decay of step ``step`` (0-based) of ``steps``: constant, or a cosine to ``final_weight_decay``, which is
    reached where ``final_lr`` first is."""
    final = config.weight_decay if config.final_weight_decay is None else config.final_weight_decay
    return _cosine(config.weight_decay, final, step / max((config.decay_end or steps) - 1, 1))


def progress(step: int, config: OptimConfig, *, steps: int) -> float:
    """Share of the schedule that lies before step ``step`` (0-based), 1 after its ``decay_end``."""
    return min(step / (config.decay_end or steps), 1.0)


@dataclass(frozen=True)
class BatchPlan:
    """How the records of one optimiser step are shared out: ``world_size * accumulation * micro`` of them."""

    world_size: int
    accumulation: int
    micro: int

    @property
    def per_rank(self) -> int:
        return self.accumulation * self.micro


def plan_batch(global_batch_size: int, *, micro_batch_size: int, world_size: int) -> BatchPlan:
    """The fewest equal micro-batches of at most ``micro_batch_size`` records.

    Raises UsageError when the global batch cannot be shared out equally over the ranks.
    """
    per_rank, rest = divmod(global_batch_size, world_size)
    if rest or per_rank == 0:
        near = max(round(global_batch_size / world_size), 1) * world_size
        raise UsageError(
            f"train.global_batch_size={global_batch_size} cannot be shared out equally over {world_size} ranks; "
            f"take a multiple of {world_size}, for example train.global_batch_size={near}"
        )
    accumulation = next(n for n in range(1, per_rank + 1) if per_rank % n == 0 and per_rank // n <= micro_batch_size)
    return BatchPlan(world_size, accumulation, per_rank // accumulation)
