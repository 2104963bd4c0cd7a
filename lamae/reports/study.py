"""The report of a study: tables and two plots, as a page and as Markdown, all numbers in JSON."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from lamae.base import files
from lamae.evaluate.statistics import Interval
from lamae.reports.charts import new_chart
from lamae.reports.page import Page
from lamae.reports.style import INK, RULE, SERIES, style_axes
from lamae.reports.tables import Table, to_markdown
from lamae.reports.values import finite

READOUT_NAMES = {"mean": "plain mean of the tokens", "record": "the model's own pooled embedding"}
DIFFERENCES_NAME, FEW_LABELS_NAME = "differences.png", "few-labels.png"
DPI = 100


def write_study_report(results: Mapping[str, Any], out: Path) -> None:
    """Write ``results.json``, ``report.html``, ``report.md`` and the plots below ``out``.

    ``results`` is what ``lamae.study.results.collect`` gives.
    """
    tables = _tables(results)
    figures = {DIFFERENCES_NAME: _plot_differences(results)}
    if any(row["labels"] < 1 for row in results["comparisons"]):
        figures[FEW_LABELS_NAME] = _plot_few_labels(results)
    for name, figure in figures.items():
        figure.savefig(out / name, dpi=DPI, metadata={"Software": None})
    page = Page("Study", subtitle=_subtitle(results))
    for number, table in enumerate(tables):
        page.section(table.title, lead=table.note)
        page.table(table.heads, table.rows)
        if number == 0:
            for name, figure in figures.items():
                page.figure(figure, caption=_CAPTIONS[name])
    page.write(out / "report.html")
    files.write_text(out / "report.md", _markdown(results, tables, figures))
    files.write_json(out / "results.json", finite(results))


def _subtitle(results: Mapping[str, Any]) -> str:
    plan, costs = results["plan"], results["costs"]
    machine = results["machine"]["machine"]
    seeds = "; ".join(f"{stage}: seeds {', '.join(map(str, of))}" for stage, of in results["seeds"].items() if of)
    return (
        f"{len(plan['methods'])} methods; {seeds}; {costs['num_runs']} runs, "
        f"{costs['cpu_hours']:.1f} CPU hours on {machine['device']}. Intervals: 95 %, hierarchical bootstrap over "
        "seeds and subjects; a tie is a difference whose interval covers 0."
    )


_CAPTIONS = {
    DIFFERENCES_NAME: "Differences in macro AUROC under the common read-out; filled where the interval excludes 0.",
    FEW_LABELS_NAME: "Macro AUROC by share of the training subjects whose labels are used, common read-out.",
}


def _tables(results: Mapping[str, Any]) -> list[Table]:
    tables = [
        _comparison_table(task, readout, results) for task in results["plan"]["tasks"] for readout in READOUT_NAMES
    ]
    tables += [_few_label_table(task, results) for task in results["plan"]["tasks"]]
    tables += [_code_table(task, by_name) for task, by_name in results["codes"].items()]
    if results["plan"]["sweep"]:
        tables += [_sweep_table(entry) for entry in results["sweep"]]
    tables += [_reconstruction_table(results), _search_table(results), _cost_table(results)]
    return [table for table in tables if table.rows]


def _comparison_table(task: str, readout: str, results: Mapping[str, Any]) -> Table:
    first = next(iter(results["plan"]["methods"]))
    rows = []
    for entry in results["comparisons"]:
        if (entry["task"], entry["readout"], entry["labels"]) != (task, readout, 1.0):
            continue
        for row in entry["rows"]:
            if entry["budget"] != "equal records" and row["name"] == first:
                continue
            budget = "reference" if row["reference"] else entry["budget"]
            rows.append([row["name"], budget, str(row["macro_auroc"]), *_gap_cells(row)])
    return Table(
        f"{task}: {READOUT_NAMES[readout]}",
        f"Macro AUROC of probes on frozen embeddings, and {first} minus each.",
        ["method", "budget", "macro AUROC (95 %)", f"{first} minus it (95 %)", f"{first} is"],
        rows,
    )


def _few_label_table(task: str, results: Mapping[str, Any]) -> Table:
    entries = [e for e in _comparisons(results, task=task, readout="mean") if e["budget"] == "equal records"]
    shares = [entry["labels"] for entry in entries]
    rows = []
    for number, name in enumerate(row["name"] for row in entries[0]["rows"]):
        cells = []
        for entry in entries:
            row = entry["rows"][number]
            gap = f"; {row['difference']:+.3f}" if "difference" in row else ""
            cells.append(f"{row['macro_auroc'].value:.3f}{gap}")
        rows.append([name, *cells])
    return Table(
        f"{task}: few labels",
        "Macro AUROC by share of the training subjects, common read-out; after the semicolon the first minus it.",
        ["method", *(f"{share:.0%}" for share in shares)],
        rows if len(shares) > 1 else [],
    )


def _code_table(task: str, by_name: Mapping[str, Any]) -> Table:
    codes = list(next(iter(by_name.values())))
    return Table(
        f"{task}: by code",
        "AUROC at equal records, common read-out.",
        ["method", *codes],
        [[name, *(str(values[code]) for code in codes)] for name, values in by_name.items()],
    )


def _sweep_table(entry: Mapping[str, Any]) -> Table:
    return Table(
        f"sweep, {entry['task']}: {READOUT_NAMES[entry['readout']]}",
        "One change at a time; each change minus the base.",
        ["change", "macro AUROC (95 %)", "minus the base (95 %)", "it is"],
        [[row["name"], str(row["macro_auroc"]), *_gap_cells(row)] for row in entry["rows"]],
    )


def _reconstruction_table(results: Mapping[str, Any]) -> Table:
    return Table(
        "Reconstruction of scored records",
        "Mean squared error over that of the best trivial predictor, and over that of linear regression from the "
        "leads visible at the same instant; below 1 is better than they are. A method that predicts "
        "no wholly hidden lead has no row there.",
        ["method", "mask", "what", "leads", "RMSE, µV", "best trivial", "over it (95 %)", "over linear (95 %)"],
        [
            [
                row["method"],
                row["mask"],
                row["situation"],
                row["leads"],
                f"{1000 * row['mse_mv2'] ** 0.5:.0f}",
                row["best_trivial"],
                str(row["ratio_to_best_trivial"]),
                str(row["ratio_to_linear"]),
            ]
            for row in results["reconstruction"]
        ],
    )


def _search_table(results: Mapping[str, Any]) -> Table:
    chosen = {(method, choice["mask"], choice["lr"]) for method, choice in results["choices"].items()}
    return Table(
        "Search",
        "Macro AUROC on the val split alone, one seed; * is what the method then uses.",
        ["method", "mask", "learning rate", "val macro AUROC"],
        [
            [
                entry["method"],
                entry["mask"],
                f"{entry['lr']:g}",
                f"{entry['val_macro_auroc']:.3f}"
                + (" *" if (entry["method"], entry["mask"], entry["lr"]) in chosen else ""),
            ]
            for entry in sorted(results["search"], key=lambda e: list(results["choices"]).index(e["method"]))
        ],
    )


def _cost_table(results: Mapping[str, Any]) -> Table:
    return Table(
        "Costs",
        "Training arithmetic counted from the configuration; CPU seconds of training per run, mean over seeds.",
        ["run", "budget", "mask", "learning rate", "steps", "records", "GFLOP a record", "TFLOP a run", "CPU s"],
        [
            [
                row["name"],
                row["stage"],
                row["mask"],
                f"{row['lr']:g}",
                f"{row['steps']:,}",
                f"{row['records']:,}",
                f"{row['gflops_per_record']:.3f}",
                f"{row['tflops_per_run']:.2f}",
                f"{row['train_cpu_s']:.0f}",
            ]
            for row in results["costs"]["rows"]
        ],
    )


def _markdown(results: Mapping[str, Any], tables: Sequence[Table], figures: Mapping[str, Figure]) -> str:
    parts = ["# Study", to_markdown(_subtitle(results)), *(f"![{_CAPTIONS[name]}]({name})" for name in figures)]
    return "\n\n".join([*parts, *(table.to_markdown() for table in tables)]) + "\n"


def _plot_differences(results: Mapping[str, Any]) -> Figure:
    """For every task: the first method minus each other, and every change of the sweep minus the base."""
    first = next(iter(results["plan"]["methods"]))
    panels: list[tuple[str, list[tuple[str, Interval]]]] = []
    for task in results["plan"]["tasks"]:
        rows = [
            (row["name"] if row["reference"] else f"{row['name']}, {entry['budget']}", row["difference"])
            for entry in _comparisons(results, task=task, readout="mean", labels=1.0)
            for row in entry["rows"]
            if "difference" in row
        ]
        panels.append((f"{task}: {first} minus", rows))
        rows = [
            (row["name"], row["difference"])
            for entry in results["sweep"]
            for row in entry["rows"]
            if (entry["task"], entry["readout"]) == (task, "mean") and "difference" in row
        ]
        if rows:
            panels.append((f"{task}: change minus base", rows))
    height = sum(0.9 + 0.24 * len(rows) for _, rows in panels)
    figure, ax = new_chart(8.0, height)
    ax.remove()
    axes = figure.subplots(
        len(panels), 1, squeeze=False, gridspec_kw={"height_ratios": [0.9 + 0.24 * len(rows) for _, rows in panels]}
    )[:, 0]
    for ax, (title, rows) in zip(axes, panels, strict=True):
        style_axes(ax, grid=False)
        ax.grid(axis="x", color=RULE, linewidth=0.6)
        ax.axvline(0, color=INK, linewidth=0.9)
        for y, (_, gap) in enumerate(rows):
            color = SERIES[0] if gap.value > 0 else SERIES[1]
            ax.hlines(y, gap.low, gap.high, color=color, linewidth=1.5, alpha=0.65)
            filled = color if gap.excludes_zero else "white"
            ax.plot(gap.value, y, "o", color=color, markersize=5, markerfacecolor=filled)
        ax.set_yticks(range(len(rows)), [name for name, _ in rows])
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.set_title(title, fontsize=10, loc="left")
    return figure


def _plot_few_labels(results: Mapping[str, Any]) -> Figure:
    tasks = [
        task
        for task in results["plan"]["tasks"]
        if any(e["labels"] < 1 for e in _comparisons(results, task=task, readout="mean"))
    ]
    figure, ax = new_chart(4.2 * len(tasks), 3.2)
    ax.remove()
    for ax, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        style_axes(ax)
        entries = [e for e in _comparisons(results, task=task, readout="mean") if e["budget"] == "equal records"]
        for number, row in enumerate(entries[0]["rows"]):
            values = [entry["rows"][number]["macro_auroc"].value for entry in entries]
            color = SERIES[number % len(SERIES)]
            ax.plot([entry["labels"] for entry in entries], values, "o-", color=color, markersize=4, label=row["name"])
        ax.set_xscale("log")
        ax.set_xticks([e["labels"] for e in entries], [f"{e['labels']:.0%}" for e in entries])
        ax.minorticks_off()
        ax.set(title=task, xlabel="training subjects with labels", ylabel="macro AUROC")
    ax.legend(frameon=False, fontsize=8)
    return figure


def _comparisons(results: Mapping[str, Any], **wanted: Any) -> list[Mapping[str, Any]]:
    return [entry for entry in results["comparisons"] if all(entry[key] == value for key, value in wanted.items())]


def _gap_cells(row: Mapping[str, Any]) -> list[str]:
    return [f"{row['difference']:+.3f}", row["verdict"]] if "difference" in row else ["–", "–"]
