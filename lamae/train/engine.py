"""DeepSpeed behind one small class, the only place that imports it.

DeepSpeed partitions, reduces, clips and steps. What is kept out of its hands: its checkpoints (pickle, in place,
bound to one topology), its learning-rate schedules, and its extensions compiled on first use. State leaves and enters
as ``Fragment``s: views of the flat buffers that the optimiser really steps, named by parameter and position, so that
they mean the same at any ZeRO stage and world size.
"""

import importlib
import logging
import math
import os
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lamae.train.clock import StepClock, TimedBackend
from lamae.train.config import EngineConfig, OptimConfig
from lamae.train.engine_options import deepspeed_config
from lamae.train.optimizer import build_optimizer
from lamae.train.ranks.distributed import Ranks
from lamae.train.schedule import BatchPlan

STALE_LOCK_S = 3600.0
MOMENTS = ("exp_avg", "exp_avg_sq")
# Chosen on purpose and held by the parity tests: torch's AdamW, and modules that pass masks and outputs as dataclasses.
EXPECTED_WARNINGS = ("untested ZeRO Optimizer", "unknown inputs or outputs type")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fragment:
    """Elements ``start .. start + numel`` of a flattened parameter, as one rank's optimiser holds them."""

    name: str
    start: int
    numel: int
    flat: torch.Tensor
    """float32 buffer that the optimiser steps; the key of its moments."""
    flat_start: int
    owned: bool
    """Whether this rank is the one that saves it (at stage 0 every rank holds everything)."""

    def view(self, tensor: torch.Tensor) -> torch.Tensor:
        """This fragment within a tensor laid out like ``flat``."""
        return tensor.detach().view(-1).narrow(0, self.flat_start, self.numel)


def _import_deepspeed() -> Any:
    """Import DeepSpeed without its compiler probes, and with its chatter down to warnings."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    # Left to itself, the first collective compiles a shared-memory extension, and a process killed meanwhile leaves a
    # lock on which every later one waits for ever. An empty table says "no extension fits this machine".
    deepspeed.ops.__compatible_ops__ = {}
    _import_muon_uncompiled()
    renamed = r".*`torch.distributed.(all_gather_into|reduce_scatter)_tensor` is deprecated"
    warnings.filterwarnings("ignore", message=renamed, category=FutureWarning)
    logger = logging.getLogger("DeepSpeed")
    logger.setLevel(logging.WARNING)
    for handler in logger.handlers:
        if type(handler) is logging.StreamHandler:
            handler.stream = sys.stderr  # setStream would flush the one before, which may be closed by now
    logger.addFilter(_is_news)
    _warn_of_stale_locks()
    return deepspeed


def _import_muon_uncompiled() -> None:
    """Import an optimiser that is never used but that ZeRO imports all the same.

    Its functions ask torch.compile to wrap them as they are defined, and loading the compiler takes a second.
    """
    from deepspeed.runtime import compiler

    compile_decorator = compiler.compile
    compiler.compile = lambda: lambda function: function
    try:
        importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    finally:
        compiler.compile = compile_decorator


def _warn_of_stale_locks() -> None:
    """Name locks that a killed compilation left: whatever compiles that extension next waits for them for ever."""
    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR", "~/.cache/torch_extensions")).expanduser()
    for lock in (*root.glob("*/lock"), *root.glob("*/*/lock")):
        if time.time() - lock.stat().st_mtime > STALE_LOCK_S:
            log.warning("%s is left over from a compilation that was killed: remove it", lock)


def _is_news(record: logging.LogRecord) -> bool:
    return not any(expected in record.getMessage() for expected in EXPECTED_WARNINGS)


@dataclass
class StepOutput:
    """What one micro-batch gave, on the device and detached, ``loss`` apart."""

    loss: torch.Tensor
    loss_B: torch.Tensor
    lead_weights_BL: torch.Tensor
    parts: dict[str, torch.Tensor]

    def detached(self) -> "StepOutput":
        """The same without the graph, whose memory the next micro-batch needs."""
        return replace(self, loss=self.loss.detach())


class _TupleOutput(nn.Module):
    """The model with its output as a tuple: DeepSpeed hooks tensors in tuples and dicts, not in dataclasses."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        output = self.model(*inputs)
        parts = {name: value.detach() for name, value in output.parts.items()}
        return output.loss, output.loss_B.detach(), output.lead_weights_BL.detach(), parts


