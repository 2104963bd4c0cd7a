"""Pretraining: what the loss and its parts mean, and what the gradients reach."""

import dataclasses
import itertools

import pytest
import torch
import torch.nn.functional as F

from lamae.base.leads import DERIVED_LEADS, INDEPENDENT_LEADS
from lamae.model import PretrainModel, build_model
from lamae.model.config import MaskConfig, ModelConfig
from lamae.model.loss import error_parts
from lamae.model.masking import Mask
from tests.model.variants import (
    GRID,
    NUM_SAMPLES,
    Records,
    all_variants,
    make_mask,
    make_model,
    make_records,
)


def alignment(model: PretrainModel, records: Records, mask: Mask, b: int) -> float:
    """The pull of kind aligned written out pair by pair."""
    if model.config.kind != "aligned":
        return 0.0
    latents = model.encoder(records.x.double(), records.valid, mask)
    leads = model.norm_summary(latents.summary_BVD)[b, latents.slot_BV[b]]
    pairs = list(itertools.combinations(F.normalize(leads, dim=-1), 2))
    return 2.0 * sum((i - j).square().sum().item() for i, j in pairs) / max(len(pairs), 1)


@all_variants
def test_the_loss_is_the_mean_over_records_of_their_own_mean_error(variant: str):
    model, mask_config = make_model(variant)
    model.set_progress(10)  # the full weight of what grows in training
    records = make_records()
    mask = make_mask(mask_config, records)
    output = model(*records.tensors, mask)
    y, predicted = model.reconstruct(*records.tensors, mask)
    for b in range(len(records.x)):
        asked = predicted[b] & records.valid[b]
        error = (y[b] - records.x[b])[asked]
        mean = error.square().mean().item() if asked.any() else 0.0
        mean += alignment(model, records, mask, b)
        assert output.loss_B[b].item() == pytest.approx(mean, rel=1e-4)
    assert output.loss.item() == pytest.approx(output.loss_B.mean().item())
    assert not predicted[1].any()
    assert output.loss_B[1] == 0  # the record without leads


