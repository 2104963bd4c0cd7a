"""Figures for TensorBoard show what was recorded, what was hidden and what the model made of it."""

import numpy as np
import pytest
import torch

from lamae.base.leads import LEADS
from lamae.data.reader import RecordReader
from lamae.data.transforms import Signal, SignalTransform
from lamae.evaluate.reconstruct.reconstruction import Reconstruction
from lamae.model import build_model, encoder
from lamae.model.config import MaskConfig, ModelConfig
from lamae.model.masking import draw_mask
from lamae.reports.attention import lead_attention
from lamae.reports.training import draw_figures, plot_lead_weights, plot_reconstruction
from lamae.sharding.format import ShardSet
from tests.evaluate.conftest import make_loaded, waves
from tests.shardsets import write_shard_set


@pytest.fixture
def shards(tmp_path):
    adc = waves(4, 500)
    adc[:, 10] = -32768  # nobody has V5
    adc[0, 3] = -32768
    return ShardSet.open(write_shard_set(tmp_path / "shards", adc, rate_hz=100.0))


def read_signal(shards, loaded):
    transform = SignalTransform(loaded.config.signal, source_rate_hz=100.0, num_samples=500)
    return transform(RecordReader(shards).read(np.arange(4)), seed=0, train=False)


def test_figures_of_a_real_model(shards):
    loaded = make_loaded(shards)
    signal = read_signal(shards, loaded)
    mask = draw_mask(
        loaded.config.mask,
        seed=0,
        epoch_B=signal.epoch,
        row_B=signal.row,
        lead_mask_BL=signal.lead_mask_BL,
        num_patches=10,
    )
    figures = draw_figures(loaded.model, signal, mask, loaded.config.signal)
    assert set(figures) == {"reconstruction", "lead_weights", "lead_attention"}
    assert len(figures["reconstruction"].axes) == 12
    assert figures["reconstruction"].get_suptitle().startswith("(mV; shaded")
    recorded, guess = (line.get_ydata() for line in figures["reconstruction"].axes[0].lines[:2])
    np.testing.assert_allclose(recorded, shards.read(0)[0] / 200, atol=1e-6)  # lead I, millivolt
    low, high = figures["reconstruction"].axes[0].get_ylim()
    assert low < np.nanmin([recorded, guess]) <= np.nanmax([recorded, guess]) < high
    assert figures["reconstruction"].axes[0].get_xlim() == pytest.approx((0, 4.99))  # seconds
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("scope", ["summary", "aligned", "joint"])
def test_attention_is_what_the_models_own_attention_gives_to_each_lead(scope, shards, monkeypatch):
    """Values that say which lead they are from turn the output of the model's attention into its weights."""
    torch.manual_seed(0)
    sizes = {"patch_size": 50, "width": 32, "heads": 2, "depth": 1, "decoder_width": 8, "decoder_heads": 2}
    model = build_model(ModelConfig(scope=scope, **sizes), MaskConfig(), num_samples=500)
    signal = read_signal(shards, make_loaded(shards))
    shares = lead_attention(model, signal)
    present = signal.lead_mask_BL.any(0)
    torch.testing.assert_close(shares.sum(1), present.float())
    assert not shares[:, ~present].any()
    assert shares[:4, :4].std() > 1e-3, "untrained attention is not quite even"

    name = "sequence_attention" if scope == "joint" else "cross_lead_attention"
    attend, calls = getattr(encoder, name), []

    def attend_to_names(qkv, mask=None, **options):
        tokens = qkv.shape[-4]
        if mask is not None and tokens % 12 == 0:  # the exchange; within a lead there is no mask
            lead = torch.arange(12).repeat_interleave(tokens // 12)
            named = qkv.clone()
            named[..., 2, :, :] = torch.nn.functional.one_hot(lead, qkv.shape[-1]).float()[:, None]
            calls.append(attend(named, mask, **options).mean(-2)[..., :12])
        return attend(qkv, mask, **options) if mask is not None else attend(qkv)

    monkeypatch.setattr(encoder, name, attend_to_names)
    # One record with all leads but V5, whose slot comes last and gets nothing.
    one = Signal(**{name: value[1:2] for name, value in vars(signal).items()})
    model.embed(one.x_BLT, one.valid_BLT, one.lead_mask_BL)
    order = torch.tensor([lead for lead in range(12) if lead != 10])
    expected = torch.zeros(12, 12)
    for call in calls:
        rows = call[0].unflatten(0, (12, -1)).transpose(0, 1) if scope == "joint" else call[0].reshape(-1, 12, 12)
        expected[order[:, None], order] += rows.mean(0)[:11, :11] / len(calls)
    assert len(calls) == len(model.exchange.blocks)
    monkeypatch.undo()
    shares = lead_attention(model, one)
    torch.testing.assert_close(shares, expected, atol=1e-5, rtol=1e-4)


def test_models_without_latent_attention_have_no_such_figure(shards):
    for kind in ("independent", "mean"):
        loaded = make_loaded(shards, kind=kind)
        assert lead_attention(loaded.model, read_signal(shards, loaded)) is None


def test_each_lead_shows_the_recording_and_only_hidden_parts_of_the_guess():
    x = np.arange(1200.0).reshape(12, 100)
    hidden, valid = np.zeros((12, 100), dtype=bool), np.ones((12, 100), dtype=bool)
    hidden[4, 20:40] = True
    hidden[9] = True
    valid[4, 25:30] = False
    figure = plot_reconstruction(Reconstruction("", x, x + 1, hidden, valid, 100.0, "mV"))
    by_name = {ax.get_ylabel(): ax for ax in figure.axes}
    assert set(by_name) == set(LEADS)
    recorded, guess = (line.get_ydata() for line in by_name["aVL"].lines)
    np.testing.assert_array_equal(np.isnan(recorded), ~valid[4])
    np.testing.assert_array_equal(np.isfinite(guess), hidden[4] & valid[4])
    np.testing.assert_array_equal(guess[20:25], x[4, 20:25] + 1)
    assert len(by_name["aVL"].patches) == 2
    assert len(by_name["I"].patches) == 0


def test_weights_are_averaged_per_lead():
    weights = np.eye(12)[[0, 0, 3, 11]]
    heights = [bar.get_height() for bar in plot_lead_weights(weights).axes[0].patches]
    np.testing.assert_allclose(heights, weights.mean(0))
