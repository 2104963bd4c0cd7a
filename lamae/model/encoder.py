"""From signal to latents: patches, the encoder shared by all leads, and the exchange between the leads.

B batch, L leads (12), N patches, P samples per patch, V slots for leads, S patches per slot, K = 1 + S tokens per slot
(its summary first), D width, H heads.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from lamae.base.leads import NUM_LEADS
from lamae.kernels import cross_lead_attention, sequence_attention
from lamae.model.config import ModelConfig
from lamae.model.layers import Block, Positions, average_values, invert_rows, linear, look_up, move_rows
from lamae.model.masking import Mask


class Latents(NamedTuple):
    """Tokens of the visible leads. A tuple, because ZeRO stage 3 finds tensors between modules in tuples only."""

    z_BVKD: Tensor
    """The summary of every slot, then its patches."""

    valid_BVK: Tensor
    """bool: the token stands for something visible and recorded."""

    patch_BVS: Tensor
    """int64: which patch each token after the summary is."""

    lead_BV: Tensor
    slot_BV: Tensor
    """bool: the slot holds a lead of which something visible was recorded."""

    @property
    def summary_BVD(self) -> Tensor:
        return self.z_BVKD[:, :, 0]

    @property
    def tokens_BVSD(self) -> Tensor:
        return self.z_BVKD[:, :, 1:]


class Encoder(nn.Module):
    """Encodes the visible patches of every lead on their own, with the same weights for all leads.

    A patch without any recorded sample is no 0 mV: its token says where it is and nothing else, and no other lead, no
    pooling and no decoder reads it.
    """

    def __init__(self, config: ModelConfig, *, depth: int) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.embed = linear(config.patch_size, config.width)
        self.positions = Positions(config.width)
        self.summary = nn.Parameter(torch.randn(config.width) * 0.02)
        self.lead = nn.Parameter(torch.randn(NUM_LEADS, config.width) * 0.02)
        self.blocks = nn.ModuleList(Block(config.width, config.heads, config.mlp_ratio) for _ in range(depth))

    def forward(self, x_BLT: Tensor, valid_BLT: Tensor, mask: Mask) -> Latents:
        """``x_BLT`` must hold zeros wherever ``valid_BLT`` is false."""
        weight = self.embed.weight
        x_BRP = x_BLT.to(weight.dtype).unflatten(2, (-1, self.patch_size)).flatten(1, 2)
        row_BVS = mask.lead_BV[:, :, None] * mask.num_patches + mask.patch_BVS
        B, V, S = row_BVS.shape
        picked = row_BVS.flatten(1)[:, :, None].expand(-1, -1, self.patch_size)
        recorded_BR = valid_BLT.unflatten(2, (-1, self.patch_size)).any(3).flatten(1)
        recorded_BVS = recorded_BR.gather(1, row_BVS.flatten(1)).view(B, V, S) & mask.slot_BV[:, :, None]
        tokens_BVSD = self.embed(x_BRP.gather(1, picked)).view(B, V, S, -1)
        tokens_BVSD = tokens_BVSD.masked_fill(~recorded_BVS[..., None], 0.0)
        tokens_BVSD = tokens_BVSD + look_up(self.positions(mask.num_patches, weight), mask.patch_BVS)
        z = torch.cat([self.summary.to(weight.dtype).expand(B, V, 1, -1), tokens_BVSD], dim=2)
        z = z + look_up(self.lead, mask.lead_BV)[:, :, None]
        for block in self.blocks:
            z = block(z, attend_within_lead)
        slot_BV = recorded_BVS.any(2)
        return Latents(
            z_BVKD=z,
            valid_BVK=torch.cat([slot_BV[:, :, None], recorded_BVS], dim=2),
            patch_BVS=mask.patch_BVS,
            lead_BV=mask.lead_BV,
            slot_BV=slot_BV,
        )


class Exchange(nn.Module):
    """Lets the visible leads inform each other in latent space, by attention or (``averages``) by plain means."""

    def __init__(self, config: ModelConfig, *, scope: str, depth: int, averages: bool = False) -> None:
        super().__init__()
        self.scope = scope
        self.averages = averages
        self.implementation = None if config.attention == "auto" else config.attention
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, config.mlp_ratio, values_only=averages) for _ in range(depth)
        )

    def forward(self, latents: Latents) -> Tensor:
        """New ``z_BVKD``. Scope aligned needs latents on a shared grid of instants (``on_shared_grid``)."""
        z, valid_BVK = latents.z_BVKD, latents.valid_BVK
        if self.scope == "summary":
            summary = latents.summary_BVD
            for block in self.blocks:
                summary = block(summary, lambda qkv: self._among_leads(qkv, latents.slot_BV))
            return torch.cat([summary[:, :, None], latents.tokens_BVSD], dim=2)
        attend = self._at_each_instant if self.scope == "aligned" else self._everywhere
        for block in self.blocks:
            z = block(z, lambda qkv: attend(qkv, valid_BVK))
        return z

    def _at_each_instant(self, qkv: Tensor, valid_BVK: Tensor) -> Tensor:
        return self._among_leads(qkv.transpose(1, 2), valid_BVK.transpose(1, 2)).transpose(1, 2)

    def _everywhere(self, qkv: Tensor, valid_BVK: Tensor) -> Tensor:
        attend = average_values if self.averages else sequence_attention
        return attend(qkv.flatten(1, 2), valid_BVK.flatten(1, 2)).unflatten(1, valid_BVK.shape[1:])

    def _among_leads(self, qkv: Tensor, mask: Tensor) -> Tensor:
        if self.averages:
            return average_values(qkv, mask)
        return cross_lead_attention(qkv, mask, implementation=self.implementation)


def attend_within_lead(qkv: Tensor) -> Tensor:
    return sequence_attention(qkv)


def on_shared_grid(latents: Latents, *, num_patches: int) -> Latents:
    """The same tokens laid out so that all slots hold all N instants; what a lead does not show is not valid."""
    slot, patch, shown = latents.slot_BV, latents.patch_BVS, latents.valid_BVK[:, :, 1:]
    B, V = slot.shape
    base_V1 = torch.arange(V, device=patch.device)[:, None] * num_patches
    target_BR = (base_V1 + patch).masked_fill(~shown, -1).flatten(1)
    source_BQ = invert_rows(target_BR, V * num_patches)
    tokens = move_rows(latents.tokens_BVSD.flatten(1, 2), source_BQ, target_BR).view(B, V, num_patches, -1)
    valid_BVN = (source_BQ >= 0).view(B, V, num_patches)
    return Latents(
        z_BVKD=torch.cat([latents.z_BVKD[:, :, :1], tokens], dim=2),
        valid_BVK=torch.cat([slot[:, :, None], valid_BVN], dim=2),
        patch_BVS=torch.arange(num_patches, device=patch.device).expand(B, V, num_patches),
        lead_BV=latents.lead_BV,
        slot_BV=slot,
    )
