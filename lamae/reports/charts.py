"""Charts that several reports share. Each takes plain numbers and returns a Figure."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lamae.evaluate.statistics import Interval
from lamae.reports.style import INK, MUTED, RULE, SERIES, style_axes


def plot_loss(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, ylabel: str = "training loss"
) -> Figure:
    """Loss against records seen, one smoothed line per run over its raw values: {name: (records, loss)}."""
    figure, ax = new_chart(10.6, 3.4)
    for (name, (records, loss)), color in zip(curves.items(), SERIES, strict=False):
        ax.plot(records, loss, color=color, linewidth=0.6, alpha=0.3)
        ax.plot(records, _smooth(np.asarray(loss, dtype=float)), color=color, linewidth=1.8, label=name)
    ax.set(xlabel="records seen", ylabel=ylabel, ylim=(0, None))
    ax.legend(frameon=False, fontsize=9)
    ax.margins(x=0.01)
    return figure


def plot_auroc(rows: Sequence[str], series: Mapping[str, Sequence[Interval]], *, xlabel: str = "AUROC") -> Figure:
    """Points with 95 % intervals: one line of the chart per row, one colour per series."""
    num_series = len(series)
    figure, ax = new_chart(10.6, 0.9 + len(rows) * (0.12 + 0.16 * num_series))
    style_axes(ax, grid=False)
    ax.grid(axis="x", color=RULE, linewidth=0.6)
    for s, ((name, intervals), color) in enumerate(zip(series.items(), cycle(SERIES), strict=False)):
        y = np.arange(len(rows)) + (s - (num_series - 1) / 2) * (0.66 / max(num_series, 2))
        ax.hlines(
            y,
            [i.low for i in intervals],
            [i.high for i in intervals],
            color=color,
            linewidth=1.4,
            alpha=0.6,
        )
        ax.plot([i.value for i in intervals], y, "o", color=color, markersize=4.5, label=name)
    ax.axvline(0.5, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
    ax.set_yticks(np.arange(len(rows)), rows)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlabel(xlabel)
    _legend_above(figure, ax)
    return figure


def plot_differences(rows: Sequence[str], intervals: Sequence[Interval], *, xlabel: str) -> Figure:
    """Differences with 95 % intervals around zero; those whose interval excludes zero are filled."""
    figure, ax = new_chart(10.6, 0.8 + 0.27 * len(rows))
    style_axes(ax, grid=False)
    ax.grid(axis="x", color=RULE, linewidth=0.6)
    ax.axvline(0, color=INK, linewidth=0.9)
    for y, i in enumerate(intervals):
        color = SERIES[0] if i.value > 0 else SERIES[1]
        ax.hlines(y, i.low, i.high, color=color, linewidth=1.5, alpha=0.65)
        ax.plot(i.value, y, "o", color=color, markersize=5, markerfacecolor=color if i.excludes_zero else "white")
    ax.set_yticks(np.arange(len(rows)), rows)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlabel(xlabel)
    return figure


def plot_bars(
    groups: Sequence[str], series: Mapping[str, Sequence[float]], *, ylabel: str, emphasis: str | None = None
) -> Figure:
    """Bars side by side: one cluster per group, one colour per series; NaN leaves a gap."""
    figure, ax = new_chart(10.6, 3.6)
    width = 0.82 / max(1, len(series))
    quiet = iter(("#c9d2de", "#a9b6c7", "#8596ad", "#64789a", "#455a82", "#2c3e63"))
    for s, (name, values) in enumerate(series.items()):
        color = SERIES[0] if name == emphasis else next(quiet, MUTED)
        x = np.arange(len(groups)) + (s - (len(series) - 1) / 2) * width
        ax.bar(x, np.nan_to_num(np.asarray(values, dtype=float)), width=width * 0.92, color=color, label=name)
    ax.set_xticks(np.arange(len(groups)), groups)
    ax.set_ylabel(ylabel)
    ax.set_ylim(0, None)
    _legend_above(figure, ax)
    return figure


def new_chart(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty chart in the common style, ``width`` by ``height`` inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    ax = figure.subplots()
    style_axes(ax)
    return figure, ax


def _legend_above(figure: Figure, ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=len(labels), frameon=False, fontsize=8.5)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Centred running mean over a twentieth of the curve, shorter at the ends."""
    half = max(1, len(values) // 40)
    total = np.concatenate([[0.0], np.cumsum(values)])
    low = np.maximum(np.arange(len(values)) - half, 0)
    high = np.minimum(np.arange(len(values)) + half + 1, len(values))
    return (total[high] - total[low]) / (high - low)
