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
    ways = ("hidden_leads", "hidden_leads_unseen", "hidden_spans")
    way_WBLN = torch.stack(
        torch.broadcast_tensors(
            hidden_lead_BL1 & shown_BN[:, None], hidden_lead_BL1 & ~shown_BN[:, None], ~hidden_lead_BL1
        )
    )
    # Errors and their number, of each way, summed at once: on an accelerator a step waits for the number of operations.
    both_2BLN = torch.stack([total_BLN, count_BLN.to(total_BLN.dtype)])
    sum_2WL = (way_WBLN * both_2BLN[:, None]).sum((2, 4))
    # Slices, since indices would have to be copied to the device, which waits for it.
    first, last = DERIVED_LEADS[0], DERIVED_LEADS[-1] + 1
    derived_2W = sum_2WL[:, :, first:last].sum(2)
    independent_2W = sum_2WL[:, :, :first].sum(2) + sum_2WL[:, :, last:].sum(2)
    groups = {"": derived_2W + independent_2W, "_independent": independent_2W, "_derived": derived_2W}
    means = {group: (total_W / count_W).unbind() for group, (total_W, count_W) in groups.items()}
    return {f"{way}{group}": mean_W[w] for w, way in enumerate(ways) for group, mean_W in means.items()}