@all_variants
def test_the_mean_gradient_of_single_records_is_the_gradient_of_the_batch(variant: str):
    model, mask_config = make_model(variant)
    records = make_records()
    model(*records.tensors, make_mask(mask_config, records)).loss.backward()
    together = [p.grad.clone() if p.grad is not None else None for p in model.parameters()]
    model.zero_grad()
    mask = make_mask(mask_config, records)
    for b in range(len(records.x)):
        row = {f.name: getattr(mask, f.name) for f in dataclasses.fields(mask)}
        one = Mask(**{k: v[b : b + 1] if isinstance(v, torch.Tensor) else v for k, v in row.items()})
        (model(*records[b : b + 1].tensors, one).loss / len(records.x)).backward()
    for batch_gradient, parameter in zip(together, model.parameters(), strict=True):
        if batch_gradient is not None:
            torch.testing.assert_close(parameter.grad, batch_gradient, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("variant", ["lamae-aligned", "lamae-summary", "lamae-joint", "joint"])
def test_every_weight_is_trained_and_the_pooling_through_the_record_embedding(variant: str):
    model, mask_config = make_model(variant)
    records = make_records(num=16)
    model(*records.tensors, make_mask(mask_config, records)).loss.backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []
    # Decoding from the record embedding alone is enough to train the pooling.
    model.zero_grad()
    blind = dataclasses.replace(mask_config, record_only_share=1.0, limb_hidden_share=0.0)
    model(*records.tensors, make_mask(blind, records)).loss.backward()
    assert model.pool_record is not None
    assert model.pool_record.query.grad is not None
    assert model.pool_record.query.grad.norm() > 1e-6


def test_a_record_only_record_ignores_the_instants_for_its_hidden_leads():
    model, mask_config = make_model("lamae-aligned")
    records = make_records()[0:1]
    mask = make_mask(mask_config, records)
    hidden_T = ~mask.visible_lead_BL[0]
    assert hidden_T.any()
    predictions = {}
    for record_only in (False, True):
        for scale in (1.0, 1.5):
            with torch.no_grad():
                model.decoder.instant.weight.mul_(scale)
            chosen = dataclasses.replace(mask, record_only_B=torch.tensor([record_only]))
            predictions[record_only, scale] = model.reconstruct(*records.tensors, chosen)[0][0, hidden_T]
            with torch.no_grad():
                model.decoder.instant.weight.div_(scale)
    torch.testing.assert_close(predictions[True, 1.0], predictions[True, 1.5])
    assert not torch.allclose(predictions[False, 1.0], predictions[False, 1.5])


def test_the_independent_baseline_uses_no_other_lead():
    model, mask_config = make_model("independent")
    records = make_records()[0:1]
    mask = make_mask(mask_config, records)
    y, predicted = model.reconstruct(*records.tensors, mask)
    visible = mask.visible_lead_BL[0]
    assert not predicted[0, ~visible].any()  # nothing of a hidden lead is known to it, so it is not asked
    lead = int(visible.nonzero()[0])
    changed = records.x.clone()
    changed[:, torch.arange(12) != lead] = torch.randn(1, 11, NUM_SAMPLES)
    torch.testing.assert_close(model.reconstruct(changed, *records.tensors[1:], mask)[0][0, lead], y[0, lead])


def test_a_parameter_matched_baseline_has_lamaes_size():
    def size(**changes: object) -> int:
        model = build_model(dataclasses.replace(ModelConfig(), **changes), GRID, num_samples=1000)
        return sum(p.numel() for p in model.parameters())

    assert size(kind="independent", match_parameters=True) == pytest.approx(size(), rel=0.05)
    assert size(kind="independent") < 0.9 * size()


@pytest.mark.parametrize("variant", ["mean-aligned", "mean-summary", "mean-joint", "aligned", "independent"])
def test_every_weight_of_the_baselines_is_trained(variant: str):
    model, mask_config = make_model(variant)
    records = make_records(num=16)
    model(*records.tensors, make_mask(mask_config, records)).loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_the_pull_between_leads_grows_with_training():
    model, mask_config = make_model("aligned")
    records = make_records()[0:1]
    mask = make_mask(mask_config, records)
    losses = []
    for progress in (0.0, 0.5, 1.0):
        model.set_progress(progress)
        output = model(*records.tensors, mask)
        losses.append(output.loss.item())
        apart = output.parts["lead_disagreement"].item()
    assert losses[1] - losses[0] == pytest.approx(apart, rel=0.01)
    assert losses[2] - losses[1] == pytest.approx(apart, rel=0.01)


@all_variants
def test_bfloat16_weights_follow_float64(variant: str):
    model, mask_config = make_model(variant)
    records = make_records()
    mask = make_mask(mask_config, records)
    exact = model(*records.tensors, mask)
    half = make_model(variant, dtype=torch.bfloat16)[0](*records.tensors, mask)
    assert half.loss.dtype == torch.float32
    torch.testing.assert_close(half.loss_B, exact.loss_B.float(), rtol=3e-2, atol=1e-3)
    half.loss.backward()


@all_variants
def test_the_same_seed_gives_the_same_weights_and_losses_bit_by_bit(variant: str):
    records = make_records()
    first, second = (
        model(*records.tensors, make_mask(config, records)).loss
        for model, config in (make_model(variant, dtype=torch.float32) for _ in range(2))
    )
    assert torch.equal(first, second)


def test_the_parts_say_how_much_each_way_of_hiding_costs():
    model, mask_config = make_model("lamae-aligned")
    records = make_records()[0:1]
    mask = make_mask(mask_config, records)
    parts = model(*records.tensors, mask).parts
    y, _ = model.reconstruct(*records.tensors, mask)
    shown_N = torch.zeros(12, dtype=torch.bool)
    shown_N[mask.patch_BVS[0, 0]] = True
    at = shown_N.repeat_interleave(10) & ~mask.visible_lead_BL[0][:, None] & records.valid[0]
    error = (y - records.x)[0].square()
    assert parts["hidden_leads"].item() == pytest.approx(error[at].mean().item(), rel=1e-5)
    spans = mask.hidden_BLN[0].repeat_interleave(10, 1) & mask.visible_lead_BL[0][:, None] & records.valid[0]
    for group, leads in (("independent", INDEPENDENT_LEADS), ("derived", DERIVED_LEADS)):
        asked = spans & torch.isin(torch.arange(12), torch.tensor(leads))[:, None]
        expected = error[asked].mean().item()
        assert parts[f"hidden_spans_{group}"].item() == pytest.approx(expected, rel=1e-5, nan_ok=True)
    assert 0 < parts["pool_entropy"] <= 1
    assert not any(value.requires_grad for value in parts.values())


def test_the_parts_go_by_what_is_visible_also_where_each_lead_shows_its_own_patches():
    records = make_records(40)
    mask = make_mask(MaskConfig(kind="mixed"), records)
    assert not mask.shared_instants
    error = torch.full((*mask.hidden_BLN.shape, 10), 3.0)
    for record, slots in enumerate(mask.slot_BV):
        seen = torch.isin(torch.arange(mask.num_patches), mask.patch_BVS[record, slots])
        hidden = ~mask.visible_lead_BL[record]
        error[record, hidden] = torch.where(seen, 1.0, 2.0)[None, :, None]
    parts = error_parts(error, mask.hidden_BLN[..., None].expand_as(error), mask)
    for name, expected in {"hidden_leads": 1, "hidden_leads_unseen": 2, "hidden_spans": 3}.items():
        for group in ("", "_independent", "_derived"):
            assert parts[name + group] == pytest.approx(expected), name + group


def test_a_part_that_the_batch_has_none_of_is_nan():
    model, _ = make_model("lamae-aligned")
    records = make_records()[2:3]
    parts = model(*records.tensors, make_mask(MaskConfig(kind="time"), records)).parts
    groups = ("", "_independent", "_derived")
    absent = {f"{name}{group}" for name in ("hidden_leads", "hidden_leads_unseen") for group in groups}
    # That record has no derived lead.
    assert {name for name, value in parts.items() if value.isnan()} == absent | {"pool_entropy", "hidden_spans_derived"}
