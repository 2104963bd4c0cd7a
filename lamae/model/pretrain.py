"""The model as the rest of the project sees it: loss of a batch, embeddings of any leads, reconstructions.

B batch, L leads (12), T samples, N patches, P samples per patch, V slots for leads, S patches per slot, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lamae.base.errors import UsageError
from lamae.base.leads import NUM_LEADS
from lamae.model.config import Layout, MaskConfig, ModelConfig, check_together
from lamae.model.decoder import Decoder
from lamae.model.encoder import Encoder, Exchange, Latents, on_shared_grid
from lamae.model.layers import AttentionPool, LayerNorm, MeanPool, equal_weights
from lamae.model.loss import alignment_weight, error_parts, lead_disagreement, record_means
from lamae.model.masking import Mask, show_all


@dataclass(frozen=True)
class PretrainOutput:
    """Loss of a batch and what it is made of."""

    loss: Tensor
    """Scalar float32: mean of ``loss_B``."""

    loss_B: Tensor
    """float32: each record's mean over its own valid target samples; 0 where it has none. Kind ``aligned`` adds its
    pull between the leads."""

    parts: dict[str, Tensor]
    """Detached scalars of this batch: error by way of being hidden, entropy of the pooling weights; NaN where the batch
    has nothing of the kind."""

    lead_weights_BL: Tensor
    """float32 [B, 12], detached: the pooling's weights; they sum to 1 over the visible leads."""


@dataclass(frozen=True)
class Embedding:
    """Frozen representations of a batch, float32."""

    record_BD: Tensor
    """The pooled record embedding."""

    mean_BD: Tensor
    """Plain mean over all tokens of all present leads."""

    lead_BLD: Tensor
    """Mean over each lead's tokens; zeros for absent leads. L as in the input."""

    lead_weights_BL: Tensor
    """What each lead weighed in ``record_BD``. L as in the input."""


@dataclass(frozen=True)
class _Pooled:
    latents: Latents
    normed_BVD: Tensor
    record_BD: Tensor
    weights_BV: Tensor
    summary_BLD: Tensor
    instant_BSD: Tensor | None
    known_BS: Tensor


def build_model(model: ModelConfig, mask: MaskConfig, *, num_samples: int) -> "PretrainModel":
    """The model of a run in float32; weights follow from ``torch.manual_seed``.

    Raises UsageError when model, masks and the record's length cannot go together.
    """
    try:
        check_together(model, mask, num_samples=num_samples)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return PretrainModel(model)


