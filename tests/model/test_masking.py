"""Masks: pure per record, never touching missing leads, of fixed shape."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lamae.base.leads import CHEST_LEADS, LIMB_LEADS, NUM_LEADS
from lamae.model.config import MaskConfig, num_visible
from lamae.model.masking import Mask, draw_mask, show_all

NUM_PATCHES = 20
CONFIGS = [
    MaskConfig(kind="grid"),
    MaskConfig(kind="grid", hidden_leads=5, ratio=0.7),
    MaskConfig(kind="grid", limb_tied=False, hidden_leads=7),
    MaskConfig(kind="random", ratio=0.75),
    MaskConfig(kind="random", limb_tied=False),
    MaskConfig(kind="time"),
    MaskConfig(kind="lead", hidden_leads=4),
    MaskConfig(kind="mixed"),
    MaskConfig(kind="mixed", weights={"grid": 1, "time": 3}),
]
all_configs = pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.kind}-tied={c.limb_tied}-{c.ratio}")
lead_masks = st.lists(st.lists(st.booleans(), min_size=12, max_size=12), min_size=1, max_size=6).map(torch.tensor)


def draw(config: MaskConfig, lead_mask_BL: torch.Tensor, *, seed: int = 3, epoch: int = 0, first_row: int = 0) -> Mask:
    row_B = torch.arange(first_row, first_row + len(lead_mask_BL))
    return draw_mask(
        config,
        seed=seed,
        epoch_B=torch.full_like(row_B, epoch),
        row_B=row_B,
        lead_mask_BL=lead_mask_BL,
        num_patches=NUM_PATCHES,
    )


def shown_BLN(mask: Mask) -> torch.Tensor:
    """The visible patches as the slots list them."""
    shown = torch.zeros_like(mask.hidden_BLN)
    for b, v in mask.slot_BV.nonzero().tolist():
        shown[b, mask.lead_BV[b, v], mask.patch_BVS[b, v]] = True
    return shown


def test_a_kind_of_mask_that_nobody_draws_is_named():
    with pytest.raises(ValueError, match=r"mask\.kind=gird\b"):
        draw(MaskConfig(kind="gird"), torch.ones(1, 12, dtype=torch.bool))


@all_configs
@given(lead_mask_BL=lead_masks)
@settings(max_examples=25, deadline=None)
def test_every_patch_of_a_present_lead_is_either_shown_or_hidden(config: MaskConfig, lead_mask_BL):
    mask = draw(config, lead_mask_BL)
    shown = shown_BLN(mask)
    assert not (shown & mask.hidden_BLN).any()
    assert torch.equal(shown | mask.hidden_BLN, lead_mask_BL[:, :, None].expand_as(shown))
    assert torch.equal(shown.any(2), mask.visible_lead_BL)
    # Whatever a record lacks, something of it is shown and something asked for, unless it has no lead at all.
    assert torch.equal(shown.flatten(1).any(1), lead_mask_BL.any(1))
    if config.kind != "lead":  # which cannot hide the only group of leads a record has
        assert torch.equal(mask.hidden_BLN.flatten(1).any(1), lead_mask_BL.any(1))


@all_configs
def test_shapes_do_not_depend_on_which_leads_are_there(config: MaskConfig):
    full, sparse = (draw(config, torch.rand(8, 12) < share) for share in (1.1, 0.3))
    for name in ("lead_BV", "slot_BV", "patch_BVS", "hidden_BLN"):
        assert getattr(full, name).shape == getattr(sparse, name).shape
    expected = NUM_PATCHES if config.kind == "lead" else num_visible(config, NUM_PATCHES)
    assert full.patch_BVS.shape[2] == expected


@all_configs
def test_a_mask_depends_on_its_own_record_alone(config: MaskConfig):
    lead_mask_BL = torch.rand(32, 12, generator=torch.Generator().manual_seed(0)) < 0.9
    together = draw(config, lead_mask_BL, first_row=100)
    for b in (0, 7, 31):
        alone = draw(config, lead_mask_BL[b : b + 1], first_row=100 + b)
        assert torch.equal(alone.hidden_BLN[0], together.hidden_BLN[b])
        assert torch.equal(alone.lead_BV[0], together.lead_BV[b])
        assert torch.equal(alone.patch_BVS[0], together.patch_BVS[b])
        assert torch.equal(alone.record_only_B[0], together.record_only_B[b])


def test_a_drawn_mask_never_changes_between_releases():
    """Masks are part of a run's sample stream: a change breaks resuming and belongs in the changelog."""
    mask = draw(MaskConfig(), torch.ones(3, 12, dtype=torch.bool), seed=1234, epoch=5)
    shown = ["".join(str(int(bit)) for bit in row) for row in mask.visible_lead_BL]
    assert shown == ["000000111111", "111111100101", "111111001011"]
    assert mask.patch_BVS[:, 0].tolist() == [
        [1, 2, 3, 4, 6, 7, 8, 11, 12, 15],
        [3, 4, 8, 9, 12, 13, 15, 16, 17, 19],
        [0, 1, 2, 4, 9, 10, 12, 14, 18, 19],
    ]


