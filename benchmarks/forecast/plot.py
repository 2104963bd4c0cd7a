"""A forecast as a picture: what a step's time goes to and what more devices bring. All of it modelled."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

from lamae.benchmarks.forecast.forecast import Forecast
from lamae.reports.charts import WIDTH, log_scale, new_charts
from lamae.reports.style import INK, MUTED, SERIES


def save_plot(rows: Sequence[Forecast], path: Path, *, title: str) -> None:
    """Left, a step's milliseconds by what they go to; right, records per second beside perfect scaling. The suffix of
    ``path`` names the format."""
    figure, (left, right) = new_charts(WIDTH, 4.0, columns=2)
    sizes, rates = [one.gpus for one in rows], [one.records_per_s for one in rows]
    labels, below = [f"{size:,}" for size in sizes], [0.0] * len(rows)
    for part, color in zip(rows[0].parts_s, cycle(SERIES), strict=False):
        heights = [one.parts_s[part] * 1e3 for one in rows]
        left.bar(labels, heights, bottom=below, width=0.62, color=color, label=part)
        below = [low + height for low, height in zip(below, heights, strict=True)]
    left.plot(labels, [one.reading_s * 1e3 for one in rows], "_", color=INK, markersize=30, label="reading, meanwhile")
    left.set(xlabel="GPUs", ylabel="ms per step")
    right.plot(sizes, [rates[0] / sizes[0] * size for size in sizes], color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
    right.plot(sizes, rates, "o-", color=SERIES[1], linewidth=1.6)
    for one, size, rate in zip(rows, sizes, rates, strict=True):
        text = f"{one.bottleneck}\n{rate:,.0f}"
        right.annotate(text, (size, rate), (0, -10), textcoords="offset points", fontsize=7.5, ha="center", va="top")
    right.set(xscale="log", xlabel="GPUs", ylabel="records/s; dashed: in proportion")
    right.set_xticks(sizes, labels)
    right.minorticks_off()
    right.set_ylim(bottom=rates[0] / 3)
    log_scale(right, "y")
    right.margins(x=0.12)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=7, frameon=False, fontsize=8)
    figure.suptitle(f"{title}, modelled", x=0.01, ha="left", fontsize=10, color=INK)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
