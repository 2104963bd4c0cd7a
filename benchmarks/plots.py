"""A result as two charts: its ratios, and the rates that they were made of."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from lamae.benchmarks.result import Spread, spread_of_rates, spread_of_ratios
from lamae.reports.charts import log_scale, name_lines, new_charts
from lamae.reports.style import INK, SERIES


def save_plots(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write what there is to draw of a single result as ``NAME-ratios.svg`` and ``NAME-rates.svg``."""
    import matplotlib

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for kind, spreads, label in (
        ("ratios", spread_of_ratios(result), "ratio (log scale), median and least to largest repeat"),
        ("rates", spread_of_rates(result), "per second (log scale), median and least to largest repeat"),
    ):
        bars = {name: spread for name, spread in spreads.items() if spread[0] > 0}
        if bars:
            written.append(folder / f"{result['benchmark']}-{kind}.svg")
            with matplotlib.rc_context({"svg.hashsalt": "lamae"}):
                plot_spread(bars, xlabel=label, one=kind == "ratios").savefig(written[-1], metadata={"Date": None})
    return written


def plot_spread(bars: Mapping[str, Spread], *, xlabel: str, one: bool) -> Figure:
    """A point with its spread per line, on a logarithmic axis; ``one`` draws a line where ratios are even."""
    figure, (ax,) = new_charts(8.6, 0.8 + 0.26 * len(bars), grid="x")
    if one:
        ax.axvline(1, color=INK, linewidth=0.9)
    for y, (median, least, most) in enumerate(bars.values()):
        ax.hlines(y, least, most, color=SERIES[1], linewidth=3, alpha=0.35)
        ax.plot(median, y, "o", color=SERIES[1], markersize=5)
    name_lines(ax, list(bars))
    log_scale(ax, "x")
    ax.set_xlabel(xlabel)
    return figure
