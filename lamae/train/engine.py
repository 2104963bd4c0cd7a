"""DeepSpeed behind one small class. What has to be worked around in it is in ``deepspeed_habits``, which imports it.

DeepSpeed partitions, reduces, clips and steps. What is kept out of its hands: its checkpoints (pickle, in place,
bound to one topology), its learning-rate schedules, and its extensions compiled on first use. State leaves and enters
as ``Fragment``s: views of the flat buffers that the optimiser really steps, named by parameter and position, so that
they mean the same at any ZeRO stage and world size.
"""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lamae.train.checkpoint.format import Piece
from lamae.train.clock import StepClock, TimedBackend
from lamae.train.config import EngineConfig, OptimConfig
from lamae.train.deepspeed_habits import TupleOutput, import_deepspeed
from lamae.train.engine_options import deepspeed_config
from lamae.train.optimizer import build_optimizer
from lamae.train.ranks.distributed import Ranks
from lamae.train.schedule import BatchPlan

MOMENTS = ("exp_avg", "exp_avg_sq")

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


@dataclass(frozen=True)
class StepOutput:
    """What one micro-batch gave: its loss, and whatever else the model puts out, detached, by name."""

    loss: torch.Tensor
    aux: dict[str, Any]


class Engine:
    """A model, its optimiser and DeepSpeed: steps of micro-batches, and the state in fragments.

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
        deepspeed = import_deepspeed()
        deepspeed.init_distributed(dist_init_required=False, verbose=False)
        self._clock = clock or StepClock(ranks.device)
        self._comm = deepspeed.comm.comm
        self._backend, self._comm.cdb = self._comm.cdb, TimedBackend(self._comm.cdb, self._clock)
        self.model = model
        self.zero_stage = engine.zero_stage
        self._rank = ranks.rank
        self._clip_norm = optim.clip_norm
        self._accumulation = plan.accumulation
        self._shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        self._adamw = build_optimizer(model, optim)
        self._linear = nn.functional.linear
        self._deepspeed, *_ = deepspeed.initialize(
            model=TupleOutput(model), optimizer=self._adamw, config=deepspeed_config(engine, optim, plan)
        )
        self._gathered = deepspeed.zero.GatheredParameters
        self._applied = True
        self._norm_at_stage_0: torch.Tensor | None = None

    def take_step(
        self, micro_batches: Iterable[Sequence[Any]], *, learning_rate: float, weight_decay: float
    ) -> list[StepOutput]:
        """One optimiser step over the plan's micro-batches, each the inputs of the model.

        Gradients are reduced over ranks, clipped and applied with the last. The model's output is a dataclass with a
        scalar ``loss`` among its fields.
        """
        outputs = []
        for inputs in micro_batches:
            with self._clock.phase("forward"):
                loss, aux = self._deepspeed(*inputs)
            self._backward(loss)
            outputs.append(StepOutput(loss.detach(), aux))  # its graph's memory is the next micro-batch's
            with self._clock.phase("optimizer"):
                self._step(learning_rate, weight_decay, last=len(outputs) == self._accumulation)
        return outputs

    def _backward(self, loss: torch.Tensor) -> None:
        with self._clock.phase("backward"):
            self._deepspeed.backward(loss)

    def _step(self, learning_rate: float, weight_decay: float, *, last: bool) -> None:
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

    def restore(self, fill: Callable[[list[Piece]], None], *, applied_steps: int) -> None:
        """Set master weights, moments and step counters.

        ``fill`` puts what a checkpoint holds into the tensors it is given (``CheckpointReader.fill``). The model must
        have been built with the same weights already: the copies it computes with were cast from those.
        """
        pieces = []
        for fragment in self.fragments():
            if fragment.flat not in self._adamw.state:
                self._adamw.state[fragment.flat] = {
                    "step": torch.tensor(float(applied_steps), device=fragment.flat.device),
                    **{key: torch.zeros_like(fragment.flat, requires_grad=False) for key in MOMENTS},
                }
            for kind in ("master", *MOMENTS):
                flat = fragment.flat if kind == "master" else self._adamw.state[fragment.flat][kind]
                pieces.append(Piece(kind, fragment.name, fragment.start, fragment.view(flat)))
        fill(pieces)

    def close(self) -> None:
        """Free what DeepSpeed holds, and take back what it replaced: stage 3 leaves a linear function of its own."""
        nn.functional.linear = self._linear
        self._comm.cdb = self._backend
        self._deepspeed.destroy()
