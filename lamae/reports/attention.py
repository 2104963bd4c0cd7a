"""What the latent attention looks at: how much of each lead's attention goes to each other lead.

B batch, V slots for leads, G groups whose K tokens see each other, H heads, D width of a head.
"""

import math
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from lamae.base.leads import NUM_LEADS
from lamae.model.layers import masked_softmax


@torch.no_grad()
def lead_attention(model: Any, signal: Any) -> Tensor | None:
    """float32 [12, 12], row i: where the attention of lead i's tokens goes, when nothing is hidden.

    Mean over latent blocks, heads, instants and the records that have lead i; a row sums to 1, and is zero for a lead
    that no record has. None for a model without latent attention. ``model`` is a PretrainModel, ``signal`` a Signal.
    """
    exchange = model.exchange
    if exchange is None or exchange.averages or not len(exchange.blocks):
        return None
    latents: list[Any] = []
    packed: list[Tensor] = []
    with ExitStack() as hooks:
        # Compiled blocks would not see hooks that came later.
        hooks.enter_context(torch.compiler.set_stance("force_eager"))
        handle = exchange.register_forward_pre_hook(lambda _, inputs: latents.append(inputs[0]))
        hooks.callback(handle.remove)
        for block in exchange.blocks:
            handle = block.qkv.register_forward_hook(lambda _, __, output: packed.append(output))
            hooks.callback(handle.remove)
        model.embed(signal.x_BLT, signal.valid_BLT, signal.lead_mask_BL)
    (seen,) = latents
    total, count = torch.zeros(NUM_LEADS, NUM_LEADS), torch.zeros(NUM_LEADS)
    for block, qkv in zip(exchange.blocks, packed, strict=True):
        heads_first = qkv.unflatten(-1, (3, block.heads, -1))
        for b in range(len(qkv)):
            qkv_GK3HD, valid_GK, lead_GK = _grouped(exchange.scope, heads_first[b], seen, b)
            weight_GKK = _weights(qkv_GK3HD.float(), valid_GK)
            of_lead_GKL = torch.nn.functional.one_hot(lead_GK, NUM_LEADS).float() * valid_GK[..., None]
            total += torch.einsum("gqi,gqk,gkj->ij", of_lead_GKL, weight_GKK, of_lead_GKL).cpu()
            count += of_lead_GKL.sum((0, 1)).cpu()
    return total / count.clamp(min=1)[:, None]


def _weights(qkv_GK3HD: Tensor, valid_GK: Tensor) -> Tensor:
    """Attention weights, mean over heads: [G, K queries, K keys]."""
    q, k = (qkv_GK3HD[:, :, i].transpose(1, 2) for i in (0, 1))
    scores_GHKK = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    return masked_softmax(scores_GHKK, valid_GK[:, None, None].expand_as(scores_GHKK)).mean(1)


def _grouped(scope: str, qkv: Tensor, latents: Any, b: int) -> tuple[Tensor, Tensor, Tensor]:
    """Record b's tokens in the groups that see each other, which of them are there, and whose they are."""
    lead_V, slot_V, valid_VK = latents.lead_BV[b], latents.slot_BV[b], latents.valid_BVK[b]
    if scope == "summary":
        return qkv[None], slot_V[None], lead_V[None]
    lead_VK = lead_V[:, None].expand_as(valid_VK)
    if scope == "aligned":
        return qkv.transpose(0, 1), valid_VK.T, lead_VK.T
    return qkv.flatten(0, 1)[None], valid_VK.flatten()[None], lead_VK.flatten()[None]
