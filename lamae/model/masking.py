"""What each record shows and what is to be predicted: a pure function of (seed, epoch, row) and of the leads it has.

Masks are drawn by ``lamae.keyed``, record by record, so they are the same on any device, in any batch and at any world
size. Shapes depend on the configuration only: a record that shows fewer leads than there are slots leaves slots empty.

B batch, L leads (12), N patches, V slots for visible leads, S visible patches per slot.
"""

from dataclasses import dataclass, fields, replace
from typing import NamedTuple, Self

import torch
from torch import Tensor

from lamae import keyed
from lamae.base.leads import CHEST_LEADS, LIMB_LEADS, NUM_LEADS
from lamae.model.config import MaskConfig, MaskShape, kinds_drawn, num_visible

_LIMB = slice(LIMB_LEADS[0], LIMB_LEADS[-1] + 1)
_CHEST = slice(CHEST_LEADS[0], CHEST_LEADS[-1] + 1)
_LEADS, _INSTANTS, _LIMB_HIDDEN, _RECORD_ONLY, _KIND = keyed.MASKS


@dataclass(frozen=True)
class Mask:
    """The visible rectangle of every record, and its targets."""

    lead_BV: Tensor
    """int64: lead in each slot; 0 in an empty slot."""

    slot_BV: Tensor
    """bool: the slot holds a visible lead."""

    patch_BVS: Tensor
    """int64: the visible patches of each slot, ascending."""

    hidden_BLN: Tensor
    """bool: patches of present leads that are not visible."""

    record_only_B: Tensor
    """bool: wholly hidden leads of this record are decoded from the record embedding and their identity alone."""

    shared_instants: bool
    """All slots of a record show the same patches."""

    def to(self, device: torch.device | str) -> Self:
        tensors = {f.name: getattr(self, f.name).to(device) for f in fields(self) if f.name != "shared_instants"}
        return replace(self, **tensors)

    @property
    def num_patches(self) -> int:
        return self.hidden_BLN.shape[2]

    @property
    def visible_lead_BL(self) -> Tensor:
        """bool [B, 12]: leads that show at least one patch."""
        counts_BL = self.slot_BV.new_zeros(self.slot_BV.shape[0], NUM_LEADS, dtype=torch.int64)
        return counts_BL.scatter_add(1, self.lead_BV, self.slot_BV.long()) > 0


def draw_mask(
    config: MaskConfig, *, seed: int, epoch_B: Tensor, row_B: Tensor, lead_mask_BL: Tensor, num_patches: int
) -> Mask:
    """The masks of a batch, on ``lead_mask_BL``'s device.

    Args:
        config: the ``mask:`` section.
        seed: of the run.
        epoch_B: int64, which pass over the data.
        row_B: int64, the record's row in the index.
        lead_mask_BL: bool [B, 12], leads that the record has. Others are neither shown nor targets.
        num_patches: patches per lead.
    """
    draws = _Draws(seed, epoch_B.to(lead_mask_BL.device), row_B.to(lead_mask_BL.device))
    kinds = kinds_drawn(config)
    drawn = [_draw_kind(config, kind, draws, lead_mask_BL, num_patches) for kind in kinds]
    if len(kinds) == 1:
        chosen = drawn[0]
    else:
        choice_B = draws.choice(_KIND, [config.weights[kind] for kind in kinds])
        chosen = _Drawn(*(_select(choice_B, options) for options in zip(*drawn, strict=True)))
    shape = MaskShape.of(config, num_patches)
    return _assemble(
        chosen.visible_BL,
        lead_mask_BL,
        chosen.order_BGN.argsort(dim=2, stable=True)[:, :, : shape.shown].sort(dim=2).values,
        slots=shape.slots,
        num_patches=num_patches,
        record_only_B=chosen.record_only_B,
    )


def show_all(lead_mask_BL: Tensor, *, num_patches: int) -> Mask:
    """The mask that hides nothing: what embedding uses."""
    shown_BGS = torch.arange(num_patches, device=lead_mask_BL.device).expand(len(lead_mask_BL), 1, -1)
    nothing_B = torch.zeros_like(lead_mask_BL[:, 0])
    return _assemble(
        lead_mask_BL, lead_mask_BL, shown_BGS, slots=NUM_LEADS, num_patches=num_patches, record_only_B=nothing_B
    )


class _Drawn(NamedTuple):
    visible_BL: Tensor
    order_BGN: Tensor
    """Patches are shown in ascending order of these; G is 1 where all leads of a record share it, else 12."""
    record_only_B: Tensor


def _draw_kind(config: MaskConfig, kind: str, draws: "_Draws", present_BL: Tensor, num_patches: int) -> _Drawn:
    never_B = torch.zeros_like(present_BL[:, 0])
    if kind in ("grid", "lead"):
        record_only_B = draws.chance(_RECORD_ONLY, config.record_only_share)
        return _Drawn(_visible_leads(config, draws, present_BL), draws.order(_INSTANTS, 1, num_patches), record_only_B)
    if kind == "random":
        order_BLN = draws.order(_INSTANTS, NUM_LEADS, num_patches)
        if config.limb_tied:
            order_BLN = torch.cat([order_BLN[:, :1].expand_as(order_BLN[:, _LIMB]), order_BLN[:, _CHEST]], dim=1)
        return _Drawn(present_BL, order_BLN, never_B)
    if kind == "time":
        num_starts = num_visible(config, num_patches) + 1
        after_B1N = torch.arange(num_patches, device=present_BL.device) - draws.order(_INSTANTS, 1, 1) % num_starts
        in_span_B1N = (after_B1N >= 0) & (after_B1N <= num_patches - num_starts)
        return _Drawn(present_BL, in_span_B1N.long(), never_B)
    raise ValueError(f"mask.kind={kind} is not drawn here")