class PretrainModel(nn.Module):
    """LAMAE or one of its baselines; ``config.kind`` says which parts it is made of."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.progress = 1.0
        layout = Layout.of(config)
        self.exchanges = layout.exchanges
        pool = MeanPool if config.kind == "mean" else AttentionPool
        self.encoder = Encoder(config, depth=layout.depth)
        self.exchange = (
            Exchange(config, scope=layout.scope, depth=layout.latent_depth, averages=config.kind == "mean")
            if self.exchanges
            else None
        )
        self.norm_summary = LayerNorm(config.width)
        self.pool_record = pool(config.width) if self.exchanges else None
        self.pool_instant = pool(config.width) if layout.pools_instants else None
        self.decoder = Decoder(config, reads_instants=layout.pools_instants)

    def set_progress(self, progress: float) -> None:
        """Share of the training that is done, 0 to 1, which weighs the pull of kind ``aligned``; others ignore it."""
        self.progress = progress

    def forward(self, x_BLT: Tensor, valid_BLT: Tensor, lead_mask_BL: Tensor, mask: Mask) -> PretrainOutput:
        """Loss of a batch.

        Args:
            x_BLT: float32 signal; leads that are not in ``lead_mask_BL`` are ignored, whatever they hold.
            valid_BLT: bool, samples that were recorded; others are neither read nor predicted, whatever they hold.
            lead_mask_BL: bool, leads that the record has.
            mask: from ``draw_mask``.
        """
        x_BLT, valid_BLT = _recorded(x_BLT, valid_BLT, lead_mask_BL)
        valid_BLNP = self._patches(valid_BLT)
        pooled, y_BLNP = self._decode(x_BLT, valid_BLT, mask)
        goal_BLNP = self._patches(x_BLT)
        error_BLNP = F.mse_loss(y_BLNP, goal_BLNP, reduction="none")
        target_BLNP = self._target_BLN(mask)[..., None] & valid_BLNP
        loss_B = record_means(error_BLNP, target_BLNP)
        extra = {}
        if self.config.kind == "aligned":
            apart_B = lead_disagreement(pooled.normed_BVD, pooled.latents.slot_BV)
            loss_B = loss_B + alignment_weight(self.config.align_weight, self.progress) * apart_B
            extra["lead_disagreement"] = apart_B.detach().mean()
        with torch.no_grad():
            parts = error_parts(error_BLNP, target_BLNP, mask) | extra
            parts["pool_entropy"] = _relative_entropy(pooled.weights_BV, pooled.latents.slot_BV)
            lead_weights_BL = _by_lead(pooled.weights_BV, mask.lead_BV)
        return PretrainOutput(loss=loss_B.mean(), loss_B=loss_B, parts=parts, lead_weights_BL=lead_weights_BL)

    @torch.no_grad()
    def embed(
        self, x_BLT: Tensor, valid_BLT: Tensor, lead_mask_BL: Tensor, *, leads: Sequence[int] | None = None
    ) -> Embedding:
        """``represent`` without gradients."""
        return self.represent(x_BLT, valid_BLT, lead_mask_BL, leads=leads)

    def represent(
        self, x_BLT: Tensor, valid_BLT: Tensor, lead_mask_BL: Tensor, *, leads: Sequence[int] | None = None
    ) -> Embedding:
        """Embeds records from whatever leads they have; nothing is hidden. Differentiable, for fine-tuning.

        Args:
            x_BLT: float32 signal of any length that is a multiple of the patch.
            valid_BLT: bool, samples that were recorded; a patch or lead without any is treated as not there.
            lead_mask_BL: bool.
            leads: which lead each row of the three arguments is (canonical indices, any order, any subset);
                the twelve in canonical order when not given.
        """
        leads = list(range(NUM_LEADS)) if leads is None else list(leads)
        if len(set(leads)) != len(leads) or len(leads) != x_BLT.shape[1]:
            raise ValueError(f"leads must name each of the {x_BLT.shape[1]} rows once, not {leads}")
        if x_BLT.shape[2] % self.config.patch_size:
            raise UsageError(
                f"{x_BLT.shape[2]} samples are no multiple of the model's patch_size={self.config.patch_size}"
            )
        all_leads_x_BLT = x_BLT.new_zeros(len(x_BLT), NUM_LEADS, x_BLT.shape[2])
        all_leads_valid_BLT = valid_BLT.new_zeros(all_leads_x_BLT.shape)
        all_leads_x_BLT[:, leads], all_leads_valid_BLT[:, leads] = _recorded(x_BLT, valid_BLT, lead_mask_BL)
        present_BL = lead_mask_BL.new_zeros(len(x_BLT), NUM_LEADS)
        present_BL[:, leads] = lead_mask_BL
        mask = show_all(present_BL, num_patches=x_BLT.shape[2] // self.config.patch_size)
        pooled = self._pool(all_leads_x_BLT, all_leads_valid_BLT, mask, instants=False)
        slot_BV, valid_BVK = pooled.latents.slot_BV, pooled.latents.valid_BVK
        tokens_BVKD = torch.where(valid_BVK[..., None], pooled.latents.z_BVKD.float(), 0.0)
        mean_BVD = tokens_BVKD.sum(2) / valid_BVK.sum(2)[..., None].clamp(min=1)
        mean_BD = mean_BVD.sum(1) / slot_BV.sum(1, keepdim=True).clamp(min=1)
        index = mask.lead_BV[:, :, None].expand_as(mean_BVD)
        lead_BLD = mean_BVD.new_zeros(len(x_BLT), NUM_LEADS, mean_BVD.shape[2]).scatter_add(1, index, mean_BVD)
        return Embedding(
            record_BD=pooled.record_BD.float(),
            mean_BD=mean_BD,
            lead_BLD=lead_BLD[:, leads],
            lead_weights_BL=_by_lead(pooled.weights_BV, mask.lead_BV)[:, leads],
        )

    @torch.no_grad()
    def reconstruct(self, x_BLT: Tensor, valid_BLT: Tensor, lead_mask_BL: Tensor, mask: Mask) -> tuple[Tensor, Tensor]:
        """``(y_BLT, predicted_BLT)``: the signal with all targets replaced by the model's prediction.

        ``predicted`` is true where ``y`` is the prediction: what was hidden and is a target of this kind of model.
        """
        x_BLT, valid_BLT = _recorded(x_BLT, valid_BLT, lead_mask_BL)
        _, y_BLNP = self._decode(x_BLT, valid_BLT, mask)
        x_BLNP = self._patches(x_BLT)
        predicted_BLNP = self._target_BLN(mask)[..., None].expand_as(x_BLNP)
        y_BLNP = torch.where(predicted_BLNP, y_BLNP, x_BLNP)
        return y_BLNP.flatten(2), predicted_BLNP.flatten(2)

    def _decode(self, x_BLT: Tensor, valid_BLT: Tensor, mask: Mask) -> tuple[_Pooled, Tensor]:
        pooled = self._pool(x_BLT, valid_BLT, mask)
        y_BLNP = self.decoder(
            pooled.latents,
            mask,
            summary_BLD=pooled.summary_BLD,
            instant_BSD=pooled.instant_BSD,
            known_BS=pooled.known_BS,
        )
        return pooled, y_BLNP

    def _pool(self, x_BLT: Tensor, valid_BLT: Tensor, mask: Mask, *, instants: bool = True) -> _Pooled:
        """``instants``: also what the decoder alone reads, an embedding of every instant."""
        latents = self.encoder(x_BLT, valid_BLT, mask)
        if self.pool_instant is not None and not mask.shared_instants:
            latents = on_shared_grid(latents, num_patches=mask.num_patches)
        if self.exchange is not None:
            latents = latents._replace(z_BVKD=self.exchange(latents))
        # The summaries alone are normalised. Patch tokens go to the decoder as they are: normalising them divides by
        # their size, which is the amplitude that has to be reconstructed.
        slot_BV, summary_BVD = latents.slot_BV, self.norm_summary(latents.summary_BVD)
        instant_BSD = None
        known_BS = slot_BV.any(1, keepdim=True).expand_as(latents.patch_BVS[:, 0])
        if self.pool_record is None:
            weights_BV = equal_weights(slot_BV)
            record_BD = (weights_BV.to(summary_BVD.dtype)[:, None] @ summary_BVD)[:, 0]
            summary_BLD = _by_lead(torch.where(slot_BV[:, :, None], summary_BVD, 0.0), latents.lead_BV)
        else:
            record_BD, weights_BV = self.pool_record(summary_BVD, slot_BV)
            summary_BLD = record_BD[:, None]
        if instants and self.pool_instant is not None:
            valid_BSV = latents.valid_BVK[:, :, 1:].transpose(1, 2)
            known_BS = valid_BSV.any(2)
            instant_BSD, _ = self.pool_instant(latents.tokens_BVSD.transpose(1, 2), valid_BSV)
        return _Pooled(latents, summary_BVD, record_BD, weights_BV, summary_BLD, instant_BSD, known_BS)

    def _target_BLN(self, mask: Mask) -> Tensor:
        """Patches this kind of model has to reconstruct. Without exchange a wholly hidden lead is not among them:
        nothing but its name is known of it, so it would only teach the average heart beat."""
        if not self.exchanges:
            return mask.hidden_BLN & mask.visible_lead_BL[:, :, None]
        return mask.hidden_BLN

    def _patches(self, x_BLT: Tensor) -> Tensor:
        return x_BLT.unflatten(2, (-1, self.config.patch_size))


def _recorded(x_BLT: Tensor, valid_BLT: Tensor, lead_mask_BL: Tensor) -> tuple[Tensor, Tensor]:
    """Zeros for everything that was not recorded, and what was."""
    valid_BLT = valid_BLT & lead_mask_BL[:, :, None]
    return torch.where(valid_BLT, x_BLT, 0.0), valid_BLT


def _by_lead(value_BV: Tensor, lead_BV: Tensor) -> Tensor:
    """``[B, V, …]`` summed into the lead of each slot: ``[B, 12, …]``. Empty slots must hold zeros."""
    index = lead_BV.view(*lead_BV.shape, *[1] * (value_BV.dim() - 2)).expand_as(value_BV)
    out = value_BV.new_zeros(len(value_BV), NUM_LEADS, *value_BV.shape[2:])
    return out.scatter_add(1, index, value_BV)


def _relative_entropy(weights_BV: Tensor, slot_BV: Tensor) -> Tensor:
    """Entropy of the pooling weights over that of equal weights, mean over records with several leads: 1 is a plain
    mean, 0 a choice of one lead; NaN where no record has several."""
    entropy_B = -(weights_BV * weights_BV.clamp(min=1e-12).log()).sum(1)
    num_B = slot_BV.sum(1)
    several_B = num_B > 1
    relative_B = torch.where(several_B, entropy_B / num_B.clamp(min=2).log(), 0.0)
    return relative_B.sum() / several_B.sum()
