"""The model as users meet it: what may not change its answer, what its loss means, what its gradients reach."""

import dataclasses
import itertools

import pytest
import torch
import torch.nn.functional as F

from lamae.base.errors import UsageError
from lamae.base.leads import DERIVED_LEADS, INDEPENDENT_LEADS
from lamae.model import PretrainModel, build_model
from lamae.model.config import MaskConfig, ModelConfig
from lamae.model.loss import error_parts
from lamae.model.masking import Mask, draw_mask

SMALL = ModelConfig(patch_size=10, width=32, depth=2, heads=2, latent_depth=1, decoder_width=16, decoder_heads=2)
GRID = MaskConfig(kind="grid")
NUM_SAMPLES = 120
VARIANTS = {
    "lamae-aligned": (SMALL, GRID),
    "lamae-summary": (dataclasses.replace(SMALL, scope="summary"), GRID),
    "lamae-joint": (dataclasses.replace(SMALL, scope="joint"), GRID),
    "lamae-aligned-random": (SMALL, MaskConfig(kind="random")),
    "lamae-joint-random": (dataclasses.replace(SMALL, scope="joint"), MaskConfig(kind="random")),
    "independent": (dataclasses.replace(SMALL, kind="independent"), GRID),
    "lamae-aligned-mixed": (SMALL, MaskConfig(kind="mixed")),
    "lamae-aligned-lead": (SMALL, MaskConfig(kind="lead")),
    "mean-aligned": (dataclasses.replace(SMALL, kind="mean"), GRID),
    "mean-summary": (dataclasses.replace(SMALL, kind="mean", scope="summary"), GRID),
    "mean-joint": (dataclasses.replace(SMALL, kind="mean", scope="joint"), GRID),
    "joint": (dataclasses.replace(SMALL, kind="joint"), GRID),
    "aligned": (dataclasses.replace(SMALL, kind="aligned", match_parameters=True), GRID),
    "independent-random": (dataclasses.replace(SMALL, kind="independent"), MaskConfig(kind="random")),
}
all_variants = pytest.mark.parametrize("variant", VARIANTS)


@dataclasses.dataclass
class Records:
    x: torch.Tensor
    valid: torch.Tensor
    leads: torch.Tensor

    def __getitem__(self, rows: slice) -> "Records":
        return Records(self.x[rows], self.valid[rows], self.leads[rows])

    @property
    def tensors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.x, self.valid, self.leads


def make_records(num: int = 6, *, num_samples: int = NUM_SAMPLES) -> Records:
    """Records with all leads, with some, with one, with none; and samples, patches and leads that were not recorded."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(num, 12, num_samples, generator=generator)
    leads = torch.rand(num, 12, generator=generator) < 0.8
    leads[0], leads[1] = True, False
    leads[2] = torch.arange(12) == 7
    valid = (torch.rand(num, 12, num_samples, generator=generator) < 0.95) & leads[:, :, None]
    if num > 4:
        valid[4, :, :30] = False
        valid[4, 6:10, 50:60] = False
        valid[4, 1] = False
    return Records(torch.where(valid, x, 0.0), valid, leads)


def make_model(variant: str, *, dtype: torch.dtype = torch.float64) -> tuple[PretrainModel, MaskConfig]:
    config, mask = VARIANTS[variant]
    torch.manual_seed(0)
    model = build_model(config, mask, num_samples=NUM_SAMPLES)
    with torch.no_grad():  # a fresh pooling is a plain mean, which would hide mistakes in its weights
        for name, parameter in model.named_parameters():
            if name.endswith("query"):
                parameter.normal_()
    return model.to(dtype), mask


def make_mask(config: MaskConfig, records: Records, *, num_patches: int = NUM_SAMPLES // 10) -> Mask:
    row = torch.arange(len(records.x))
    return draw_mask(
        config, seed=0, epoch_B=torch.zeros_like(row), row_B=row, lead_mask_BL=records.leads, num_patches=num_patches
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
    before, after = model.embed(*records.tensors), model.embed(garbage, records.valid, records.leads)
    for name in ("record_BD", "mean_BD", "lead_BLD", "lead_weights_BL"):
        assert torch.equal(getattr(before, name), getattr(after, name))
        assert getattr(after, name).isfinite().all()


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
    before, after = model.embed(*records.tensors), model.embed(garbage, records.valid, records.leads)
    for name in ("record_BD", "mean_BD", "lead_BLD", "lead_weights_BL"):
        assert torch.equal(getattr(before, name), getattr(after, name))
        assert getattr(after, name).isfinite().all()


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
    assert not mask.shared_times
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


def test_targets_normalised_per_patch_come_back_in_signal_units():
    config = dataclasses.replace(SMALL, normalize_targets=True)
    torch.manual_seed(0)
    model = build_model(config, GRID, num_samples=NUM_SAMPLES)
    records = make_records()[0:1]
    mask = make_mask(GRID, records)
    y, predicted = model.reconstruct(records.x * 100 + 1000, *records.tensors[1:], mask)
    assert y[predicted].mean().item() == pytest.approx(1000, abs=50)
