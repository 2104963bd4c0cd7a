"""A forecast as a picture: what a step's time goes to and what more devices bring. All of it modelled."""

import itertools
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from lamae.benchmarks.forecast.forecast import Forecast
from lamae.reports.charts import WIDTH, new_charts
from lamae.reports.style import INK, MUTED, SERIES


def save_plot(rows: Sequence[Forecast], path: Path, *, title: str) -> None:
    """Write ``plot_forecast`` in the format that the suffix of ``path`` names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plot_forecast(rows, title=title).savefig(path, dpi=150)


def plot_forecast(rows: Sequence[Forecast], *, title: str) -> Figure:
    """Left, a step's milliseconds by what they go to; right, records per second beside perfect scaling."""
    figure, (left, right) = new_charts(WIDTH, 4.0, columns=2)
    places, labels = range(len(rows)), [f"{one.world_size:,}" for one in rows]
    below = [0.0] * len(rows)
    for part, color in zip(rows[0].parts_s, itertools.cycle(SERIES), strict=False):
        heights = [one.parts_s[part] * 1e3 for one in rows]
        left.bar(places, heights, bottom=below, width=0.62, color=color, label=part)
        below = [low + height for low, height in zip(below, heights, strict=True)]
    left.plot(places, [one.reading_s * 1e3 for one in rows], "_", color=INK, markersize=30, label="reading, meanwhile")
    left.set_xticks(places, labels)
    left.set(xlabel="GPUs", ylabel="ms per step")

    first = rows[0]
    per_device = first.records_per_s / first.world_size
    sizes = [one.world_size for one in rows]
    right.plot(sizes, [per_device * size for size in sizes], color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
    right.plot(sizes, [one.records_per_s for one in rows], "o-", color=SERIES[1], linewidth=1.6)
    for one in rows:
        right.annotate(
            f"{one.bottleneck}\n{one.records_per_s:,.0f}",
            (one.world_size, one.records_per_s),
            (0, -10),
            textcoords="offset points",
            fontsize=7.5,
            ha="center",
            va="top",
        )
    right.set(xscale="log", yscale="log", xlabel="GPUs", ylabel="records/s; dashed: in proportion")
    right.set_xticks(sizes, labels)
    right.minorticks_off()
    right.set_ylim(bottom=first.records_per_s / 3)
    right.margins(x=0.12)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=7, frameon=False, fontsize=8)
    figure.suptitle(f"{title}, modelled", x=0.01, ha="left", fontsize=10, color=INK)
    return figure
