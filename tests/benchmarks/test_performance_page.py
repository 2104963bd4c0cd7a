"""The pages' figures are those of benchmarks/results: every bold number of a table is a ratio of the named benchmark.

Figures are rounded to the digits that are shown; ``*`` and ``SIZE`` in a row's name stand for any of its ratios.
"""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
FIGURE = re.compile(r"\*\*([0-9.,]+)\*\*(?: \(([0-9.,]+) to ([0-9.,]+)\))?")
PAGES = {"README.md": 6, "docs/performance.md": 14, "docs/scaling.md": 8}
"""At least so many figures; fewer would mean that this no longer finds them."""


def rows():
    """(page, names of ratios, result file, figures) of every table row that names a result and has figures."""
    for page in PAGES:
        for line in (ROOT / page).read_text().splitlines():
            cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
            figures = FIGURE.findall(line)
            command = re.search(r"`lamae bench (\w+)`", line)
            file = re.search(r"\[(\w[\w-]*\.json)\]", line)
            if cells and figures and (command or file):
                name = file.group(1) if file else f"{command.group(1)}.json"
                yield pytest.param(re.findall(r"`([^`]+)`", cells[0]), name, figures, id=f"{page}-{cells[0]}")


def shows(text, value):
    """Whether ``text`` is ``value``, rounded to as many decimals."""
    decimals = len(text.partition(".")[2])
    return abs(float(text.replace(",", "")) - value) <= 0.5000001 * 10**-decimals


@pytest.mark.parametrize(("names", "file", "figures"), rows())
def test_a_row_shows_its_result(names, file, figures):
    result = json.loads((RESULTS / file).read_text())
    pattern = re.compile("|".join(re.escape(name).replace(r"\*", ".+").replace("SIZE", r"\w+") for name in names))
    known = {name: value for name, value in result["ratios"].items() if pattern.fullmatch(name)}
    assert known, f"{file} has no {names}"
    assert not result.get("quick"), f"{file} is of the short form"
    for median, least, most in figures:
        same = [name for name, value in known.items() if shows(median, value)]
        assert same, f"{median} is none of {known}"
        if least:
            spreads = [result["ratio_spread"][name] for name in same]
            assert any(shows(least, low) and shows(most, high) for low, high in spreads), (least, most, spreads)


def test_the_figures_are_found_and_a_drift_would_be():
    for page, fewest in PAGES.items():
        assert sum(len(row.values[2]) for row in rows() if row.id.startswith(page)) >= fewest, page
    assert shows(".43", 0.4251)
    assert not shows(".43", 0.4240)
    assert shows("10.7", 10.689)


def test_no_result_is_of_another_schema_or_of_the_short_form():
    for path in RESULTS.glob("*.json"):
        result = json.loads(path.read_text())
        assert result["schema_version"] == 1, path
        assert result["ratios"], path
