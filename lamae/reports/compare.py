"""The comparison report: tables and plots on one page, the same tables in Markdown, all numbers in JSON."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lamae.base import files
from lamae.base.leads import LEADS
from lamae.evaluate.compare import Comparison
from lamae.evaluate.labels.groups import code_groups
from lamae.evaluate.probe.fewlabels import FewLabelCurve, curve_difference
from lamae.evaluate.probe.result import ProbeResult, difference
from lamae.evaluate.reconstruct.reconstruction import MODEL, SITUATIONS, ReconstructionErrors
from lamae.evaluate.reconstruct.trivial import LINEAR, TRIVIAL
from lamae.reports.charts import new_chart, plot_auroc, plot_bars, plot_differences
from lamae.reports.page import Page
from lamae.reports.style import INK, SERIES
from lamae.reports.tables import Table, to_markdown
from lamae.reports.values import finite

MAX_CODES_SHOWN = 30
FINETUNED = "Fine-tuned, and supervised from scratch"
METRICS = ("auprc", "f1", "brier")
GROUPS = ("I, II", "V1-V6", "I, II, V1-V6", "derived")


def write_comparison(comparison: Comparison, out: Path) -> dict[str, Any]:
    """Write ``out/compare.html``, ``compare.md`` and ``compare.json``; returns what the last holds."""
    tables = _tables(comparison)
    _page(comparison, tables).write(out / "compare.html")
    files.write_text(out / "compare.md", _markdown(comparison, tables))
    summary = _summary(comparison)
    files.write_json(out / "compare.json", finite(summary))
    return summary


def _tables(comparison: Comparison) -> list[Table]:
    record = comparison.probes["record"]
    first = next(iter(record))
    tables = [_probe_table(comparison, readout) for readout, probes in comparison.probes.items() if probes]
    tables += [_finetuned_table(comparison), _codes_table(comparison)]
    tables.append(
        Table(
            "Groups of codes",
            "Macro AUROC of groups fixed beforehand, model's own read-out.",
            ["method", *code_groups(record[first].codes)],
            [[name, *map(str, result.by_group().values())] for name, result in record.items()],
        )
    )
    fractions = list(comparison.curves[first].results)
    tables.append(
        Table(
            "Few labels",
            "Macro AUROC by share of training subjects; mean over seeds, intervals over seeds and subjects.",
            ["method", *(f"{fraction:.0%}" for fraction in fractions)],
            [[name, *(str(curve.macro(f)) for f in fractions)] for name, curve in comparison.curves.items()]
            + [
                [
                    f"{first} − {name}",
                    *(f"{curve_difference(comparison.curves[first], curve, f):+.3f}" for f in fractions),
                ]
                for name, curve in comparison.curves.items()
                if name != first
            ],
        )
    )
    subsets = list(comparison.robustness[first])
    tables.append(
        Table(
            "Missing leads",
            "Macro AUROC of the probe fitted on twelve leads when the test records show fewer.",
            ["run", *subsets],
            [[name, *(str(found[s].macro) for s in subsets)] for name, found in comparison.robustness.items()],
        )
    )
    for kind, by_run in comparison.reconstruction.items():
        tables += [_reconstruction_table(kind, by_run), _predictors_table(kind, by_run)]
    return [table for table in tables if len(table.heads) > 1 and table.rows]


def _probe_table(comparison: Comparison, readout: str) -> Table:
    probes = comparison.probes[readout]
    first = probes[next(iter(probes))]
    rows = []
    for name, result in probes.items():
        gap = "–" if result is first else f"{difference(first, result).macro:+.3f}"
        knn = comparison.knn[name].macro if readout == "record" else None
        rows.append(
            [
                name,
                str(result.macro),
                gap,
                f"{result.micro_auroc:.3f}",
                *(str(result.macro_metric(metric)) for metric in METRICS),
                str(knn) if knn else "–",
                result.contamination,
            ]
        )
    return Table(
        {"record": "Frozen embeddings, the model's own read-out", "mean": "Frozen embeddings, mean of tokens"}[readout],
        f"{first.num_train:,} training, {first.num_val:,} validation, {len(first.test_rows):,} test records of "
        f"{first.num_test_subjects:,} subjects; {len(first.codes)} codes"
        + (f", {len(first.left_out)} left out for having one class" if first.left_out else "")
        + ". Intervals: 95 %, bootstrap over test subjects; differences are paired.",
        [
            "method",
            "macro AUROC (95 %)",
            f"{first.name} minus it",
            "micro AUROC",
            "AUPRC",
            "F1",
            "Brier",
            "kNN macro AUROC",
            "test subjects in pretraining",
        ],
        rows,
    )


def _finetuned_table(comparison: Comparison) -> Table:
    """Rows of whole models trained on the labels, and the frozen ones to hold them against."""
    tuned = comparison.finetuned
    frozen = {f"{name}, frozen": result for name, result in comparison.probes["record"].items()} if tuned else {}
    first = next(iter(tuned.values()), None)
    rows = [
        [
            name,
            str(result.macro),
            "–" if result is first or first is None else f"{difference(first, result).macro:+.3f}",
            *(str(result.macro_metric(metric)) for metric in METRICS),
            result.contamination,
        ]
        for name, result in {**tuned, **frozen}.items()
    ]
    return Table(
        FINETUNED,
        "Trained as a whole on training labels, beside logistic regression on frozen embeddings; same test records.",
        [
            "method",
            "macro AUROC (95 %)",
            f"{first.name} minus it" if first else "",
            "AUPRC",
            "F1",
            "Brier",
            "test subjects in pretraining",
        ],
        rows,
    )


def _codes_table(comparison: Comparison) -> Table:
    """AUROC of the codes that the first method reads best, and its differences to the others."""
    record = comparison.probes["record"]
    first = next(iter(record.values()))
    codes = _best_codes(first)
    gaps = {name: difference(first, other).by_code() for name, other in record.items() if other is not first}
    return Table(
        "AUROC by code",
        f"Model's own read-out, paired differences to the others{_cut(first.codes)}.",
        ["code", "prevalence", first.name, *(f"{first.name} − {name}" for name in gaps)],
        [
            [
                code,
                f"{first.prevalence[code]:.3f}",
                str(first.by_code()[code]),
                *(f"{gap[code]:+.3f}" for gap in gaps.values()),
            ]
            for code in codes
        ],
    )


def _best_codes(result: ProbeResult) -> list[str]:
    by_code = result.by_code()
    return sorted(result.codes, key=lambda code: -by_code[code].value)[:MAX_CODES_SHOWN]


def _predictors_table(kind: str, by_run: Mapping[str, ReconstructionErrors]) -> Table:
    """What the ratios are made of: the error of every run and of every predictor that needs no model."""
    unit = next(iter(by_run.values())).unit if by_run else ""
    rows = []
    for situation in SITUATIONS:
        scored = {name: errors for name, errors in by_run.items() if _is_scored(errors, situation)}
        for name, errors in scored.items():
            rows.append([f"{situation}: {name}", *_rms_cells(errors, situation, MODEL)])
        if scored:
            errors = next(iter(scored.values()))
            rows += [[f"{situation}: {p}", *_rms_cells(errors, situation, p)] for p in (*TRIVIAL, LINEAR)]
    return Table(
        f"Reconstruction, mask: {kind}, beside what needs no model",
        f"Root mean squared error in {unit} on the hidden samples; – where there was nothing to go by.",
        ["situation: predictor", *GROUPS],
        rows,
    )


def _is_scored(errors: ReconstructionErrors, situation: str) -> bool:
    return any(math.isfinite(errors.mse(situation, group)[MODEL]) for group in GROUPS)


def _rms_cells(errors: ReconstructionErrors, situation: str, predictor: str) -> list[str]:
    values = [math.sqrt(errors.mse(situation, group)[predictor]) for group in GROUPS]
    return [f"{value:.4f}" if math.isfinite(value) else "–" for value in values]


def _reconstruction_table(kind: str, by_run: Mapping[str, ReconstructionErrors]) -> Table:
    rows = []
    for situation in SITUATIONS:
        for name, errors in by_run.items():
            cells = [_ratio_cell(errors, situation, group) for group in GROUPS]
            if any(cell != "–" for cell in cells):
                rows.append([f"{situation}: {name}", *cells])
    return Table(
        f"Reconstruction, mask: {kind}",
        "Error over that of the best trivial predictor on the same samples (zero, means, interpolation, limb algebra), "
        "95 % over subjects; in brackets over linear regression on the leads visible at the same instant.",
        ["situation: run", *GROUPS],
        rows,
    )


def _ratio_cell(errors: ReconstructionErrors, situation: str, group: str) -> str:
    trivial = errors.ratio(situation, group)
    if not math.isfinite(trivial.value):
        return "–"
    linear = errors.mse(situation, group)
    against_linear = linear[MODEL] / linear[LINEAR]
    tail = f" [{against_linear:.2f}]" if math.isfinite(against_linear) else ""
    return f"{trivial:.2f}{tail}"


def _page(comparison: Comparison, tables: Sequence[Table]) -> Page:
    record = comparison.probes["record"]
    first = next(iter(record))
    page = Page(
        f"{first} beside {len(record) - 1} others",
        subtitle=f"{comparison.num_records:,} records. Labels: {comparison.protocol}.",
    )
    by_title = {table.title: table for table in tables}

    def add(table: Table) -> None:
        page.section(table.title, lead=table.note)
        page.table(table.heads, table.rows)

    for title in list(by_title)[: sum(bool(probes) for probes in comparison.probes.values())]:
        add(by_title.pop(title))
    codes, shown = record[first].codes, _best_codes(record[first])
    page.figure(
        plot_auroc(
            ["macro", *shown],
            {name: [r.macro, *(r.by_code()[code] for code in shown)] for name, r in list(record.items())[:7]},
        ),
        caption=f"AUROC by code, model's own read-out{_cut(codes)}.",
    )
    for name, other in record.items():
        if name != first:
            gap = difference(record[first], other)
            page.figure(
                plot_differences(
                    ["macro", *shown],
                    [gap.macro, *(gap.by_code()[code] for code in shown)],
                    xlabel=f"AUROC of {first} minus {name}",
                ),
                caption=f"Paired differences; filled where the 95 % interval excludes zero{_cut(codes)}.",
            )
    for table in by_title.values():
        add(table)
        if table.title == "Few labels":
            page.figure(_plot_curves(comparison.curves), caption="Macro AUROC by share of training subjects.")
        if table.title == "Missing leads":
            page.figure(_plot_robustness(comparison.robustness))
        kind = table.title.removeprefix("Reconstruction, mask: ")
        if kind in comparison.reconstruction:
            page.figure(
                _plot_errors(comparison.reconstruction[kind]),
                caption="I, II, V1-V6: error of each run and of what needs no model, by what was hidden.",
            )
    page.section(
        "Lead weights",
        lead="Mean share of each lead in the record embedding, over records with each code; white is an equal share.",
    )
    for name, weights in comparison.lead_weights.items():
        rows = [0, *(1 + record[first].codes.index(code) for code in shown)]
        page.figure(_plot_weights(weights[rows], [comparison.lead_weight_rows[r] for r in rows], title=name))
    return page


def _cut(codes: Sequence[str]) -> str:
    hidden = len(codes) - MAX_CODES_SHOWN
    return f"; {hidden} further codes are in compare.json" if hidden > 0 else ""


def _markdown(comparison: Comparison, tables: Sequence[Table]) -> str:
    first = next(iter(comparison.probes["record"]))
    about = f"{comparison.num_records:,} records. Labels: {comparison.protocol}."
    parts = [f"# {to_markdown(first)} beside the others", to_markdown(about)]
    return "\n\n".join([*parts, *(table.to_markdown() for table in tables)]) + "\n"


def _summary(comparison: Comparison) -> dict[str, Any]:
    record = comparison.probes["record"]
    first = next(iter(record))
    return {
        "protocol": comparison.protocol,
        "probe": {r: {name: p.to_dict() for name, p in probes.items()} for r, probes in comparison.probes.items()},
        "knn": {name: result.to_dict() for name, result in comparison.knn.items()},
        "difference": {
            f"{first} - {name}": difference(record[first], other).to_dict()
            for name, other in record.items()
            if name != first
        },
        "few_labels": {name: curve.to_dict() for name, curve in comparison.curves.items()},
        "missing_leads": {
            name: {subset: result.macro for subset, result in found.items()}
            for name, found in comparison.robustness.items()
        },
        "reconstruction": {
            kind: {name: errors.table() for name, errors in by_run.items()}
            for kind, by_run in comparison.reconstruction.items()
        },
        "finetuned": {name: result.to_dict() for name, result in comparison.finetuned.items()},
        "lead_weights": {
            name: dict(zip(comparison.lead_weight_rows, weights.tolist(), strict=True))
            for name, weights in comparison.lead_weights.items()
        },
    }


def _plot_curves(curves: Mapping[str, FewLabelCurve]) -> Figure:
    figure, ax = new_chart(10.6, 3.8)
    for (name, curve), color in zip(curves.items(), SERIES, strict=False):
        fractions = sorted(curve.results)
        points = [curve.macro(fraction) for fraction in fractions]
        percent = [100 * fraction for fraction in fractions]
        ax.fill_between(
            percent, [p.low for p in points], [p.high for p in points], color=color, alpha=0.12, linewidth=0
        )
        ax.plot(percent, [p.value for p in points], "o-", color=color, markersize=4.5, linewidth=1.6, label=name)
    ax.set(xscale="log", xlabel="share of training subjects with labels (%)", ylabel="macro AUROC")
    ticks = sorted({100 * fraction for curve in curves.values() for fraction in curve.results})
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.minorticks_off()
    ax.legend(frameon=False, fontsize=9)
    return figure


def _plot_robustness(robustness: Mapping[str, Mapping[str, ProbeResult]]) -> Figure:
    rows = list(next(iter(robustness.values())))
    return plot_auroc(
        rows, {name: [found[s].macro for s in rows] for name, found in robustness.items()}, xlabel="macro AUROC"
    )


def _plot_errors(by_run: Mapping[str, ReconstructionErrors]) -> Figure:
    """Root mean squared errors on the independent leads, runs beside the predictors without a model."""
    group = "I, II, V1-V6"
    scored = {s: [name for name, errors in by_run.items() if _is_scored(errors, s)] for s in SITUATIONS}
    shown = [s for s in SITUATIONS if scored[s]]
    series: dict[str, list[float]] = {}
    for name in (*TRIVIAL, LINEAR):
        series[name] = [math.sqrt(by_run[scored[s][0]].mse(s, group)[name]) for s in shown]
    for name, errors in by_run.items():
        series[name] = [math.sqrt(errors.mse(s, group)[MODEL]) for s in shown]
    unit = next(iter(by_run.values())).unit
    return plot_bars(shown, series, ylabel=f"root mean squared error ({unit})", emphasis=next(iter(by_run)))


def _plot_weights(weights_RL: np.ndarray, rows: Sequence[str], *, title: str) -> Figure:
    figure, ax = new_chart(10.6, 0.9 + 0.24 * len(rows))
    equal = 1 / len(LEADS)
    ax.imshow(weights_RL, aspect="auto", cmap="RdBu_r", vmin=0, vmax=2 * equal)
    for (r, lead), value in np.ndenumerate(weights_RL):
        color = "white" if abs(value - equal) > 0.7 * equal else INK
        ax.text(lead, r, f"{100 * value:.1f}", ha="center", va="center", fontsize=7.5, color=color)
    ax.set_xticks(range(len(LEADS)), LEADS)
    ax.set_yticks(range(len(rows)), rows)
    ax.set_title(f"{title} (percent)", loc="left", fontsize=10)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    return figure
