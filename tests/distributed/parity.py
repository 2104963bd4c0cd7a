"""What two ranks under DeepSpeed compute, and what plain torch computes in one process, for the same batches.

The gradient is read back from AdamW's first moment after the first step, ``exp_avg = (1 - beta1) * gradient``: what
the optimiser was really given, in full, wherever its pieces lie.
"""

import copy
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from lamae.model.config import MaskConfig, ModelConfig
from lamae.model.layers import LayerNorm
from lamae.model.masking import draw_mask
from lamae.model.pretrain import build_model
from lamae.train.blocks import checkpoint_activations
from lamae.train.config import EngineConfig, OptimConfig
from lamae.train.engine import Engine
from lamae.train.optimizer import build_optimizer
from lamae.train.ranks import distributed
from lamae.train.schedule import plan_batch

STEPS = 3
GLOBAL_BATCH = 8
NUM_SAMPLES = 200
# A large eps: else AdamW turns the rounding noise of a gradient that is really zero (a key's bias) into whole steps.
OPTIM = OptimConfig(lr=3e-3, weight_decay=0.1, beta1=0.9, beta2=0.95, eps=1e-2, clip_norm=1.0)
LEARNING_RATES = (1e-3, 3e-3, 2e-3)
# Everything partitioned and many small buckets: the paths that a tiny model would otherwise not take.
STAGE_3_PARTITIONS_ALL = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
SMALL_BUCKETS = {"zero_optimization": {"reduce_bucket_size": 1000, "allgather_bucket_size": 1000}}


@dataclass(frozen=True)
class Case:
    """One way to run the same training."""

    precision: str
    zero_stage: int
    accumulation: int = 1
    activation_checkpointing: bool = False
    model: str = "lamae"
    deepspeed: str = ""

    @property
    def name(self) -> str:
        parts = [self.model, self.precision, f"stage{self.zero_stage}", f"accumulate{self.accumulation}"]
        return "-".join(parts + ["recompute"] * self.activation_checkpointing + [self.deepspeed] * bool(self.deepspeed))


@dataclass
class Trace:
    """What a case did; the same on every rank."""

    losses: list[float]
    gradient: dict[str, torch.Tensor]
    weights: dict[str, torch.Tensor]
    norms: list[float]
    start: dict[str, torch.Tensor] = field(default_factory=dict)
    """The weights before the first step; of the reference alone."""


class SharedBlock(nn.Module):
    """One linear layer used three times, and a parameter used by no layer: gradients must add up over the uses."""

    def __init__(self) -> None:
        super().__init__()
        self.read = nn.Linear(12, 24)
        self.block = nn.Linear(24, 24)
        self.norm = LayerNorm(24)
        self.token = nn.Parameter(torch.zeros(24))
        self.write = nn.Linear(24, 12)

    def forward(self, x_BLT: torch.Tensor, valid_BLT: torch.Tensor, lead_mask_BL: torch.Tensor, _mask: Any) -> Any:
        z_BTD = self.read(x_BLT.transpose(1, 2).to(self.read.weight.dtype)) + self.token
        for _ in range(3):
            z_BTD = z_BTD + torch.tanh(self.block(self.norm(z_BTD)))
        error_BTL = (self.write(z_BTD).float() - x_BLT.transpose(1, 2).roll(1, 1)).square()
        asked_BTL = (valid_BLT & lead_mask_BL[:, :, None]).transpose(1, 2)
        loss_B = (error_BTL * asked_BTL).sum((1, 2)) / asked_BTL.sum((1, 2)).clamp(min=1)
        weights_BL = lead_mask_BL.float() / lead_mask_BL.sum(1, keepdim=True)
        return SimpleNamespace(loss=loss_B.mean(), loss_B=loss_B, lead_weights_BL=weights_BL, parts={})


