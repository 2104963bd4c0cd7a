"""A model as the planner sees it: parameters, arithmetic, and what one record leaves in memory for the backward pass.

Everything follows from the configuration; the parameters are counted on torch's ``meta`` device, which allocates
nothing. Activations are counted block by block: a pre-norm block of width D and hidden width h keeps, per token, its
input, both norms' outputs, the packed projection (3 D), attention's output and the residual (8 D), and the MLP's hidden
values before and after the nonlinearity (2 h). With activation checkpointing it keeps its input, and one block at a
time keeps the rest. A test holds this against what autograd saves.
"""

from dataclasses import dataclass

import torch

from benchmarks.plan.traffic import WEIGHT_BYTES
from lamae.config import RunConfig
from lamae.model import build_model
from lamae.model.config import kinds_drawn, num_visible
from lamae.model.flops import Flops, count_flops
from sharding.leads import NUM_LEADS

RECORD_SECONDS = 10
# Tensors of a record's signal that live through a step: signal, targets, prediction, error and its square, in float32.
SIGNAL_TENSORS = 5
# Operations that a block issues, forward and backward, and the model around its blocks; see KERNEL_LAUNCH_S.
OPERATIONS_PER_BLOCK = 40
OPERATIONS_AROUND = 300


@dataclass(frozen=True)
class ModelShape:
    """Sizes of one configuration."""

    num_parameters: int
    num_tensors: int
    num_blocks: int
    flops: Flops
    """Of one record."""
    activation_bytes: float
    """Of one record, kept from forward to backward."""
    checkpointed_bytes: float
    """The same with activation checkpointing, its one block in full included."""
    recomputed_flops: float
    """What activation checkpointing adds to a record's arithmetic."""

    @property
    def operations(self) -> int:
        """Issued per micro-batch."""
        return self.num_blocks * OPERATIONS_PER_BLOCK + OPERATIONS_AROUND


def model_shape(run: RunConfig) -> ModelShape:
    """Raises UsageError where the configuration's parts do not fit together."""
    num_samples = run.signal.rate_hz * RECORD_SECONDS
    with torch.device("meta"):
        model = build_model(run.model, run.mask, num_samples=num_samples)
    tensors = [parameter.numel() for parameter in model.parameters()]
    item = WEIGHT_BYTES[run.engine.precision]
    groups = _token_groups(run, num_samples=num_samples)
    full = [tokens * _kept_per_token(width, run.model.mlp_ratio) * item for _, tokens, width in groups]
    inputs = [tokens * width * item for _, tokens, width in groups]
    signal = SIGNAL_TENSORS * 4 * NUM_LEADS * num_samples
    flops = count_flops(run.model, run.mask, num_samples=num_samples)
    return ModelShape(
        num_parameters=sum(tensors),
        num_tensors=len(tensors),
        num_blocks=sum(depth for depth, _, _ in groups),
        flops=flops,
        activation_bytes=signal + sum(depth * kept for (depth, _, _), kept in zip(groups, full, strict=True)),
        checkpointed_bytes=signal
        + sum(depth * kept for (depth, _, _), kept in zip(groups, inputs, strict=True))
        + max(full),
        recomputed_flops=flops.encoder + flops.exchange + flops.decoder,
    )


def _kept_per_token(width: int, mlp_ratio: float) -> float:
    return 8 * width + 2 * round(width * mlp_ratio)


def _token_groups(run: RunConfig, *, num_samples: int) -> list[tuple[int, int, int]]:
    """(blocks, tokens of a record, width) of encoder, exchange and decoder."""
    model, kinds = run.model, set(kinds_drawn(run.mask))
    num_patches = num_samples // model.patch_size
    leads = NUM_LEADS - run.mask.hidden_leads if kinds <= {"grid", "lead"} else NUM_LEADS
    shown = num_patches if kinds == {"lead"} else num_visible(run.mask, num_patches)
    on_grid = shown if kinds <= {"grid", "lead", "time"} else num_patches
    exchanged = leads if model.scope == "summary" else leads * (1 + on_grid)
    exchanges = model.kind in ("lamae", "mean", "joint")
    return [
        (model.depth, leads * (1 + shown), model.width),
        (model.latent_depth if exchanges else 0, exchanged, model.width),
        (model.decoder_depth, NUM_LEADS * num_patches, model.decoder_width),
    ]