class Engine:
    """A model, its optimiser and DeepSpeed: forward, backward, step, and the state in fragments.

    ``model`` is taken over: DeepSpeed casts its weights and moves it to the device. ``clock`` learns what forward,
    backward, optimiser and collectives take.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        ranks: Ranks,
        engine: EngineConfig,
        optim: OptimConfig,
        plan: BatchPlan,
        clock: StepClock | None = None,
    ) -> None:
        deepspeed = _import_deepspeed()
        deepspeed.init_distributed(dist_init_required=False, verbose=False)
        self._clock = clock or StepClock(ranks.device)
        self._comm = deepspeed.comm.comm
        self._backend, self._comm.cdb = self._comm.cdb, TimedBackend(self._comm.cdb, self._clock)
        self.model = model
        self.zero_stage = engine.zero_stage
        self._rank = ranks.rank
        self._clip_norm = optim.clip_norm
        self._shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        self._adamw = build_optimizer(model, optim)
        self._linear = nn.functional.linear
        self._deepspeed, *_ = deepspeed.initialize(
            model=_TupleOutput(model), optimizer=self._adamw, config=deepspeed_config(engine, optim, plan)
        )
        self._gathered = deepspeed.zero.GatheredParameters
        self._applied = True
        self._norm_at_stage_0: torch.Tensor | None = None

    def forward(self, *inputs: Any) -> StepOutput:
        with self._clock.phase("forward"):
            return StepOutput(*self._deepspeed(*inputs))

    def backward(self, loss: torch.Tensor) -> None:
        """Accumulate the gradients of one micro-batch; the last of a step reduces them over ranks."""
        with self._clock.phase("backward"):
            self._deepspeed.backward(loss)

    def step(self, *, learning_rate: float, weight_decay: float, last: bool) -> None:
        """Call after each ``backward``; the ``last`` of a step clips and applies the update."""
        with self._clock.phase("optimizer"):
            if last:
                for group in self._adamw.param_groups:
                    group["lr"] = learning_rate * group["lr_scale"]
                    group["weight_decay"] = weight_decay if group["decays"] else 0.0
                if self.zero_stage == 0:
                    self._check_gradients()
            self._deepspeed.step()
            if last and self.zero_stage > 0:
                self._applied = self._deepspeed.was_step_applied()

    def _check_gradients(self) -> None:
        """Stages 1 to 3 skip a step whose gradient is not finite; stage 0 would apply it, so clip or drop it here.

        AdamW leaves a parameter without gradient untouched, moments and step counter included.
        """
        parameters = [parameter for parameter in self.model.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        self._norm_at_stage_0 = norm
        self._applied = bool(torch.isfinite(norm))
        if not self._applied:
            self._deepspeed.zero_grad()
        elif self._clip_norm:
            torch.nn.utils.clip_grads_with_norm_(parameters, self._clip_norm, norm)

    @property
    def step_was_applied(self) -> bool:
        """Whether the latest step changed the weights; the same on every rank."""
        return self._applied

    def gradient_norm(self) -> float:
        """Global L2 norm of the latest step's gradient before clipping; infinite where it was skipped. Synchronises."""
        if not self._applied:
            return float("inf")
        norm = self._norm_at_stage_0 if self.zero_stage == 0 else self._deepspeed.get_global_grad_norm()
        return float(norm) if norm is not None else float("nan")

    # -- state ---------------------------------------------------------------------------------------------------

    def fragments(self) -> Iterator[Fragment]:
        """What this rank's optimiser holds. Over all ranks the owned fragments cover every parameter once."""
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        zero = self._deepspeed.optimizer
        if self.zero_stage == 0:
            for index, (name, parameter) in enumerate(self.model.named_parameters()):
                owned = index % torch.distributed.get_world_size() == self._rank
                yield Fragment(name, 0, parameter.numel(), parameter, 0, owned)
        elif self.zero_stage == 3:
            for group, flat in zip(zero.fp16_groups, zero.fp32_partitioned_groups_flat, strict=True):
                for parameter in group:
                    _, flat_start, share = zero.grad_position[zero.get_param_id(parameter)]
                    start = self._rank * share
                    numel = min(share, parameter.ds_numel - start)
                    if numel > 0:
                        yield Fragment(names[id(parameter)], start, numel, flat, flat_start, True)
        else:
            for index, flat in enumerate(zero.single_partition_of_fp32_groups):
                begin = self._rank * zero.partition_size[index]
                end = begin + zero.partition_size[index]
                offsets = zero.round_robin_bit16_offsets[index]
                for parameter, offset in zip(zero.round_robin_bit16_groups[index], offsets, strict=True):
                    start, stop = max(begin, offset), min(end, offset + parameter.numel())
                    if start < stop:
                        name = names[id(parameter)]
                        yield Fragment(name, start - offset, stop - start, flat, start - begin, True)

    def moment(self, fragment: Fragment, key: str) -> torch.Tensor:
        """A moment of a fragment, float32 ``[numel]``; zeros before the first step."""
        state = self._adamw.state.get(fragment.flat)
        return fragment.view(state[key]) if state else torch.zeros(fragment.numel, device=fragment.flat.device)

    def persistent_buffers(self) -> dict[str, torch.Tensor]:
        """What a state dict holds besides parameters, by name."""
        parameters = self._shapes
        return {name: value for name, value in self.model.state_dict().items() if name not in parameters}

    def whole_weights(self) -> dict[str, torch.Tensor]:
        """A copy on the host of the weights that are computed with, and of the buffers, whatever is partitioned.

        Called by all ranks.
        """
        if self.zero_stage < 3:
            return {name: value.detach().to("cpu", copy=True) for name, value in self.model.state_dict().items()}
        found = {name: value.detach().to("cpu", copy=True) for name, value in self.persistent_buffers().items()}
        for name, parameter in self.model.named_parameters():
            with self._gathered(parameter):
                found[name] = parameter.detach().to("cpu", copy=True)
        return found

    @property
    def num_parameters(self) -> int:
        return sum(math.prod(shape) for shape in self._shapes.values())

    @contextmanager
    def evaluating(self) -> Iterator[nn.Module]:
        """The model in eval mode without gradients, for a while."""
        self.model.eval()
        try:
            with torch.no_grad():
                yield self.model
        finally:
            self.model.train()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every parameter, whatever is partitioned."""
        return dict(self._shapes)

    def restore(self, read: Any, *, applied_steps: int) -> None:
        """Set master weights, moments and step counters.

        ``read(kind, name, start, numel)`` gives float32 values on the host; ``kind`` is ``master``, ``exp_avg`` or
        ``exp_avg_sq``. The model must have been built with the same weights already: the copies it computes with
        were cast from those.
        """
        with torch.no_grad():
            for fragment in self.fragments():
                if fragment.flat not in self._adamw.state:
                    self._adamw.state[fragment.flat] = {
                        "step": torch.tensor(float(applied_steps), device=fragment.flat.device),
                        **{key: torch.zeros_like(fragment.flat, requires_grad=False) for key in MOMENTS},
                    }
                for kind in ("master", *MOMENTS):
                    target = fragment.flat if kind == "master" else self._adamw.state[fragment.flat][kind]
                    fragment.view(target).copy_(read(kind, fragment.name, fragment.start, fragment.numel))

    def close(self) -> None:
        """Free what DeepSpeed holds, and take back what it replaced: stage 3 leaves a linear function of its own."""
        nn.functional.linear = self._linear
        self._comm.cdb = self._backend
        self._deepspeed.destroy()
