"""Figures drawn while a model trains: what it makes of hidden samples, where its leads look, how it weighs them."""

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from lamae.base.leads import LEADS, NUM_LEADS
from lamae.data.config import SignalConfig
from lamae.evaluate.reconstruct.reconstruction import Reconstruction
from lamae.reports.attention import lead_attention
from lamae.reports.charts import WIDTH, new_charts, plot_heatmap
from lamae.reports.style import ACCENT, HIDDEN, INK, MUTED


@torch.inference_mode()
def draw_figures(model: Any, signal: Any, mask: Any, config: SignalConfig) -> dict[str, Figure]:
    """Figures of a batch, by TensorBoard tag: of its first record, and of all.

    ``model`` is a PretrainModel, ``signal`` a Signal made as ``config`` says and ``mask`` the Mask drawn for it, all on
    one device.
    """
    y_BLT, predicted_BLT = model.reconstruct(signal.x_BLT, signal.valid_BLT, signal.lead_mask_BL, mask)
    embedding = model.embed(signal.x_BLT, signal.valid_BLT, signal.lead_mask_BL)
    figures = {
        "reconstruction": plot_reconstruction(Reconstruction.of("", config, 0, signal, y_BLT, predicted_BLT)),
        "lead_weights": plot_lead_weights(_numpy(embedding.lead_weights_BL)),
    }
    attention = lead_attention(model, signal)
    if attention is not None:
        figures["lead_attention"] = plot_lead_attention(_numpy(attention))
    return figures


def plot_reconstruction(example: Reconstruction) -> Figure:
    """All twelve leads: the recording, where it was hidden (shaded), and what the model put there; gaps where samples
    are missing."""
    predicted_LT, valid_LT = example.predicted_LT, example.valid_LT
    times = np.arange(example.x_LT.shape[1]) / example.rate_hz
    figure, axes = new_charts(12, 8.4, rows=6, columns=2, grid="", sharex=True)
    shown = np.where(valid_LT, example.x_LT, np.nan)
    guess = np.where(predicted_LT & valid_LT, example.y_LT, np.nan)
    low, high = _limits(shown, guess)
    for lead, name in enumerate(LEADS):
        ax = axes[2 * (lead % 6) + lead // 6]
        for start, stop in _runs(predicted_LT[lead] & valid_LT[lead]):
            ax.axvspan(times[start], times[min(stop, len(times) - 1)], color=HIDDEN, linewidth=0)
        if not valid_LT[lead].any():
            ax.text(0.5, 0.5, "not recorded", transform=ax.transAxes, ha="center", va="center", color=MUTED)
        ax.plot(times, shown[lead], color=INK, linewidth=0.8, label="recorded")
        ax.plot(times, guess[lead], color=ACCENT, linewidth=1.0, label="reconstructed from the rest")
        ax.set(ylim=(low, high), xlim=(times[0], times[-1]))
        ax.set_ylabel(name, rotation=0, ha="right", va="center", fontweight="bold")
        ax.tick_params(labelsize=8)
    for ax in axes[-2:]:
        ax.set_xlabel("time (s)")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=2, frameon=False, fontsize=9)
    figure.suptitle(
        f"{example.key}  ({example.unit}; shaded: hidden from the model)".strip(), x=0.02, ha="left", fontsize=10
    )
    return figure


def _limits(*curves: np.ndarray) -> tuple[float, float]:
    """Of an axis that shows all of all curves, and 0."""
    values = np.concatenate([[0.0], *(curve[np.isfinite(curve)] for curve in curves)])
    margin = 0.06 * max(float(np.ptp(values)), 1e-3)
    return float(values.min()) - margin, float(values.max()) + margin


def plot_lead_weights(weights_BL: np.ndarray) -> Figure:
    """Mean share of each lead over the records, with the 5th to 95th percentile; absent leads count as zero."""
    figure, (ax,) = new_charts(WIDTH, 3.2)
    mean_L = weights_BL.mean(0)
    low_L, high_L = np.quantile(weights_BL, [0.05, 0.95], axis=0)
    places = np.arange(NUM_LEADS)
    ax.bar(places, mean_L, color=ACCENT, width=0.7)
    ax.vlines(places, low_L, high_L, color=INK, linewidth=1.2)
    ax.axhline(1 / NUM_LEADS, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
    ax.set_xticks(places, LEADS)
    ax.set_ylim(0, max(1e-6, float(high_L.max())) * 1.1)
    ax.set_ylabel("share")
    ax.set_title("Share of each lead in the record embedding", loc="left", fontsize=10)
    return figure


def plot_lead_attention(share_LL: np.ndarray) -> Figure:
    """Matrix [12, 12] of shares as ``lead_attention`` gives it; each row sums to 1."""
    most = max(1 / NUM_LEADS, float(share_LL.max()))
    figure, ax = plot_heatmap(
        share_LL,
        LEADS,
        LEADS,
        form=lambda share: f"{100 * share:.0f}",
        most=most,
        cmap="Greys",
        size=(6.4, 5.6),
        title="Where the attention of each lead goes",
    )
    ax.set_xlabel("to (% of the row)")
    ax.set_ylabel("from")
    return figure


def _runs(mask_T: np.ndarray) -> list[tuple[int, int]]:
    """(start, stop) of every run of true values."""
    edges = np.flatnonzero(np.diff(np.r_[False, mask_T.astype(bool), False].astype(np.int8)))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()
