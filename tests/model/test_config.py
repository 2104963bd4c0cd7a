"""Every refused setting names its key."""

import subprocess
import sys

import pytest

from lamae.model.config import MaskConfig, ModelConfig, check_together


@pytest.mark.parametrize(
    ("config", "key"),
    [
        (ModelConfig(kind="lame"), "model.kind"),
        (ModelConfig(scope="all"), "model.scope"),
        (ModelConfig(width=100, heads=3), "model.width"),
        (ModelConfig(decoder_width=99, decoder_heads=3), "model.decoder_width"),
        (ModelConfig(patch_size=0), "model.patch_size"),
        (ModelConfig(depth=-1), "model.depth"),
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


def test_defaults_are_allowed():
    ModelConfig().check()
    MaskConfig().check()
    check_together(ModelConfig(), MaskConfig(), num_samples=2500)


@pytest.mark.parametrize(
    ("model", "mask", "key"),
    [
        (ModelConfig(patch_size=24), MaskConfig(), "model.patch_size"),
        (ModelConfig(patch_size=1000), MaskConfig(), "model.patch_size"),
        (ModelConfig(positions="learned", max_patches=39), MaskConfig(), "model.max_patches"),
        (ModelConfig(lead_embedding=False), MaskConfig(), "model.lead_embedding"),
    ],
)
def test_what_cannot_go_together_is_refused(model: ModelConfig, mask: MaskConfig, key: str):
    with pytest.raises(ValueError, match=key):
        check_together(model, mask, num_samples=1000)


def test_without_lead_embedding_masks_that_hide_no_whole_lead_are_allowed():
    check_together(ModelConfig(lead_embedding=False), MaskConfig(kind="random"), num_samples=1000)


def test_reading_the_configuration_does_not_import_torch():
    code = "import lamae.model.config, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
