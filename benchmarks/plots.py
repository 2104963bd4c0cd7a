"""A result as two charts: its ratios, and the rates that they were made of."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from lamae.reports.charts import name_lines, new_charts
from lamae.reports.style import INK, SERIES

Bar = tuple[str, float, float, float]
"""Name, median, least and most."""


def save_plots(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write what there is to draw of a single result as ``NAME-ratios.svg`` and ``NAME-rates.svg``."""
    import matplotlib

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for kind, bars, label in (
        ("ratios", _ratios(result), "ratio (log scale), median and least to largest repeat"),
        ("rates", _rates(result), "per second (log scale), median and least to largest repeat"),
    ):
        if bars:
            written.append(folder / f"{result['benchmark']}-{kind}.svg")
            with matplotlib.rc_context({"svg.hashsalt": "lamae"}):
                plot_spread(bars, xlabel=label, one=kind == "ratios").savefig(written[-1], metadata={"Date": None})
    return written


def plot_spread(bars: Sequence[Bar], *, xlabel: str, one: bool) -> Figure:
    """A point with its spread per line, on a logarithmic axis; ``one`` draws a line where ratios are even."""
    figure, (ax,) = new_charts(8.6, 0.8 + 0.26 * len(bars), grid="x")
    ax.set_xscale("log")
    if one:
        ax.axvline(1, color=INK, linewidth=0.9)
    for y, (_, median, least, most) in enumerate(bars):
        ax.hlines(y, least, most, color=SERIES[1], linewidth=3, alpha=0.35)
        ax.plot(median, y, "o", color=SERIES[1], markersize=5)
    name_lines(ax, [name for name, *_ in bars])
    ax.set_xlabel(xlabel)
    return figure


def _ratios(result: Mapping[str, Any]) -> list[Bar]:
    return [
        (name, value, *result.get("ratio_spread", {}).get(name, (value, value)))
        for name, value in result["ratios"].items()
        if value > 0
    ]


def _rates(result: Mapping[str, Any]) -> list[Bar]:
    return [
        (name, entry["per_s"], entry["min"], entry["max"])
        for name, entry in result.get("measurements", {}).items()
        if isinstance(entry, Mapping) and "per_s" in entry
    ]