def make_model(kind: str) -> nn.Module:
    torch.manual_seed(0)
    if kind == "shared":
        return SharedBlock()
    sizes = {"width": 16, "depth": 1, "heads": 2, "latent_depth": 1, "decoder_width": 8, "decoder_heads": 2}
    return build_model(ModelConfig(patch_size=25, **sizes), MaskConfig(), num_samples=NUM_SAMPLES)  # type: ignore[arg-type]


def make_inputs(step: int, start: int, stop: int) -> tuple[Any, ...]:
    """Records ``start`` to ``stop`` of a step's global batch: some lack leads, so records count different samples."""
    generator = torch.Generator().manual_seed(step)
    x_BLT = torch.randn(GLOBAL_BATCH, 12, NUM_SAMPLES, generator=generator).cumsum(-1) / 5
    lead_mask_BL = torch.rand(GLOBAL_BATCH, 12, generator=generator) > 0.2
    lead_mask_BL[:, 0] = True
    valid_BLT = lead_mask_BL[:, :, None] & (torch.rand(x_BLT.shape, generator=generator) > 0.1)
    part = slice(start, stop)
    x_BLT = torch.where(valid_BLT, x_BLT, 0.0)
    mask = draw_mask(
        MaskConfig(),
        seed=0,
        epoch_B=torch.full((stop - start,), step),
        row_B=torch.arange(start, stop),
        lead_mask_BL=lead_mask_BL[part],
        num_patches=NUM_SAMPLES // 25,
    )
    return x_BLT[part], valid_BLT[part], lead_mask_BL[part], mask


FAULTS = {
    "ranks not averaged": "gradients summed over two ranks",
    "a rank lost": "half of the global batch counts for nothing",
    "a micro-batch lost": "the last quarter of the global batch counts for nothing",
    "stale weights": "the model computes with the weights of the start",
    "a layer lost": "one matrix gets no gradient",
    "decay on all": "norms and biases decay like matrices",
    "counter lost": "every step is AdamW's first",
    "momentum lost": "the first moment starts anew at every step",
    "clipped by part": "every tensor is clipped to the norm of the whole",
}
"""What a broken engine might do, for showing that the comparison would notice."""


