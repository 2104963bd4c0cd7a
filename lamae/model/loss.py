"""Reconstruction loss: the mean over records of each record's mean over its own valid target samples.

So a gradient does not depend on how a global batch is cut into ranks and micro-batches, whatever is missing where.
B batch, L leads (12), N patches, P samples per patch.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lamae.base.leads import DERIVED_LEADS
from lamae.model.masking import Mask


def record_means(error_BLNP: Tensor, target_BLNP: Tensor) -> Tensor:
    """[B]: mean over the target samples of each record; 0 where it has none."""
    total_B = torch.where(target_BLNP, error_BLNP, 0.0).flatten(1).sum(1)
    return total_B / target_BLNP.flatten(1).sum(1).clamp(min=1)


def lead_disagreement(lead_BVD: Tensor, slot_BV: Tensor) -> Tensor:
    """[B]: mean over pairs of visible leads of the squared distance of their unit vectors; 0 with fewer than two."""
    unit_BVD = torch.where(slot_BV[:, :, None], F.normalize(lead_BVD.float(), dim=-1), 0.0)
    count_B = slot_BV.sum(1).float()
    # The pairwise distances of n unit vectors sum to n^2 - |their sum|^2, each pair counted once.
    total_B = count_B**2 - unit_BVD.sum(1).square().sum(-1)
    return total_B / (count_B * (count_B - 1) / 2).clamp(min=1) * (count_B > 1)


def alignment_weight(final: float, progress: float) -> float:
    """Sigmoid of the share of training done, from 0 (.002 of ``final``) to ``final``."""
    return final / (1 + math.exp(-12 * (progress - 0.5)))


def error_parts(error_BLNP: Tensor, target_BLNP: Tensor, mask: Mask) -> dict[str, Tensor]:
    """Mean error over all samples of each way of being hidden in this batch; NaN where the batch has none.

    ``hidden_leads``: leads hidden wholly, at the instants that the others show (there the others can be read);
    ``hidden_leads_unseen``: the same leads at the other instants; ``hidden_spans``: the rest of the visible leads.
    Each also for I, II, V1..V6 alone (``…_independent``) and for the limb leads that follow from I and II
    (``…_derived``).
    """
    total_BLN = torch.where(target_BLNP, error_BLNP, 0.0).sum(-1)
    count_BLN = target_BLNP.sum(-1)
    hidden_lead_BL1 = ~mask.visible_lead_BL[:, :, None]
    shown_BN = (~hidden_lead_BL1 & ~mask.hidden_BLN).any(1)
    ways_BLN = {
        "hidden_leads": hidden_lead_BL1 & shown_BN[:, None],
        "hidden_leads_unseen": hidden_lead_BL1 & ~shown_BN[:, None],
        "hidden_spans": ~hidden_lead_BL1,
    }
    first, last = DERIVED_LEADS[0], DERIVED_LEADS[-1] + 1
    errors = {}
    for name, way_BLN in ways_BLN.items():
        total_L, count_L = (way_BLN * total_BLN).sum((0, 2)), (way_BLN * count_BLN).sum((0, 2))
        errors[name] = total_L.sum() / count_L.sum()
        # Slices, since indices would have to be copied to the device, which waits for it.
        errors[f"{name}_independent"] = (total_L[:first].sum() + total_L[last:].sum()) / (
            count_L[:first].sum() + count_L[last:].sum()
        )
        errors[f"{name}_derived"] = total_L[first:last].sum() / count_L[first:last].sum()
    return errors
