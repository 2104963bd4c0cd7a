"""The comparison report: tables and plots on one page, the same tables in Markdown, all numbers in JSON.

Its blocks take a ``Comparison`` and add to a page; the demo's page is made of some of them.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lamae.base import files
from lamae.base.leads import LEADS
from lamae.base.text import few
from lamae.evaluate.compare import Comparison
from lamae.evaluate.probe.fewlabels import curve_difference
from lamae.evaluate.probe.result import ProbeResult, difference
from lamae.evaluate.reconstruct.reconstruction import MODEL, SITUATIONS, ReconstructionErrors
from lamae.evaluate.reconstruct.trivial import LINEAR, TRIVIAL
from lamae.evaluate.store import dense
from lamae.evaluate.values import finite
from lamae.reports.charts import plot_auroc, plot_bars, plot_differences, plot_few_labels, plot_heatmap
from lamae.reports.page import Page
from lamae.reports.tables import Table

MAX_CODES_SHOWN = 30
MAX_METHODS_DRAWN = 7
METRICS = {"auprc": "AUPRC", "f1": "F1", "brier": "Brier"}
GROUPS = ("I, II", "V1-V6", "I, II, V1-V6", "derived")
READOUT_TITLES = {
    "record": "Frozen embeddings, the model's own read-out",
    "mean": "Frozen embeddings, mean of tokens",
}


def write_comparison(comparison: Comparison, out: Path) -> dict[str, Any]:
    """Write ``out/compare.html``, ``compare.md`` and ``compare.json``; returns what the last holds."""
    page = Page(
        f"{comparison.first.name} beside {len(comparison.others)} others",
        subtitle=f"{comparison.num_records:,} records. Labels: {comparison.protocol}.",
    )
    add_scores(page, comparison)
    add_codes(page, comparison)
    _add_few_labels(page, comparison)
    _add_missing_leads(page, comparison)
    for kind, by_run in comparison.reconstruction.items():
        add_reconstruction(page, by_run, title=f"Reconstruction, mask: {kind}")
    add_lead_weights(page, comparison)
    page.write(out / "compare.html")
    page.write_markdown(out / "compare.md")
    summary = summarise(comparison)
    files.write_json(out / "compare.json", finite(summary))
    return summary


def add_scores(page: Page, comparison: Comparison) -> None:
    """Macro averages of all methods under each read-out, and of what was fine-tuned beside them."""
    for readout, probes in comparison.probes.items():
        if probes:
            page.add(_probe_table(comparison, readout))
    if comparison.finetuned:
        page.add(
            _scores_table(
                "Fine-tuned, and supervised from scratch",
                "Trained as a whole on training labels, beside logistic regression on frozen embeddings; same test "
                "records.",
                _beside_frozen(comparison),
            )
        )


def _beside_frozen(comparison: Comparison) -> dict[str, ProbeResult]:
    frozen = {f"{name}, frozen": result for name, result in comparison.probes["record"].items()}
    return {**comparison.finetuned, **frozen}


def _probe_table(comparison: Comparison, readout: str) -> Table:
    probes = comparison.probes[readout]
    first = next(iter(probes.values()))
    extra = {"micro AUROC": {name: f"{result.micro_auroc:.3f}" for name, result in probes.items()}}
    if readout == "record":
        extra["kNN macro AUROC"] = {name: str(result.macro) for name, result in comparison.knn.items()}
    left_out = few([f"{code}: {reason}" for code, reason in first.left_out.items()], 8)
    return _scores_table(
        READOUT_TITLES[readout],
        f"A logistic regression on frozen embeddings, fitted on {first.num_train:,} training records, its penalty "
        f"chosen on {first.num_val:,}, tested once on {len(first.test_rows):,} records of {first.num_test_subjects:,} "
        f"other subjects; {len(first.codes)} codes"
        + (f", {len(first.left_out)} left out ({left_out})" if left_out else "")
        + (f", {len(first.left_out_of_means)} in no mean (no interval)" if first.left_out_of_means else "")
        + (f", {len(first.without_f1)} without F1 (no positive record in val)" if first.without_f1 else "")
        + ". Intervals: 95 %, bootstrap over test subjects; differences are paired.",
        probes,
        extra,
    )


def _scores_table(
    title: str, note: str, probes: Mapping[str, ProbeResult], extra: Mapping[str, Mapping[str, str]] | None = None
) -> Table:
    """Methods on the same test records, and the first of them minus each; ``extra`` columns by method."""
    first = next(iter(probes.values()))
    columns = extra or {}
    rows = [
        [
            name,
            str(result.macro),
            "–" if result is first else f"{difference(first, result).macro:+.3f}",
            *(str(result.macro_metric(metric)) for metric in METRICS),
            *(cells[name] for cells in columns.values()),
            result.contamination,
        ]
        for name, result in probes.items()
    ]
    heads = ["method", "macro AUROC (95 %)", f"{first.name} minus it", *METRICS.values(), *columns]
    return Table(title, note, [*heads, "test subjects in pretraining"], rows)


def add_codes(page: Page, comparison: Comparison, names: Mapping[str, str] | None = None) -> None:
    """AUROC of the codes that the first method reads best, its differences to the others, and groups of codes.

    ``names`` describes codes.
    """
    probes, first = comparison.probes["record"], comparison.first
    of_first = first.by_code()
    codes = sorted(first.codes, key=lambda code: -of_first[code].value)[:MAX_CODES_SHOWN]
    by_code = {name: result.by_code() for name, result in probes.items()}
    gaps = {name: difference(first, other) for name, other in comparison.others.items()}
    gaps_by_code = {f"{first.name} − {name}": gap.by_code() for name, gap in gaps.items()}
    labels = {code: f"{code}  {(names or {}).get(code, '')}".strip() for code in codes}
    cut = _cut(len(first.codes) - len(codes))
    page.add(
        Table(
            "AUROC by code",
            f"The model's own read-out, and paired differences{cut}.",
            ["code", "prevalence", *probes, *gaps_by_code],
            [
                [
                    labels[code],
                    f"{first.prevalence[code]:.1%}",
                    *(str(of[code]) for of in by_code.values()),
                    *(f"{of[code]:+.3f}" for of in gaps_by_code.values()),
                ]
                for code in codes
            ],
        )
    )
    drawn = list(probes.items())[:MAX_METHODS_DRAWN]
    page.figure(
        plot_auroc(
            ["macro", *labels.values()],
            {name: [result.macro, *(by_code[name][code] for code in codes)] for name, result in drawn},
        ),
        caption=f"AUROC by code, the model's own read-out{cut}.",
    )
    if gaps:
        panels = {
            f"AUROC of {first.name} minus {name}": {
                "macro": gap.macro,
                **{labels[code]: gaps_by_code[f"{first.name} − {name}"][code] for code in codes},
            }
            for name, gap in gaps.items()
        }
        page.figure(
            plot_differences(panels),
            caption=f"Paired differences; filled where the 95 % interval excludes zero{cut}.",
        )
    if first.by_group():
        page.add(
            Table(
                "Groups of codes",
                "Macro AUROC of groups fixed beforehand, model's own read-out.",
                ["method", *first.by_group()],
                [[name, *map(str, result.by_group().values())] for name, result in probes.items()],
            )
        )


def _cut(num_hidden: int) -> str:
    return f"; {num_hidden} further codes are in the JSON beside this page" if num_hidden > 0 else ""


def _add_few_labels(page: Page, comparison: Comparison) -> None:
    curves = list(comparison.curves.values())
    shares = list(curves[0].results)
    rows = [[curve.name, *(str(curve.macro(share)) for share in shares)] for curve in curves]
    rows += [
        [f"{curves[0].name} − {other.name}", *(f"{curve_difference(curves[0], other, s):+.3f}" for s in shares)]
        for other in curves[1:]
    ]
    page.add(
        Table(
            "Few labels",
            "Macro AUROC by share of training subjects; mean over seeds, intervals over seeds and subjects. "
            + "; ".join(
                f"{share:.0%}: {number:,} subjects, {curves[0].num_records(share):,} records"
                for share, number in curves[0].num_subjects.items()
            ),
            ["method", *(f"{share:.0%}" for share in shares)],
            rows,
        )
    )
    points = {curve.name: {share: curve.macro(share) for share in shares} for curve in curves}
    page.figure(plot_few_labels({"": points}), caption="Macro AUROC by share of training subjects.")


def _add_missing_leads(page: Page, comparison: Comparison) -> None:
    found = {
        name: {subset: result.macro for subset, result in by_subset.items()}
        for name, by_subset in comparison.robustness.items()
    }
    subsets = list(next(iter(found.values())))
    page.add(
        Table(
            "Missing leads",
            "Macro AUROC of the probe fitted on twelve leads when the test records show fewer.",
            ["run", *subsets],
            [[name, *map(str, macros.values())] for name, macros in found.items()],
        )
    )
    page.figure(
        plot_auroc(subsets, {name: list(macros.values()) for name, macros in found.items()}, xlabel="macro AUROC")
    )


def add_reconstruction(page: Page, by_run: Mapping[str, ReconstructionErrors], *, title: str) -> None:
    """Errors on hidden samples over those of what needs no model, and what these ratios are made of.

    Runs that were scored on other samples, or in another unit, get tables of their own.
    """
    groups: dict[str, dict[str, ReconstructionErrors]] = {}
    for name, errors in by_run.items():
        groups.setdefault(errors.scored_on, {})[name] = errors
    for scored_on, runs in groups.items():
        _add_reconstruction(page, runs, title=title if len(groups) == 1 else f"{title}; {scored_on}")


def _add_reconstruction(page: Page, by_run: Mapping[str, ReconstructionErrors], *, title: str) -> None:
    """Of runs that were scored on the same samples."""
    scored = {
        situation: {name: errors for name, errors in by_run.items() if _is_scored(errors, situation)}
        for situation in SITUATIONS
    }
    scored = {situation: of for situation, of in scored.items() if of}
    if not scored:
        return
    unit = next(iter(by_run.values())).unit
    page.add(
        Table(
            title,
            "Error over that of the best trivial predictor on the same samples (zero, means, interpolation, limb "
            "algebra), 95 % over subjects; in brackets over linear regression on the leads visible at the same "
            "instant, a strong yardstick. Derived leads (III, aVR, aVL, aVF) follow from I and II and are kept apart.",
            ["situation: run", *GROUPS],
            [
                [f"{situation}: {name}", *(_ratio_cell(errors, situation, group) for group in GROUPS)]
                for situation, runs in scored.items()
                for name, errors in runs.items()
            ],
        )
    )
    shown = "I, II, V1-V6"
    any_run = {situation: next(iter(runs.values())) for situation, runs in scored.items()}
    bars = {p: [_rms(any_run[s], s, shown, p) for s in scored] for p in (*TRIVIAL, LINEAR)}
    bars |= {name: [_rms(errors, s, shown, MODEL) for s in scored] for name, errors in by_run.items()}
    page.figure(
        plot_bars(list(scored), bars, ylabel=f"root mean squared error ({unit})", emphasis=next(iter(by_run))),
        caption=f"{shown}: error of each run and of what needs no model, by what was hidden.",
    )
    rows = []
    for situation, runs in scored.items():
        predictors = [(name, errors, MODEL) for name, errors in runs.items()]
        predictors += [(p, any_run[situation], p) for p in (*TRIVIAL, LINEAR)]
        for name, errors, predictor in predictors:
            cells = [_rms(errors, situation, group, predictor) for group in GROUPS]
            rows.append([f"{situation}: {name}", *(f"{cell:.4f}" if math.isfinite(cell) else "–" for cell in cells)])
    page.add(
        Table(
            f"{title}, beside what needs no model",
            f"Root mean squared error in {unit} on the hidden samples; – where there was nothing to go by.",
            ["situation: predictor", *GROUPS],
            rows,
        )
    )


def _is_scored(errors: ReconstructionErrors, situation: str) -> bool:
    return any(math.isfinite(errors.mse(situation, group)[MODEL]) for group in GROUPS)


def _rms(errors: ReconstructionErrors, situation: str, group: str, predictor: str) -> float:
    return math.sqrt(errors.mse(situation, group)[predictor])


def _ratio_cell(errors: ReconstructionErrors, situation: str, group: str) -> str:
    ratio = errors.ratio(situation, group)
    if not math.isfinite(ratio.value):
        return "–"
    mse = errors.mse(situation, group)
    tail = f" [{mse[MODEL] / mse[LINEAR]:.2f}]" if math.isfinite(mse[LINEAR]) else ""
    return f"{ratio:.2f}{tail}"


def add_lead_weights(page: Page, comparison: Comparison) -> None:
    """A matrix for each run: mean share of each lead, over all test records and over those with each code."""
    page.section(
        "Lead weights",
        lead="Mean share of each lead in the record embedding, over records with each code; white is an equal share.",
    )
    for name, weights in comparison.lead_weights.items():
        shown = dict(list(_weights_by_code(weights, comparison.first).items())[: 1 + MAX_CODES_SHOWN])
        figure, _ = plot_heatmap(
            np.stack(list(shown.values())),
            list(shown),
            LEADS,
            form=lambda share: f"{100 * share:.1f}",
            most=2 / len(LEADS),
            cmap="RdBu_r",
            title=f"{name} (percent)",
        )
        page.figure(figure)


def _weights_by_code(weights_NL: np.ndarray, probe: ProbeResult) -> dict[str, np.ndarray]:
    """Mean over all test records, then over those with each code, the best read first."""
    by_code = probe.by_code()
    order = sorted(range(len(probe.codes)), key=lambda k: -by_code[probe.codes[k]].value)
    return {
        "all test records": weights_NL.mean(0),
        **{probe.codes[k]: weights_NL[dense(probe.y_NC[:, [k]])[:, 0].astype(bool)].mean(0) for k in order},
    }


def summarise(comparison: Comparison) -> dict[str, Any]:
    """Every number of the page."""
    first, curves = comparison.first, list(comparison.curves.values())
    return {
        "protocol": comparison.protocol,
        "probe": {r: {name: p.to_dict() for name, p in probes.items()} for r, probes in comparison.probes.items()},
        "knn": {name: result.to_dict() for name, result in comparison.knn.items()},
        "difference": {r: _differences(probes) for r, probes in comparison.probes.items()},
        "few_labels": {name: curve.to_dict() for name, curve in comparison.curves.items()},
        "few_labels_difference": {
            f"{curves[0].name} - {other.name}": {
                f"{share:g}": curve_difference(curves[0], other, share) for share in other.results
            }
            for other in curves[1:]
        },
        "missing_leads": {
            name: {subset: result.macro for subset, result in found.items()}
            for name, found in comparison.robustness.items()
        },
        "reconstruction": {
            kind: {name: errors.table() for name, errors in by_run.items()}
            for kind, by_run in comparison.reconstruction.items()
        },
        "finetuned": {name: result.to_dict() for name, result in comparison.finetuned.items()},
        "finetuned_difference": _differences(_beside_frozen(comparison)) if comparison.finetuned else {},
        "lead_weights": {
            name: {row: mean_L.tolist() for row, mean_L in _weights_by_code(weights, first).items()}
            for name, weights in comparison.lead_weights.items()
        },
    }


def _differences(results: Mapping[str, ProbeResult]) -> dict[str, Any]:
    """The first minus each other."""
    others = list(results.items())
    return {f"{others[0][0]} - {name}": difference(others[0][1], other).to_dict() for name, other in others[1:]}
