"""Every refused setting names its key."""

import subprocess
import sys

import pytest

from lamae.model.config import Layout, MaskConfig, ModelConfig, check_together, without_effect


@pytest.mark.parametrize(
    ("config", "key"),
    [
        (ModelConfig(kind="lame"), "model.kind"),
        (ModelConfig(scope="all"), "model.scope"),
        (ModelConfig(width=100, heads=3), "model.width"),
        (ModelConfig(decoder_width=99, decoder_heads=3), "model.decoder_width"),
        (ModelConfig(patch_size=0), "model.patch_size"),
        (ModelConfig(depth=-1), "model.depth"),
        (ModelConfig(mlp_ratio=0.01), "model.mlp_ratio"),
        (ModelConfig(mlp_ratio=float("inf")), "model.mlp_ratio"),
        (MaskConfig(kind="gird"), "mask.kind"),
        (MaskConfig(hidden_leads=6), "mask.hidden_leads"),
        (MaskConfig(limb_tied=False, hidden_leads=12), "mask.hidden_leads"),
        (MaskConfig(ratio=1.0), "mask.ratio"),
        (MaskConfig(record_only_share=1.5), "mask.record_only_share"),
    ],
)
def test_check_names_the_key(config, key: str):
    with pytest.raises(ValueError, match=key):
        config.check()


def test_a_kind_of_model_without_a_layout_is_named():
    with pytest.raises(ValueError, match=r"model\.kind=lame\b"):
        Layout.of(ModelConfig(kind="lame"))


def test_defaults_are_allowed():
    ModelConfig().check()
    MaskConfig().check()
    check_together(ModelConfig(), MaskConfig(), num_samples=2500)


@pytest.mark.parametrize(
    ("model", "mask", "key"),
    [
        (ModelConfig(patch_size=24), MaskConfig(), "model.patch_size"),
        (ModelConfig(patch_size=1000), MaskConfig(), "model.patch_size"),
    ],
)
def test_what_cannot_go_together_is_refused(model: ModelConfig, mask: MaskConfig, key: str):
    with pytest.raises(ValueError, match=key):
        check_together(model, mask, num_samples=1000)


def test_reading_the_configuration_does_not_import_torch():
    code = "import lamae.model.config, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("model", "mask", "key"),
    [
        (ModelConfig(kind="independent", scope="joint"), MaskConfig(), "model.scope=joint"),
        (ModelConfig(kind="joint", scope="summary"), MaskConfig(), "model.scope=summary"),
        (ModelConfig(kind="aligned", latent_depth=4), MaskConfig(), "model.latent_depth=4"),
        (ModelConfig(kind="mean", attention="sdpa"), MaskConfig(), "model.attention=sdpa"),
        (ModelConfig(scope="joint", attention="eager"), MaskConfig(), "model.attention=eager"),
        (ModelConfig(match_parameters=True), MaskConfig(), "model.match_parameters=True"),
        (ModelConfig(align_weight=1.0), MaskConfig(), "model.align_weight=1.0"),
        (ModelConfig(), MaskConfig(kind="time", limb_tied=False), "mask.limb_tied=False"),
        (ModelConfig(), MaskConfig(kind="random", hidden_leads=4), "mask.hidden_leads=4"),
        (ModelConfig(), MaskConfig(limb_tied=False, limb_hidden_share=0.5), "mask.limb_hidden_share=0.5"),
        (ModelConfig(), MaskConfig(kind="lead", ratio=0.7), "mask.ratio=0.7"),
        (ModelConfig(), MaskConfig(kind="time", record_only_share=0.5), "mask.record_only_share=0.5"),
        (ModelConfig(scope="summary"), MaskConfig(record_only_share=0.5), "mask.record_only_share=0.5"),
        (ModelConfig(), MaskConfig(weights={"grid": 1.0}), "mask.weights"),
    ],
)
def test_an_option_that_does_nothing_is_named(model: ModelConfig, mask: MaskConfig, key: str):
    (sentence,) = without_effect(model, mask)
    assert sentence.startswith(key)


@pytest.mark.parametrize(
    ("model", "mask"),
    [
        (ModelConfig(), MaskConfig()),
        (ModelConfig(kind="independent", match_parameters=True, latent_depth=3), MaskConfig()),
        (ModelConfig(kind="joint", latent_depth=3), MaskConfig(record_only_share=0.5)),
        (ModelConfig(kind="mean", scope="joint"), MaskConfig(kind="lead", hidden_leads=2, limb_hidden_share=0.1)),
        (ModelConfig(), MaskConfig(kind="mixed", weights={"grid": 1.0}, ratio=0.6)),
        (ModelConfig(attention="eager"), MaskConfig(limb_tied=False)),
    ],
)
def test_options_that_do_something_are_not_named(model: ModelConfig, mask: MaskConfig):
    assert list(without_effect(model, mask)) == []
