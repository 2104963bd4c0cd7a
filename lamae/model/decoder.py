"""From latents back to signal: one light decoder for all leads, given the lead to reconstruct.

B batch, L leads (12), N patches, P samples per patch, V slots for leads, S patches per slot, D width, W decoder width.
"""

import torch
from torch import Tensor, nn

from lamae.base.leads import NUM_LEADS
from lamae.model.config import ModelConfig
from lamae.model.encoder import Latents, attend_within_lead
from lamae.model.layers import Block, LayerNorm, Positions, invert_rows, linear, move_rows
from lamae.model.masking import Mask


class Decoder(nn.Module):
    """Draws all patches of all leads from three sources, each optional but the first:

    - a lead's own tokens, where it shows them;
    - the instant's pooled token: what all leads together say about that moment;
    - the record's (or the lead's own) summary, at every patch.

    What comes from pooled sources is scaled by a vector of the target lead, because a lead is a projection of the
    same heart: the map from latent to lead is a product of the two, not a sum.
    """

    def __init__(self, config: ModelConfig, *, reads_instants: bool) -> None:
        super().__init__()
        width = config.decoder_width
        self.own = linear(config.width, width)
        self.instant = linear(config.width, width) if reads_instants else None
        self.summary = linear(config.width, width)
        self.hidden = nn.Parameter(torch.randn(width) * 0.02)
        self.lead = nn.Parameter(torch.randn(NUM_LEADS, width) * 0.02)
        self.lead_scale = nn.Parameter(torch.randn(NUM_LEADS, width) * 0.5)
        self.blocks = nn.ModuleList(
            Block(width, config.decoder_heads, config.mlp_ratio) for _ in range(config.decoder_depth)
        )
        self.norm = LayerNorm(width)
        self.head = linear(width, config.patch_size)
        self.positions = Positions(width)

    def forward(
        self, latents: Latents, mask: Mask, *, summary_BLD: Tensor, instant_BSD: Tensor | None, known_BS: Tensor
    ) -> Tensor:
        """float32 [B, 12, N, P].

        Args:
            latents: tokens of the visible leads.
            mask: what was hidden.
            summary_BLD: [B, 1, D] of the record, or [B, 12, D] of each lead.
            instant_BSD: pooled tokens of the visible instants, or None.
            known_BS: bool, instants at which at least one lead shows a token.
        """
        N = mask.num_patches
        own_BLNW = self._lay_out(self.own(latents.tokens_BVSD), latents, N)
        everywhere_BLNW = self.summary(summary_BLD)[:, :, None] + self.positions(N, own_BLNW)
        hidden = self.hidden.to(own_BLNW.dtype)
        shared_BLNW = everywhere_BLNW + hidden
        if instant_BSD is not None and self.instant is not None:
            to_patch_BS = latents.patch_BVS[:, 0].masked_fill(~known_BS, -1)
            from_instant_BN = invert_rows(to_patch_BS, N)
            seen_BNW = move_rows(self.instant(instant_BSD), from_instant_BN, to_patch_BS)
            unseen_BN1 = (from_instant_BN < 0)[:, :, None]
            sighted_BLNW = everywhere_BLNW + (seen_BNW + hidden * unseen_BN1)[:, None]
            # Records whose hidden leads must come from the record embedding alone get no instants there.
            blind_BL = mask.record_only_B[:, None] & ~mask.visible_lead_BL
            shared_BLNW = torch.where(blind_BL[:, :, None, None], shared_BLNW, sighted_BLNW)
        shared_BLNW = torch.addcmul(self.lead[:, None], shared_BLNW, 1 + self.lead_scale[:, None])
        h = shared_BLNW + own_BLNW
        for block in self.blocks:
            h = block(h, attend_within_lead)
        return self.head(self.norm(h)).float()

    def _lay_out(self, own_BVSW: Tensor, latents: Latents, num_patches: int) -> Tensor:
        """Tokens at their lead and patch, zeros elsewhere: [B, 12, N, W]."""
        to_row_BR = latents.lead_BV[:, :, None] * num_patches + latents.patch_BVS
        to_row_BR = to_row_BR.masked_fill(~latents.valid_BVK[:, :, 1:], -1).flatten(1)
        from_token_BQ = invert_rows(to_row_BR, NUM_LEADS * num_patches)
        rows = move_rows(own_BVSW.flatten(1, 2), from_token_BQ, to_row_BR)
        return rows.view(len(rows), NUM_LEADS, num_patches, -1)
