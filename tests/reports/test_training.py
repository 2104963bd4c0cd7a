"""Figures for TensorBoard show what was recorded, what was hidden and what the model made of it."""

import numpy as np
import torch

from lamae.data.loader import read_batch
from lamae.data.transforms import SignalTransform
from lamae.model.masking import draw_mask
from lamae.reports.training import draw_figures, plot_lead_weights, plot_reconstruction
from sharding.format import ShardSet
from sharding.leads import LEADS
from tests.evaluate.conftest import make_loaded, waves
from tests.shardsets import write_shard_set


def test_figures_of_a_real_model(tmp_path):
    shards = ShardSet.open(write_shard_set(tmp_path / "shards", waves(4, 500), rate_hz=100.0))
    loaded = make_loaded(shards)
    transform = SignalTransform(loaded.config.signal, source_rate_hz=100.0, num_samples=500)
    signal = transform(read_batch(shards, np.arange(4)), seed=0, train=False)
    mask = draw_mask(
        loaded.config.mask,
        seed=0,
        epoch_B=signal.epoch,
        row_B=signal.row,
        lead_mask_BL=signal.lead_mask_BL,
        num_patches=10,
    )
    figures = draw_figures(loaded.model, signal, mask)
    assert set(figures) == {"reconstruction", "lead_weights"}
    assert len(figures["reconstruction"].axes) == 12
    assert torch.is_grad_enabled()
    assert set(draw_figures(loaded.model, signal, mask, num_records=2)) == {
        "reconstruction/0",
        "reconstruction/1",
        "lead_weights",
    }


def test_each_lead_shows_the_recording_and_only_hidden_parts_of_the_guess():
    x = np.arange(1200.0).reshape(12, 100)
    hidden, valid = np.zeros((12, 100), dtype=bool), np.ones((12, 100), dtype=bool)
    hidden[4, 20:40] = True
    hidden[9] = True
    valid[4, 25:30] = False
    figure = plot_reconstruction(x, x + 1, hidden, valid_LT=valid, rate_hz=100)
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
