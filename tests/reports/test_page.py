"""Pages and Markdown show text from elsewhere as text, and fit a screen."""

import re

import pytest

from lamae.evaluate.statistics import Interval
from lamae.reports.charts import plot_auroc
from lamae.reports.page import Page
from lamae.reports.tables import Table, to_html, to_markdown

HOSTILE = "<script>1</script> | [x](javascript:y) ![](//z) `c` & a\nb \x1b[31mred \u202eabc"
AS_MARKDOWN = (
    r"&lt;script&gt;1&lt;/script&gt; \| [x\](javascript:y) ![\](//z) \`c\` &amp; a\\nb \\x1b[31mred \\u202eabc"
)


def test_a_name_is_nothing_but_text_in_markdown():
    assert to_markdown(HOSTILE) == AS_MARKDOWN
    table = Table("Runs <b>", "Of\n# three", ["name", "<i>AUROC</i>"], [[HOSTILE, "0.9"], ["plain_name", "0.8"]])
    assert table.to_markdown().splitlines() == [
        "## Runs &lt;b&gt;",
        "",
        r"Of\\n# three",
        "",
        "| name | &lt;i&gt;AUROC&lt;/i&gt; |",
        "|---|---|",
        f"| {AS_MARKDOWN} | 0.9 |",
        "| plain_name | 0.8 |",
    ]
    harmless = "0.57 (0.5 to 0.6) [0.93], − 5 %, run_a"
    assert to_markdown(harmless) == harmless


def test_a_name_is_nothing_but_text_on_a_page():
    page = Page(HOSTILE, subtitle=HOSTILE)
    page.section(HOSTILE, lead=HOSTILE)
    page.table([HOSTILE], [[HOSTILE]], caption=HOSTILE)
    found = page.html()
    assert not re.search("<script|\x1b|\u202e", found)
    assert found.count(to_html(HOSTILE)) == 9
    assert to_html('a"b') == "a&quot;b"


def test_a_cell_may_break_before_its_interval_and_not_within():
    page = Page("t")
    page.table(["run", "AUROC"], [["a (not one)", "0.628 (0.292 to 0.910)"]])
    assert '<td>a (not one)</td><td>0.628 <span class="whole">(0.292 to 0.910)</span></td>' in page.html()


@pytest.mark.parametrize("name", ["$x_{$", "100 $", r"\alpha$\frac$"])
def test_a_dollar_sign_in_a_name_is_no_formula(name):
    figure = plot_auroc([name], {name: [Interval(0.6, 0.5, 0.7)]}, xlabel=name)
    figure.canvas.draw()
    assert figure.axes[0].get_xlabel() == name


def test_a_chart_of_more_series_than_colours_shows_them_all():
    names = [f"run {number}" for number in range(9)]
    figure = plot_auroc(["macro"], {name: [Interval(0.6, 0.5, 0.7)] for name in names})
    assert [text.get_text() for text in figure.legends[0].get_texts()] == names
