"""Arithmetic of a model, counted from its configuration: what utilisation is measured against.

Matrix products only, two operations per multiply-add, as ``torch.utils.flop_counter`` counts them. Slots that stay
empty and patches that are laid out but not valid are computed, hence counted.
"""

from dataclasses import dataclass

from lamae.base.leads import NUM_LEADS
from lamae.model.config import Layout, MaskConfig, MaskShape, ModelConfig


@dataclass(frozen=True)
class Flops:
    """Floating point operations of one record."""

    embed: int
    """Patches to tokens."""
    encoder: int
    exchange: int
    """Exchange between leads, and pooling."""
    decoder: int

    @property
    def forward(self) -> int:
        return self.embed + self.encoder + self.exchange + self.decoder

    @property
    def training(self) -> int:
        """Forward and backward. The signal needs no gradient, so embedding it costs one product less."""
        return 3 * self.forward - self.embed


def count_flops(model: ModelConfig, mask: MaskConfig, *, num_samples: int) -> Flops:
    """Of one pretraining record; every record of a configuration costs the same."""
    num_patches = num_samples // model.patch_size
    leads, shown, shared_instants = MaskShape.of(mask, num_patches)
    exchanges, pools_instants, depth, latent_depth, scope = Layout.of(model)
    width, decoder_width = model.width, model.decoder_width

    encoder = depth * _block(model, tokens=leads * (1 + shown), width=width, groups=leads, length=1 + shown)
    embed = 2 * leads * shown * model.patch_size * width

    instants = (shown if shared_instants else num_patches) if pools_instants else 0
    tokens = leads * (1 + instants)
    groups, length = {"summary": (1, leads), "aligned": (1 + instants, leads), "joint": (1, tokens)}[scope]
    averages = model.kind == "mean"
    exchange = latent_depth * _block(
        model, tokens=tokens, width=width, groups=groups, length=length, values_only=averages
    )
    # Each pooled vector is a weighted sum over the leads, then one product.
    pooled = 1 + instants if exchanges else 0
    exchange += pooled * (2 * leads * width + 2 * width**2)
    if not exchanges:
        exchange += 2 * leads * width

    laid_out = instants or shown
    summaries = 1 if exchanges else NUM_LEADS
    decoder = 2 * (leads * laid_out + instants + summaries) * width * decoder_width
    drawn = NUM_LEADS * num_patches
    decoder += model.decoder_depth * _block(
        model, tokens=drawn, width=decoder_width, groups=NUM_LEADS, length=num_patches
    )
    decoder += 2 * drawn * decoder_width * model.patch_size
    return Flops(embed=embed, encoder=encoder, exchange=exchange, decoder=decoder)


def _block(model: ModelConfig, *, tokens: int, width: int, groups: int, length: int, values_only: bool = False) -> int:
    """One transformer block over ``tokens``, attending within ``groups`` sequences of ``length``."""
    hidden = round(width * model.mlp_ratio)
    packed = 1 if values_only else 3
    attention = 0 if values_only else 4 * groups * length**2 * width
    return 2 * tokens * width * (packed * width + width + 2 * hidden) + attention
