"""Results as one Markdown page with charts: per benchmark its ratios with their spread, its rates, and where it ran."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lamae.base import files
from lamae.base.errors import UsageError
from lamae.benchmarks.result import BENCHMARKS, spread_of_rates, spread_of_ratios
from lamae.reports.tables import markdown_table


def write_report(results: Iterable[dict[str, Any]], out: Path) -> None:
    """The page at ``out``, its charts in a folder of the same name beside it (``report.md``, ``report/``)."""
    from lamae.benchmarks.plots import save_plots

    folder = out.with_suffix("")
    if folder == out:
        raise UsageError(f"--out {out}: charts go into a folder of that name; give the page a suffix, such as .md")
    singles, failed = _collect(results)
    charts = {
        name: [f"{folder.name}/{path.name}" for path in save_plots(result, folder)] for name, result in singles.items()
    }
    with files.writing(out, UsageError):
        files.write_text(out, _page(singles, failed, charts))


def render_report(results: Iterable[dict[str, Any]]) -> str:
    """Markdown of single and combined results, without charts."""
    return _page(*_collect(results), {})


def _collect(results: Iterable[dict[str, Any]]) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Single results by benchmark, in the order of BENCHMARKS, and what failed; the last of two of a name counts."""
    singles: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    for result in results:
        singles |= result["results"] if "results" in result else {result["benchmark"]: result}
        failed |= result.get("failed", {})
    names = [*BENCHMARKS, *sorted(singles.keys() - BENCHMARKS)]
    return {name: singles[name] for name in names if name in singles}, failed


def _page(singles: Mapping[str, dict[str, Any]], failed: Mapping[str, str], charts: Mapping[str, Iterable[str]]) -> str:
    parts = ["# Benchmarks", *(_section(result, charts.get(name, ())) for name, result in singles.items())]
    if failed:
        parts.append("## Failed\n\n" + "\n".join(f"- {name}: {message}" for name, message in failed.items()))
    return "\n\n".join(parts) + "\n"


def _section(result: dict[str, Any], charts: Iterable[str]) -> str:
    name = result["benchmark"]
    parts = [f"## {name}", f"{BENCHMARKS.get(name, '')}. {_circumstances(result)}".lstrip(". ")]
    if result["quick"]:
        parts.append("**Short form: these figures only show that the benchmark works.**")
    parts += [f"**{note}.**" for note in result.get("notes", ())]
    for heads, spreads in (
        (["ratio", "median", "spread"], spread_of_ratios(result)),
        (["measured", "per second", "spread"], spread_of_rates(result)),
    ):
        figures = {each: [*map(format_number, values)] for each, values in spreads.items()}
        rows = [[each, median, f"{least} to {most}"] for each, (median, least, most) in figures.items()]
        parts += [markdown_table(heads, rows)] if rows else []
    parts += [f"![{name}]({chart})" for chart in charts]
    command = result.get("command") or f"lamae bench {name}{' --quick' if result['quick'] else ''}"
    parts.append(f"`{command}`")
    return "\n\n".join(parts)


def _circumstances(result: dict[str, Any]) -> str:
    hardware, versions = result["hardware"], result["versions"]
    gpus = ", ".join(hardware["gpus"]) or "no GPU"
    return (
        f"{hardware['processor']}, {hardware['cores']} cores, {hardware['memory_gib']} GiB, {gpus}; "
        f"Python {versions['python']}, torch {versions['torch']}; revision {result['revision']}; "
        f"{result['wall_s']:.0f} s."
    )


def format_number(value: float) -> str:
    """Three significant digits, thousands separated: 0.0123, 1.23, 123, 12,345."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"