@all_configs
def test_seed_epoch_and_row_each_change_the_mask(config: MaskConfig):
    leads = torch.ones(16, 12, dtype=torch.bool)
    base = draw(config, leads).hidden_BLN
    others = (draw(config, leads, seed=4), draw(config, leads, epoch=1), draw(config, leads, first_row=16))
    for other in others:
        assert not torch.equal(base, other.hidden_BLN)
    assert len(base.flatten(1).unique(dim=0)) > len(base) / 3  # of few leads, two records may hide the same


@pytest.mark.parametrize("kind", ["grid", "random", "lead", "mixed"])
def test_tied_limb_leads_hide_together(kind: str):
    hidden = draw(MaskConfig(kind=kind), torch.ones(64, 12, dtype=torch.bool)).hidden_BLN
    limb = hidden[:, list(LIMB_LEADS)]
    assert torch.equal(limb, limb[:, :1].expand_as(limb))
    chest = hidden[:, list(CHEST_LEADS)]
    assert not torch.equal(chest, chest[:, :1].expand_as(chest))


def test_grid_hides_the_leads_and_instants_it_was_told_to():
    mask = draw(MaskConfig(kind="grid", hidden_leads=2, limb_hidden_share=0.25), torch.ones(4000, 12, dtype=torch.bool))
    visible_BL = mask.visible_lead_BL
    limb_hidden_B = ~visible_BL[:, 0]
    assert limb_hidden_B.float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert visible_BL[limb_hidden_B, 6:].all()
    assert (visible_BL[~limb_hidden_B, 6:].sum(1) == 4).all()
    # Every chest lead is hidden equally often, every instant shown equally often.
    assert visible_BL[~limb_hidden_B, 6:].float().mean(0).sub(4 / 6).abs().max() < 0.03
    assert mask.hidden_BLN[visible_BL].float().mean(0).sub(0.5).abs().max() < 0.04
    assert mask.record_only_B.float().mean().item() == pytest.approx(0.25, abs=0.03)


def runs(hidden_N: torch.Tensor) -> int:
    """How many contiguous hidden spans there are."""
    return int((hidden_N.int().diff(prepend=torch.zeros(1, dtype=torch.int32)) == 1).sum())


def test_time_hides_one_span_in_every_lead():
    time = draw(MaskConfig(kind="time", ratio=0.4), torch.ones(400, 12, dtype=torch.bool)).hidden_BLN
    assert torch.equal(time, time[:, :1].expand_as(time))
    assert (time.sum(2) == 8).all()
    assert all(runs(hidden_N) == 1 for hidden_N in time[:50].flatten(0, 1))
    # Every place a span can start at is drawn.
    assert len({int(hidden_N.int().argmax()) for hidden_N in time[:, 0]}) == NUM_PATCHES - 8 + 1


def test_mixed_draws_its_kinds_by_weight():
    config = MaskConfig(kind="mixed", weights={"grid": 3, "time": 1, "random": 0}, limb_hidden_share=0)
    mask = draw(config, torch.ones(4000, 12, dtype=torch.bool))
    hides_leads_B = ~mask.visible_lead_BL.all(1)
    assert hides_leads_B.float().mean().item() == pytest.approx(0.75, abs=0.03)
    assert all(runs(hidden_N) == 1 for hidden_N in mask.hidden_BLN[~hides_leads_B][:50, 0])
    assert not mask.record_only_B[~hides_leads_B].any()
    assert mask.shared_instants


def test_show_all_hides_nothing():
    lead_mask_BL = torch.rand(4, NUM_LEADS) < 0.5
    mask = show_all(lead_mask_BL, num_patches=NUM_PATCHES)
    assert not mask.hidden_BLN.any()
    assert torch.equal(mask.visible_lead_BL, lead_mask_BL)
