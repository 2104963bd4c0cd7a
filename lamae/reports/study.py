"""The report of a study: tables and two plots, as a page and as Markdown, all numbers in JSON."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lamae.base import files
from lamae.evaluate.statistics import Interval
from lamae.evaluate.values import finite
from lamae.reports.charts import plot_differences, plot_few_labels
from lamae.reports.page import Page
from lamae.reports.tables import Table

READOUT_NAMES = {"mean": "plain mean of the tokens", "record": "the model's own pooled embedding"}
DIFFERENCES_NAME, FEW_LABELS_NAME = "differences.png", "few-labels.png"


def write_study_report(results: Mapping[str, Any], out: Path) -> None:
    """Write ``results.json``, ``report.html``, ``report.md`` and the plots below ``out``.

    ``results`` is what ``lamae.study.results.collect`` gives.
    """
    page = Page("Study", subtitle=_subtitle(results))
    first_table, *tables = _tables(results)
    page.add(first_table)
    page.figure(
        plot_differences(_differences(results), width=8.0),
        caption="Differences in macro AUROC under the common read-out; filled where the interval excludes 0.",
        file=out / DIFFERENCES_NAME,
    )
    curves = {task: curve for task in results["plan"]["tasks"] if (curve := _few_labels(task, results))}
    if curves:
        page.figure(
            plot_few_labels(curves, width=4.2 * len(curves)),
            caption="Macro AUROC by share of the training subjects whose labels are used, common read-out.",
            file=out / FEW_LABELS_NAME,
        )
    for table in tables:
        page.add(table)
    page.write(out / "report.html")
    page.write_markdown(out / "report.md")
    files.write_json(out / "results.json", finite(results))


def _subtitle(results: Mapping[str, Any]) -> str:
    plan, costs = results["plan"], results["costs"]
    machine = results["machine"]["machine"]
    seeds = "; ".join(f"{stage}: seeds {', '.join(map(str, of))}" for stage, of in results["seeds"].items() if of)
    tasks = ", ".join(results["over_subjects_alone"])
    alone = f" (of {tasks} over subjects alone, for want of two seeds on the same subjects)" if tasks else ""
    return (
        f"{len(plan['methods'])} methods; {seeds}; {costs['num_runs']} runs, "
        f"{costs['cpu_hours']:.1f} CPU hours on {machine['device']}. Intervals: 95 %, hierarchical bootstrap over "
        f"seeds and subjects{alone}; a tie is a difference whose interval covers 0. Tables named all comparisons "
        "together are corrected for the number of their differences; no other is."
    )


def _tables(results: Mapping[str, Any]) -> list[Table]:
    tasks = results["plan"]["tasks"]
    budgets = dict.fromkeys(entry["budget"] for entry in results["headline"])
    tables = [_headline_table(readout, budget, results) for budget in budgets for readout in READOUT_NAMES]
    tables += [_comparison_table(task, readout, results) for task in tasks for readout in READOUT_NAMES]
    tables += [_few_label_table(task, results) for task in tasks]
    tables += [_readout_table(results)]
    tables += [_code_table(task, by_name) for task, by_name in results["codes"].items()]
    if results["plan"]["sweep"]:
        tables += [_sweep_table(entry) for entry in results["sweep"]]
    tables += [_reconstruction_table(results), _search_table(results), _cost_table(results)]
    return [table for table in tables if table.rows]


def _headline_table(readout: str, budget: str, results: Mapping[str, Any]) -> Table:
    first = next(iter(results["plan"]["methods"]))
    entries = [one for one in results["headline"] if (one["readout"], one["budget"]) == (readout, budget)]
    cells = {(one["task"], one["name"]): f"{one['difference']:+.3f}, {one['verdict']}" for one in entries}
    names = list(dict.fromkeys(one["name"] for one in entries))
    return Table(
        f"All comparisons together: {READOUT_NAMES[readout]}, {budget}",
        f"Macro AUROC of {first} minus that of each, all labels. The {len(entries)} intervals of this table cover "
        "their truths at once in 95 % of cases: they are wider than those further down, each of which stands alone.",
        ["task", *names],
        [[task, *(cells.get((task, name), "–") for name in names)] for task in results["plan"]["tasks"]],
    )


def _comparison_table(task: str, readout: str, results: Mapping[str, Any]) -> Table:
    first, unknown = next(iter(results["plan"]["methods"])), results["unknown_patients"][task]
    rows = []
    for entry in _comparisons(results, task=task, readout=readout, labels=1.0):
        for row in entry["rows"]:
            if entry["budget"] == "equal records" or row["name"] != first:
                budget = "reference" if row["reference"] else entry["budget"]
                rows.append([row["name"], budget, str(row["macro_auroc"]), *_gap_cells(row)])
    return Table(
        f"{task}: {READOUT_NAMES[readout]}",
        f"Macro AUROC of probes on frozen embeddings, and {first} minus each."
        + (f" Warning: {unknown}; one patient may be scored and fitted on." if unknown else ""),
        ["method", "budget", "macro AUROC (95 %)", f"{first} minus it (95 %)", f"{first} is"],
        rows,
    )


def _few_label_table(task: str, results: Mapping[str, Any]) -> Table:
    by_name: dict[str, dict[float, str]] = {}
    for entry in _comparisons(results, task=task, readout="mean", budget="equal records"):
        for row in entry["rows"]:
            gap = f"; {row['difference']:+.3f}" if "difference" in row else ""
            by_name.setdefault(row["name"], {})[entry["labels"]] = f"{row['macro_auroc'].value:.3f}{gap}"
    shares = list(next(iter(by_name.values())))
    return Table(
        f"{task}: few labels",
        "Macro AUROC by share of the training subjects, common read-out; after the semicolon the first minus it.",
        ["method", *(f"{share:.0%}" for share in shares)],
        [[name, *cells.values()] for name, cells in by_name.items()] if len(shares) > 1 else [],
    )


def _readout_table(results: Mapping[str, Any]) -> Table:
    by_row: dict[tuple[str, str], dict[str, str]] = {}
    for entry in results["readouts"]:
        cell = f"{entry['difference']:+.3f}, {entry['verdict']}"
        by_row.setdefault((entry["task"], entry["name"]), {})[f"{entry['labels']:.0%}"] = cell
    shares = list(dict.fromkeys(share for cells in by_row.values() for share in cells))
    return Table(
        "Pooled embedding minus mean of the tokens",
        "Macro AUROC of a method's own pooled embedding minus that of the mean of its tokens, by share of the labels.",
        ["task", "method", *shares],
        [[*of, *(cells.get(share, "–") for share in shares)] for of, cells in by_row.items()],
    )


def _code_table(task: str, by_name: Mapping[str, Any]) -> Table:
    codes = list(next(iter(by_name.values())))
    unknown = [code for code in codes if any(math.isnan(values[code].low) for values in by_name.values())]
    note = f" Without an interval, so in no mean while others have one: {', '.join(unknown)}." if unknown else ""
    return Table(
        f"{task}: by code",
        f"AUROC at equal records, common read-out.{note}",
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


def _gap_cells(row: Mapping[str, Any]) -> list[str]:
    return [f"{row['difference']:+.3f}", row["difference"].verdict] if "difference" in row else ["–", "–"]


def _reconstruction_table(results: Mapping[str, Any]) -> Table:
    return Table.of(
        "Reconstruction of scored records",
        "Mean squared error over that of the best trivial predictor, and over that of linear regression from the "
        "leads visible at the same instant; below 1 is better than they are. A method that predicts "
        "no wholly hidden lead has no row there.",
        ({**row, "rmse": row["mse"] ** 0.5} for row in results["reconstruction"]),
        {
            "method": "{method}",
            "mask": "{mask}",
            "what": "{situation}",
            "leads": "{leads}",
            "RMSE": "{rmse:.3f} {unit}",
            "best trivial": "{best_trivial}",
            "over it (95 %)": "{ratio_to_best_trivial}",
            "over linear (95 %)": "{ratio_to_linear}",
        },
    )


def _search_table(results: Mapping[str, Any]) -> Table:
    choices = results["choices"]
    chosen = {(method, choice["mask"], choice["lr"]) for method, choice in choices.items()}
    entries = sorted(results["search"], key=lambda entry: list(choices).index(entry["method"]))
    return Table.of(
        "Search",
        "Macro AUROC on the val split alone, one seed; * is what the method then uses.",
        ({**e, "star": " *" if (e["method"], e["mask"], e["lr"]) in chosen else ""} for e in entries),
        {
            "method": "{method}",
            "mask": "{mask}",
            "learning rate": "{lr:g}",
            "val macro AUROC": "{val_macro_auroc:.3f}{star}",
        },
    )


def _cost_table(results: Mapping[str, Any]) -> Table:
    return Table.of(
        "Costs",
        "Training arithmetic counted from the configuration; CPU seconds of training per run, mean over seeds.",
        results["costs"]["rows"],
        {
            "run": "{name}",
            "budget": "{stage}",
            "mask": "{mask}",
            "learning rate": "{lr:g}",
            "steps": "{steps:,}",
            "records": "{records:,}",
            "GFLOP a record": "{gflops_per_record:.3f}",
            "TFLOP a run": "{tflops_per_run:.2f}",
            "CPU s": "{train_cpu_s:.0f}",
        },
    )


def _differences(results: Mapping[str, Any]) -> dict[str, dict[str, Interval]]:
    """For every task: the first method minus each other, and every change of the sweep minus the base."""
    first = next(iter(results["plan"]["methods"]))
    panels = {}
    for task in results["plan"]["tasks"]:
        panels[f"{task}: {first} minus"] = {
            row["name"] if row["reference"] else f"{row['name']}, {entry['budget']}": row["difference"]
            for entry in _comparisons(results, task=task, readout="mean", labels=1.0)
            for row in entry["rows"]
            if "difference" in row
        }
        panels[f"{task}: change minus base"] = {
            row["name"]: row["difference"]
            for entry in results["sweep"]
            for row in entry["rows"]
            if (entry["task"], entry["readout"]) == (task, "mean") and "difference" in row
        }
    return {title: rows for title, rows in panels.items() if rows}


def _few_labels(task: str, results: Mapping[str, Any]) -> dict[str, dict[float, Interval]]:
    """Curves of a task by method; empty where all labels are used throughout."""
    curves: dict[str, dict[float, Interval]] = {}
    for entry in _comparisons(results, task=task, readout="mean", budget="equal records"):
        for row in entry["rows"]:
            curves.setdefault(row["name"], {})[entry["labels"]] = row["macro_auroc"]
    return curves if any(len(by_share) > 1 for by_share in curves.values()) else {}


def _comparisons(results: Mapping[str, Any], **wanted: Any) -> list[Mapping[str, Any]]:
    return [entry for entry in results["comparisons"] if all(entry[key] == value for key, value in wanted.items())]
