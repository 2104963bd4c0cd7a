"""Charts that several reports share."""

import pytest

from lamae.reports.charts import log_scale, new_charts


@pytest.mark.parametrize("values", [(0.002, 40_000.0), (0.3, 2.0), (1.0, 1_000_000.0), (0.08, 0.12)])
@pytest.mark.parametrize("which", ["x", "y"])
def test_the_ticks_of_a_logarithmic_axis_are_plain_numbers(values: tuple[float, float], which: str) -> None:
    figure, (ax,) = new_charts(6, 4)
    ax.plot(values, values)
    log_scale(ax, which)
    figure.draw_without_rendering()
    axis, (low, high) = getattr(ax, f"{which}axis"), getattr(ax, f"get_{which}lim")()
    labels = [label.get_text() for label in axis.get_ticklabels(which="both")]
    shown = [float(label.replace(",", "")) for label in labels if label]
    assert sum(low <= tick <= high for tick in shown) >= (2 if high > 5 * low else 1)