def exact_gradient(model_kind: str) -> dict[str, torch.Tensor]:
    """The clipped gradient of the first step in float32, at the weights that bfloat16 can hold."""
    model = make_model(model_kind)
    model.load_state_dict({name: value.bfloat16().float() for name, value in model.state_dict().items()})
    model(*make_inputs(0, 0, GLOBAL_BATCH)).loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIM.clip_norm)
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def plain_torch(model_kind: str, precision: str, *, fault: str = "") -> Trace:
    """The reference: one process, the whole global batch at once, no DeepSpeed; or one of FAULTS.

    In bf16 a copy of the model computes in bfloat16; the float32 model holds the weights and takes the steps.
    """
    masters = make_model(model_kind)
    model = masters if precision == "fp32" and fault != "stale weights" else copy.deepcopy(masters)
    if precision == "bf16":  # training starts from weights that bfloat16 can hold
        model.bfloat16()
        masters.load_state_dict(model.state_dict())
    optimizer = build_optimizer(masters, OPTIM)
    losses, norms, gradient = [], [], {}
    start = weights_of(masters)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATES[step]
            group["weight_decay"] = OPTIM.weight_decay if group["decays"] or fault == "decay on all" else 0.0
        loss = model(*make_inputs(step, 0, GLOBAL_BATCH)).loss
        kept = {"a rank lost": GLOBAL_BATCH // 2, "a micro-batch lost": 3 * GLOBAL_BATCH // 4}.get(fault)
        learned = model(*make_inputs(step, 0, kept)).loss * kept / GLOBAL_BATCH if kept else loss
        (learned * (2 if fault == "ranks not averaged" else 1)).backward()
        for parameter, master in zip(model.parameters(), masters.parameters(), strict=True):
            master.grad = parameter.grad.float() if parameter.grad is not None else None
        if fault == "a layer lost":
            next(p for p in masters.parameters() if p.grad is not None and p.dim() == 2).grad.zero_()
        for state in optimizer.state.values():
            if fault == "counter lost":
                state["step"].zero_()
            if fault == "momentum lost":
                state["exp_avg"].zero_()
        if fault == "clipped by part":
            norm = torch.nn.utils.get_total_norm([p.grad for p in masters.parameters() if p.grad is not None])
            for master in masters.parameters():
                torch.nn.utils.clip_grad_norm_([master], OPTIM.clip_norm)
            norms.append(float(norm))
        else:
            norms.append(float(torch.nn.utils.clip_grad_norm_(masters.parameters(), OPTIM.clip_norm)))
        if step == 0:
            gradient = {name: p.grad.clone() for name, p in masters.named_parameters() if p.grad is not None}
        optimizer.step()
        if fault != "stale weights":
            model.load_state_dict(masters.state_dict())
        model.zero_grad()
        losses.append(float(loss.detach()))
    return Trace(losses, gradient, weights_of(masters), norms, start)


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def gather_fragments(engine: Engine, ranks: distributed.Ranks, kind: str) -> dict[str, torch.Tensor]:
    """Whole tensors from every rank's owned fragments; asserts that these cover each parameter exactly once."""
    mine = [
        (f.name, f.start, (f.view(f.flat) if kind == "master" else engine.moment(f, kind)).clone())
        for f in engine.fragments()
        if f.owned
    ]
    whole = {name: torch.full(shape, float("nan")).flatten() for name, shape in engine.shapes().items()}
    for name, start, values in (piece for share in ranks.gather(mine) for piece in share):
        target = whole[name][start : start + len(values)]
        assert target.isnan().all(), f"{name}: fragments overlap"
        target.copy_(values)
    assert not any(values.isnan().any() for values in whole.values()), "fragments leave gaps"
    return {name: values.view(engine.shapes()[name]) for name, values in whole.items()}


def run_case(case: Case, ranks: distributed.Ranks) -> Trace:
    """A few steps of one case on this rank."""
    model = make_model(case.model)
    if case.activation_checkpointing:
        checkpoint_activations(model)
    per_rank = GLOBAL_BATCH // ranks.world_size
    plan = plan_batch(GLOBAL_BATCH, micro_batch_size=per_rank // case.accumulation, world_size=ranks.world_size)
    assert plan.accumulation == case.accumulation
    raw = {"": {}, "partitioned": STAGE_3_PARTITIONS_ALL, "buckets": SMALL_BUCKETS}[case.deepspeed]
    config = EngineConfig(zero_stage=case.zero_stage, precision=case.precision, deepspeed=raw)
    engine = Engine(model, ranks=ranks, engine=config, optim=OPTIM, plan=plan)
    losses, norms, gradient = [], [], {}
    for step in range(STEPS):
        starts = [ranks.rank * per_rank + index * plan.micro for index in range(plan.accumulation)]
        outputs = engine.take_step(
            (make_inputs(step, start, start + plan.micro) for start in starts),
            learning_rate=LEARNING_RATES[step],
            weight_decay=OPTIM.weight_decay,
        )
        total = torch.stack([output.loss.float() for output in outputs]).mean()
        assert engine.step_was_applied
        losses.append(float(ranks.mean(total)))
        norms.append(engine.gradient_norm())
        if step == 0:
            moments = gather_fragments(engine, ranks, "exp_avg")
            gradient = {name: moment / (1 - OPTIM.beta1) for name, moment in moments.items()}
    trace = Trace(losses, gradient, gather_fragments(engine, ranks, "master"), norms)
    engine.close()
    return trace


def run_cases(cases: list[Case]) -> dict[str, Trace]:
    ranks = distributed.start(timeout_s=60, num_threads=1)
    return {case.name: run_case(case, ranks) for case in cases}
