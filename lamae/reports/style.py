"""One look for all figures: a light page, thin axes, a few colours that stay apart for colour-blind readers."""

from typing import Any

import matplotlib

INK = "#1c2330"
MUTED = "#7b8494"
RULE = "#d9dde4"
HIDDEN = "#e9eef6"
ACCENT = "#c8102e"
# After Okabe and Ito: distinguishable with any common colour vision.
SERIES = ("#c8102e", "#0072b2", "#009e73", "#e69f00", "#7a5195", "#56b4e9", "#8a8f98")

# Names of runs and codes are text, dollar signs included.
matplotlib.rcParams["text.parse_math"] = False


def style_axes(ax: Any, *, grid: str = "y") -> None:
    """Thin left and bottom spines, quiet grid lines at the ticks of axis ``grid`` ("" for none)."""
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(RULE)
    ax.tick_params(colors=MUTED, labelcolor=INK, length=3, width=0.6, labelsize=9)
    if grid:
        ax.grid(axis=grid, color=RULE, linewidth=0.6)
        ax.set_axisbelow(True)
