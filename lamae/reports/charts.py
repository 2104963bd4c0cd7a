"""Charts that several reports share. Each takes plain numbers and returns a Figure."""

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from lamae.evaluate.statistics import Interval
from lamae.reports.style import INK, MUTED, SERIES, style_axes

WIDTH = 10.6
"""Of a figure as wide as a page, in inches."""


def plot_loss(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> Figure:
    """Loss against records seen, one smoothed line per run over its raw values: {name: (records, loss)}."""
    figure, (ax,) = new_charts(WIDTH, 3.4)
    for (name, (records, loss)), color in zip(curves.items(), SERIES, strict=False):
        ax.plot(records, loss, color=color, linewidth=0.6, alpha=0.3)
        ax.plot(records, _smooth(np.asarray(loss, dtype=float)), color=color, linewidth=1.8, label=name)
    ax.set(xlabel="records seen", ylabel="training loss", ylim=(0, None))
    ax.legend(frameon=False, fontsize=9)
    ax.margins(x=0.01)
    return figure


def plot_auroc(rows: Sequence[str], series: Mapping[str, Sequence[Interval]], *, xlabel: str = "AUROC") -> Figure:
    """Points with 95 % intervals: one line of the chart per row, one colour per series."""
    num_series = len(series)
    figure, (ax,) = new_charts(WIDTH, 0.9 + len(rows) * (0.12 + 0.16 * num_series), grid="x")
    for s, ((name, intervals), color) in enumerate(zip(series.items(), cycle(SERIES), strict=False)):
        y = np.arange(len(rows)) + (s - (num_series - 1) / 2) * (0.66 / max(num_series, 2))
        ax.hlines(y, [i.low for i in intervals], [i.high for i in intervals], color=color, linewidth=1.4, alpha=0.6)
        ax.plot([i.value for i in intervals], y, "o", color=color, markersize=4.5, label=name)
    ax.axvline(0.5, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
    name_lines(ax, rows)
    ax.set_xlabel(xlabel)
    _legend_above(figure, ax)
    return figure


def plot_differences(panels: Mapping[str, Mapping[str, Interval]], *, width: float = WIDTH) -> Figure:
    """Differences with 95 % intervals around zero, one panel per title; filled where the interval excludes zero."""
    heights = [0.8 + 0.25 * len(rows) for rows in panels.values()]
    figure, axes = new_charts(width, sum(heights), rows=len(panels), grid="x", height_ratios=heights)
    for ax, (title, rows) in zip(axes, panels.items(), strict=True):
        ax.axvline(0, color=INK, linewidth=0.9)
        for y, i in enumerate(rows.values()):
            color = SERIES[0] if i.value > 0 else SERIES[1]
            ax.hlines(y, i.low, i.high, color=color, linewidth=1.5, alpha=0.65)
            ax.plot(i.value, y, "o", color=color, markersize=5, markerfacecolor=color if i.excludes_zero else "white")
        name_lines(ax, list(rows))
        ax.set_title(title, fontsize=10, loc="left")
    return figure


def plot_few_labels(panels: Mapping[str, Mapping[str, Mapping[float, Interval]]], *, width: float = WIDTH) -> Figure:
    """Macro AUROC with 95 % bands by share of the labels: a panel per title, in it a line per method."""
    figure, axes = new_charts(width, 4.0, columns=len(panels))
    for ax, (title, curves) in zip(axes, panels.items(), strict=True):
        for (name, by_share), color in zip(curves.items(), cycle(SERIES), strict=False):
            shares, points = list(by_share), list(by_share.values())
            low, high = [p.low for p in points], [p.high for p in points]
            ax.fill_between(shares, low, high, color=color, alpha=0.08, linewidth=0)
            ax.plot(shares, [p.value for p in points], "o-", color=color, markersize=4.5, linewidth=1.6, label=name)
        ax.set(title=title, xscale="log", xlabel="training subjects with labels", ylabel="macro AUROC")
        ticks = sorted({share for by_share in curves.values() for share in by_share})
        ax.set_xticks(ticks, [f"{tick:.0%}" for tick in ticks])
        ax.minorticks_off()
    handles, labels = axes[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), frameon=False, fontsize=9)
    return figure


def plot_bars(groups: Sequence[str], series: Mapping[str, Sequence[float]], *, ylabel: str, emphasis: str) -> Figure:
    """Bars side by side: one cluster per group, one colour per series; NaN leaves a gap."""
    figure, (ax,) = new_charts(WIDTH, 3.6)
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


def plot_heatmap(
    values_RC: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    form: Callable[[float], str],
    most: float,
    cmap: str = "Reds",
    size: tuple[float, float] | None = None,
    title: str = "",
) -> tuple[Figure, Axes]:
    """A matrix whose cells say their number in ``form``, coloured from 0 to ``most``; and its axes, to be labelled."""
    figure, (ax,) = new_charts(*(size or (WIDTH, 0.8 + 0.27 * len(rows))), grid="")
    image = ax.imshow(values_RC, aspect="auto", cmap=cmap, vmin=0, vmax=most)
    dark_RC = image.to_rgba(values_RC)[..., :3] @ (0.3, 0.59, 0.11) < 0.5
    for (row, column), value in np.ndenumerate(values_RC):
        ink = "white" if dark_RC[row, column] else INK
        ax.text(column, row, form(value), ha="center", va="center", fontsize=7.5, color=ink)
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(len(rows)), rows)
    ax.set_title(title, loc="left", fontsize=10)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    return figure, ax


def new_charts(
    width: float, height: float, *, rows: int = 1, columns: int = 1, grid: str = "y", **layout: Any
) -> tuple[Figure, list[Axes]]:
    """Empty charts in the common style, ``width`` by ``height`` inches in all, from the upper left one on.

    ``grid`` is as for ``style_axes``, ``layout`` what ``Figure.subplots`` takes.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False, **layout).flat)
    for ax in axes:
        style_axes(ax, grid=grid)
    return figure, axes


def log_scale(ax: Axes, which: str) -> None:
    """Make axis ``which`` ("x" or "y") of what is drawn logarithmic, its ticks plain numbers.

    Matplotlib's own ticks are powers in mathematical notation, which ``style`` switches off.
    """
    ax.set(**{f"{which}scale": "log"})
    axis, (low, high) = getattr(ax, f"{which}axis"), getattr(ax, f"get_{which}lim")()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,)))
    axis.set_major_formatter("{x:,.12g}")
    axis.set_minor_locator(NullLocator())


def name_lines(ax: Axes, names: Sequence[str]) -> None:
    """One line of a chart per name, at 0, 1, … from the top down."""
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)


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