def _select(choice_B: Tensor, options: tuple[Tensor, ...]) -> Tensor:
    """Of several tensors ``[B, …]`` each record's choice; a 1 in the second dimension stands for all leads."""
    stacked = torch.stack(torch.broadcast_tensors(*options))
    return stacked[choice_B, torch.arange(len(choice_B), device=choice_B.device)]


def _assemble(
    visible_BL: Tensor,
    present_BL: Tensor,
    shown_BGS: Tensor,
    *,
    slots: int,
    num_patches: int,
    record_only_B: Tensor,
) -> Mask:
    """G is 1 where all leads of a record show the same patches, else 12."""
    # A stable sort on "not visible" lists the visible leads first, in canonical order.
    lead_BV = (~visible_BL).to(torch.int8).argsort(dim=1, stable=True)[:, :slots]
    slot_BV = visible_BL.gather(1, lead_BV)
    lead_BV = lead_BV.masked_fill(~slot_BV, 0)
    shared = shown_BGS.shape[1] == 1
    shown_BLS = shown_BGS.expand(-1, NUM_LEADS, -1)
    patch_BVS = shown_BLS.gather(1, lead_BV[:, :, None].expand(-1, -1, shown_BLS.shape[2]))
    if shared:
        patch_BVS = shown_BGS.expand(-1, slots, -1)
    shown_BLN = torch.zeros(*visible_BL.shape, num_patches, dtype=torch.bool, device=visible_BL.device)
    shown_BLN = shown_BLN.scatter(2, shown_BLS, True) & visible_BL[:, :, None]
    return Mask(
        lead_BV=lead_BV,
        slot_BV=slot_BV,
        patch_BVS=patch_BVS,
        hidden_BLN=present_BL[:, :, None] & ~shown_BLN,
        record_only_B=record_only_B,
        shared_instants=shared,
    )


def _visible_leads(config: MaskConfig, draws: "_Draws", present_BL: Tensor) -> Tensor:
    """bool [B, 12]: never more leads than ``12 - hidden_leads``, at least one where the record has any."""
    order_BL = draws.order(_LEADS, NUM_LEADS)
    if not config.limb_tied:
        num_present_B = present_BL.sum(1)
        num_hidden_B = (num_present_B * config.hidden_leads + 6) // 12
        num_hidden_B = torch.minimum(num_hidden_B, (num_present_B - 1).clamp(min=0))
        return _all_but_first(present_BL, order_BL, num_hidden_B)
    limb_BL, chest_BL = present_BL[:, _LIMB], present_BL[:, _CHEST]
    has_limb_B, num_chest_B = limb_BL.any(1), chest_BL.sum(1)
    hide_limb_B = draws.chance(_LIMB_HIDDEN, config.limb_hidden_share) & has_limb_B & (num_chest_B > 0)
    # Of fewer chest leads proportionally fewer are hidden; without limb leads one of them must show.
    num_hidden_B = (num_chest_B * config.hidden_leads + 3) // 6
    num_hidden_B = torch.where(has_limb_B, num_hidden_B, torch.minimum(num_hidden_B, (num_chest_B - 1).clamp(min=0)))
    num_hidden_B = num_hidden_B.masked_fill(hide_limb_B, 0)
    shown_chest_BL = _all_but_first(chest_BL, order_BL[:, _CHEST], num_hidden_B)
    return torch.cat([limb_BL & ~hide_limb_B[:, None], shown_chest_BL], dim=1)


def _all_but_first(present_BL: Tensor, order_BL: Tensor, num_hidden_B: Tensor) -> Tensor:
    """``present_BL`` without the ``num_hidden_B`` present entries that come first by ``order_BL``."""
    last = torch.iinfo(torch.int64).max
    rank_BL = order_BL.masked_fill(~present_BL, last).argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    return present_BL & (rank_BL >= num_hidden_B[:, None])


class _Draws:
    """The random numbers of a batch's records: the same for a record wherever it stands; one key per purpose.

    The keys of all purposes are made at once: on an accelerator a step waits for the number of operations.
    """

    def __init__(self, seed: int, epoch_B: Tensor, row_B: Tensor) -> None:
        self._key_B = dict(zip(keyed.MASKS, keyed.record_keys(seed, epoch_B, row_B, purposes=keyed.MASKS), strict=True))

    def order(self, purpose: int, *shape: int) -> Tensor:
        """int64 ``[B, *shape]``, uniform over 0..2^63-1."""
        return keyed.bits(self._key_B[purpose], *shape) & torch.iinfo(torch.int64).max

    def chance(self, purpose: int, share: float) -> Tensor:
        """bool ``[B]``, true in the given share of records."""
        if share == 0:
            return torch.zeros_like(self._key_B[purpose], dtype=torch.bool)
        return keyed.uniform(self._key_B[purpose], 1)[:, 0] < share

    def choice(self, purpose: int, weights: list[float]) -> Tensor:
        """int64 ``[B]``: index drawn with the given relative frequencies."""
        draw_B1 = keyed.uniform(self._key_B[purpose], 1)
        thresholds = [sum(weights[: i + 1]) / sum(weights) for i in range(len(weights) - 1)]
        return (draw_B1 >= draw_B1.new_tensor(thresholds)).sum(1)
