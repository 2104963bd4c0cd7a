"""The pages' figures are those of benchmarks/results: every bold number of a table is a ratio of the named benchmark.

A column whose heading is the name of a machine, a folder of results, has that machine's figures; elsewhere the row
links the file. Figures are rounded to the digits that are shown; ``*`` and ``SIZE`` in a row's name stand for any of
its ratios.
"""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
FIGURE = re.compile(r"\*\*([0-9.,]+)\*\*(?: \(([0-9.,]+) to ([0-9.,]+)\))?")
LINK = re.compile(r"benchmarks/results/([\w-]+/[\w-]+\.json)\)")
PAGES = {"docs/performance.md": 30, "docs/scaling.md": 8}
"""At least so many figures; fewer would mean that this no longer finds them."""


def rows():
    """(page, names of ratios, result file, figures) of every cell of a table that has figures of a known result."""
    for page in PAGES:
        headings = []
        for line in (ROOT / page).read_text().splitlines():
            cells = [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
            if not cells or not headings:
                headings = [cell.lower() for cell in cells]
                continue
            command, link = re.search(r"`lamae bench (\w+)`", line), LINK.search(line)
            for heading, cell in zip(headings, cells, strict=True):
                figures = FIGURE.findall(cell)
                file = None
                if command and (RESULTS / heading).is_dir() and heading:
                    file = f"{heading}/{command.group(1)}.json"
                elif link:
                    file = link.group(1)
                if figures and file:
                    names = re.findall(r"`([^`]+)`", cells[0])
                    yield pytest.param(names, file, figures, id=f"{page}-{cells[0]}-{heading}")


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


@pytest.mark.parametrize(
    ("words", "file", "name"),
    [
        ("10.5 times (10.1 to 14.7)", "epyc/shard.json", "full_qc_vs_naive"),
        ("8.5 times as fast as the best other loader at hand (8.1 to 9.6)", "epyc/loader.json", "vs_best_peer"),
        (".83 of the machine's fastest matrix product (.80 to .85)", "epyc/step.json", "mfu_base_bf16"),
        ("AMX it reaches .33", "xeon/step.json", "mfu_base_bf16"),
    ],
)
def test_the_readmes_sentences_show_their_results(words, file, name):
    assert words in " ".join((ROOT / "README.md").read_text().split())
    result = json.loads((RESULTS / file).read_text())
    figures = re.findall(r"\d*\.\d+", words)
    expected = [result["ratios"][name], *result["ratio_spread"][name]]
    assert all(shows(text, value) for text, value in zip(figures, expected, strict=False))


def test_no_result_is_of_another_schema():
    assert len(list(RESULTS.glob("*/*.json"))) > 10
    for path in RESULTS.glob("*/*.json"):
        result = json.loads(path.read_text())
        assert result["schema_version"] == 1, path
        assert result["ratios"], path
