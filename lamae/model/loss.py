"""Reconstruction loss: the mean over records of each record's mean over its own asked, valid samples.

So a gradient does not depend on how a global batch is cut into ranks and micro-batches, whatever is missing where.
B batch, L leads (12), N patches, P samples per patch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lamae.model.config import ModelConfig
from lamae.model.masking import Mask


def sample_errors(config: ModelConfig, y_BLNP: Tensor, target_BLNP: Tensor) -> Tensor:
    """float32 loss of every sample."""
    if config.loss == "huber":
        return F.huber_loss(y_BLNP, target_BLNP, reduction="none", delta=config.huber_delta)
    return F.mse_loss(y_BLNP, target_BLNP, reduction="none")


def record_means(error_BLNP: Tensor, asked_BLNP: Tensor) -> Tensor:
    """[B]: mean over the asked samples of each record; 0 where nothing is asked for."""
    total_B = torch.where(asked_BLNP, error_BLNP, 0.0).flatten(1).sum(1)
    return total_B / asked_BLNP.flatten(1).sum(1).clamp(min=1)


def error_parts(error_BLNP: Tensor, asked_BLNP: Tensor, mask: Mask) -> dict[str, Tensor]:
    """Mean error over all samples of each way of being hidden in this batch; 0 where the batch has none.

    ``hidden_leads``: leads hidden wholly, at the instants that the others show (there the others can be read);
    ``hidden_leads_unseen``: the same leads at the other instants; ``hidden_spans``: the rest of the visible leads.
    """
    hidden_lead_BL1 = ~mask.visible_lead_BL[:, :, None]
    shown_BN = torch.zeros_like(mask.hidden_BLN[:, 0])
    if mask.shared_times:
        shown_BN = shown_BN.scatter(1, mask.patch_BVS[:, 0], True)
    parts_BLN = {
        "hidden_leads": hidden_lead_BL1 & shown_BN[:, None],
        "hidden_leads_unseen": hidden_lead_BL1 & ~shown_BN[:, None],
        "hidden_spans": ~hidden_lead_BL1 & torch.ones_like(mask.hidden_BLN),
    }
    errors = {}
    for name, part_BLN in parts_BLN.items():
        chosen = asked_BLNP & part_BLN[..., None]
        errors[name] = torch.where(chosen, error_BLNP, 0.0).sum() / chosen.sum().clamp(min=1)
    return errors
