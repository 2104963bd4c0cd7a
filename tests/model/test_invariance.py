"""The model as users meet it: what may not change its answer."""

import dataclasses

import pytest
import torch

from lamae.base.errors import UsageError
from lamae.model import build_model
from tests.model.variants import (
    GRID,
    SMALL,
    all_variants,
    make_mask,
    make_model,
    make_records,
)


def assert_embeds_alike(model, records, garbage):
    """``garbage`` in place of what is missing changes no bit of any embedding."""
    before, after = model.embed(*records.tensors), model.embed(garbage, records.valid, records.leads)
    for name in ("record_BD", "mean_BD", "lead_BLD", "lead_weights_BL"):
        assert torch.equal(getattr(before, name), getattr(after, name))
        assert getattr(after, name).isfinite().all()


@all_variants
def test_what_stands_in_a_missing_lead_changes_nothing(variant: str):
    model, mask_config = make_model(variant)
    records = make_records()
    mask = make_mask(mask_config, records)
    garbage = records.x.clone()
    garbage[~records.leads] = float("nan")
    garbage[3][~records.leads[3]] = 1e30
    clean, dirty = model(*records.tensors, mask), model(garbage, records.valid, records.leads, mask)
    assert torch.equal(clean.loss_B, dirty.loss_B)
    assert_embeds_alike(model, records, garbage)


@all_variants
def test_what_stands_in_samples_that_were_not_recorded_changes_nothing(variant: str):
    model, mask_config = make_model(variant)
    records = make_records()
    mask = make_mask(mask_config, records)
    garbage = torch.where(records.valid, records.x, 7.0)
    garbage[4][~records.valid[4]] = float("nan")
    clean, dirty = model(*records.tensors, mask), model(garbage, records.valid, records.leads, mask)
    assert torch.equal(clean.loss_B, dirty.loss_B)
    assert torch.equal(clean.lead_weights_BL, dirty.lead_weights_BL)
    assert_embeds_alike(model, records, garbage)


@all_variants
def test_a_lead_of_which_nothing_was_recorded_is_a_missing_lead(variant: str):
    model, _ = make_model(variant)
    records = make_records()[0:1]
    records.valid[0, 5] = False
    silent = model.embed(*records.tensors)
    records.leads[0, 5] = False
    missing = model.embed(*records.tensors)
    for name in ("record_BD", "mean_BD", "lead_BLD", "lead_weights_BL"):
        torch.testing.assert_close(getattr(silent, name), getattr(missing, name))


@pytest.mark.parametrize("variant", ["lamae-aligned", "independent", "joint"])
def test_a_patch_of_which_nothing_was_recorded_is_no_flat_line(variant: str):
    model, _ = make_model(variant)
    with torch.no_grad():  # a fresh bias is zero, and 0 mV then is what nothing is
        model.encoder.embed.bias.normal_()
    records = make_records()[0:1]
    records.x[0, :, 40:50] = 0.0
    flat = model.embed(*records.tensors)
    records.valid[0, :, 40:50] = False
    absent = model.embed(*records.tensors)
    assert not torch.allclose(flat.record_BD, absent.record_BD)
    assert not torch.allclose(flat.mean_BD, absent.mean_BD)


@all_variants
def test_what_is_hidden_does_not_reach_the_prediction(variant: str):
    model, mask_config = make_model(variant)
    records = make_records()
    mask = make_mask(mask_config, records)
    y, predicted = model.reconstruct(*records.tensors, mask)
    hidden_T = mask.hidden_BLN.repeat_interleave(10, dim=2)
    changed = torch.where(hidden_T, torch.randn_like(records.x), records.x)
    y_changed, _ = model.reconstruct(changed, records.valid, records.leads, mask)
    assert torch.equal(y[predicted], y_changed[predicted])


@all_variants
def test_leads_are_a_set(variant: str):
    model, _ = make_model(variant)
    records = make_records()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    straight = model.embed(*records.tensors)
    shuffled = model.embed(*(t[:, order] for t in records.tensors), leads=order.tolist())
    torch.testing.assert_close(straight.record_BD, shuffled.record_BD)
    torch.testing.assert_close(straight.mean_BD, shuffled.mean_BD)
    torch.testing.assert_close(straight.lead_BLD[:, order], shuffled.lead_BLD)
    torch.testing.assert_close(straight.lead_weights_BL[:, order], shuffled.lead_weights_BL)
    # The identity is part of the element: the same signals under other names are another set.
    renamed = model.embed(*(t[:, order] for t in records.tensors))
    assert not torch.allclose(straight.record_BD[0], renamed.record_BD[0])


@all_variants
def test_the_order_of_slots_changes_nothing(variant: str):
    model, mask_config = make_model(variant)
    records = make_records()
    mask = make_mask(mask_config, records)
    order = torch.randperm(mask.lead_BV.shape[1], generator=torch.Generator().manual_seed(2))
    shuffled = dataclasses.replace(
        mask, lead_BV=mask.lead_BV[:, order], slot_BV=mask.slot_BV[:, order], patch_BVS=mask.patch_BVS[:, order]
    )
    torch.testing.assert_close(model(*records.tensors, mask).loss_B, model(*records.tensors, shuffled).loss_B)


@all_variants
@pytest.mark.parametrize("leads", [[0, 1, 6, 7, 8, 9, 10, 11], [0, 1, 2, 3, 4, 5], [1, 7, 10], [1]])
def test_any_subset_of_leads_embeds_like_a_record_that_lacks_the_others(variant: str, leads: list[int]):
    model, _ = make_model(variant)
    records = make_records(num_samples=80)[0:1]  # another length than in training
    present = torch.zeros_like(records.leads)
    present[:, leads] = True
    subset = model.embed(*(t[:, leads] for t in records.tensors), leads=leads)
    lacking = model.embed(records.x, records.valid, present)
    torch.testing.assert_close(subset.record_BD, lacking.record_BD)
    torch.testing.assert_close(subset.lead_BLD, lacking.lead_BLD[:, leads])
    assert subset.lead_weights_BL.sum().item() == pytest.approx(1)


def test_rows_and_leads_must_match_one_to_one():
    model, _ = make_model("lamae-aligned")
    two = [t[:, :2] for t in make_records().tensors]
    for leads in ([3, 3], [0, 1, 2], None):
        with pytest.raises(ValueError, match="each of the 2 rows"):
            model.embed(*two, leads=leads)


def test_a_length_that_is_no_multiple_of_the_patch_is_refused():
    model, _ = make_model("lamae-aligned")
    with pytest.raises(UsageError, match="patch_size=10"):
        model.embed(*make_records(num_samples=85).tensors)
    with pytest.raises(UsageError, match=r"model\.patch_size"):
        build_model(SMALL, GRID, num_samples=85)
