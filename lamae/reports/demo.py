"""The demo's report: what was made, what was learned, what holds: ``report.html``, and its numbers in ``report.json``.

``DemoResults`` is what the demo hands over; every verdict on the page is computed here from those numbers.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np

from lamae.base import files
from lamae.evaluate.probe.result import ProbeResult, difference
from lamae.evaluate.reconstruct.reconstruction import GROUPS, MODEL, SITUATIONS, Reconstruction, ReconstructionErrors
from lamae.evaluate.reconstruct.trivial import LINEAR, TRIVIAL
from lamae.evaluate.statistics import Interval
from lamae.reports.charts import plot_auroc, plot_bars, plot_differences, plot_loss
from lamae.reports.page import Page
from lamae.reports.paper import plot_record
from lamae.reports.training import plot_lead_weights, plot_reconstruction
from lamae.reports.values import finite

HIDDEN_LEAD, HIDDEN_SPAN = SITUATIONS[0], SITUATIONS[1]
LEARNS_BELOW = 0.8
ALL_LEADS = "I, II, V1-V6"


class RunInfo(TypedDict):
    """One pretraining run."""

    num_parameters: int
    steps: int
    wall_s: float
    metrics: Sequence[Mapping[str, Any]]
    """Lines of metrics.jsonl; ``samples`` and ``loss`` are read."""


class RecordExample(TypedDict):
    """A recording to show on ECG paper."""

    title: str
    mv_LT: np.ndarray
    """float [12, T] in millivolt, NaN for missing samples."""
    rate_hz: float


class DemoResults(TypedDict):
    """Everything the report shows. Models are keyed by the names the reader sees, ``main`` first."""

    main: str
    """Name of the model on trial, a key of runs, probes and reconstruction."""
    random: str
    """Name of the untrained architecture, a key of probes."""
    dataset: Mapping[str, Any]
    """``num_records``, ``num_subjects``, ``splits`` {name: count}, ``rejects`` {reason: count}, ``description``."""
    runs: Mapping[str, RunInfo]
    probes: Mapping[str, ProbeResult]
    reconstruction: Mapping[str, ReconstructionErrors]
    lead_weights_NL: np.ndarray
    """[N, 12]: the main model's pooling weights over test records."""
    records: Sequence[RecordExample]
    examples: Sequence[Reconstruction]
    """Reconstructions by the main model."""
    stages: Mapping[str, float]
    """Seconds by stage of the demo, in order."""
    environment: Mapping[str, str]
    """Versions, hardware, commands, seeds: what it takes to run this again."""
    null_code: NotRequired[str]
    """A code that is not in the waveform."""
    code_descriptions: NotRequired[Mapping[str, str]]
    next_steps: NotRequired[Sequence[str]]


@dataclass(frozen=True)
class Claim:
    """A statement and whether the numbers bear it out: "holds", "does not hold" or "not decided"."""

    verdict: str
    statement: str
    evidence: str


def write_demo_report(results: DemoResults, out: Path) -> dict[str, Any]:
    """Write ``out/report.html`` and ``out/report.json``; returns the latter's content."""
    claims = check_claims(results)
    summary = summarise(results, claims)
    _page(results, claims).write(out / "report.html")
    files.write_json(out / "report.json", finite(summary))
    return summary


def check_claims(results: DemoResults) -> list[Claim]:
    """The demo's claims, each decided by its numbers alone."""
    main, probes = results["main"], results["probes"]
    claims = [_check_reconstruction(main, results["reconstruction"][main])]
    for name, other in probes.items():
        if name != main:
            claims.append(_check_probe(main, name, difference(probes[main], other).macro, name == results["random"]))
    null = results.get("null_code")
    if null is not None and null in probes[main].by_code():
        claims.append(_check_null(null, probes[main].by_code()[null]))
    return claims


def _check_reconstruction(name: str, errors: ReconstructionErrors) -> Claim:
    ratio = errors.ratio(HIDDEN_LEAD, ALL_LEADS)
    best, _ = errors.best_trivial(HIDDEN_LEAD, ALL_LEADS)
    spans = errors.ratio(HIDDEN_SPAN, ALL_LEADS)
    return Claim(
        _verdict(ratio.value <= LEARNS_BELOW) if math.isfinite(ratio.value) else "not decided",
        f"{name} infers hidden leads: error at visible instants at most {LEARNS_BELOW:g} of the best trivial predictor",
        f"Ratio {ratio} against “{best}”. Hidden spans, which a beat's timing makes harder: {spans}.",
    )


def _check_probe(main: str, other: str, gain: Interval, is_random: bool) -> Claim:
    verdict = "holds" if gain.low > 0 else "does not hold" if gain.high < 0 or is_random else "not decided"
    tail = "the same architecture with random weights" if is_random else other
    note = "" if gain.excludes_zero else " The interval includes 0: a tie on this many test subjects."
    return Claim(
        verdict,
        f"{main}'s frozen embeddings separate diagnoses better than those of {tail}",
        f"Macro AUROC difference {gain:+.3f}, paired bootstrap over test subjects.{note}",
    )


def _check_null(code: str, auroc: Interval) -> Claim:
    covers = auroc.low <= 0.5 <= auroc.high
    return Claim(
        _verdict(covers) if math.isfinite(auroc.low) else "not decided",
        f"The probe finds nothing where there is nothing: {code} is not in the waveform",
        f"AUROC {auroc}; its interval {'covers' if covers else 'does not cover'} 0.5.",
    )


def summarise(results: DemoResults, claims: Sequence[Claim]) -> dict[str, Any]:
    """Every number of the page as plain values."""
    main, probes = results["main"], results["probes"]
    return {
        "claims": [dataclasses.asdict(claim) for claim in claims],
        "dataset": dict(results["dataset"]),
        "runs": {
            name: {key: value for key, value in run.items() if key != "metrics"}
            | {"first_loss": run["metrics"][0]["loss"], "last_loss": run["metrics"][-1]["loss"]}
            for name, run in results["runs"].items()
        },
        "probe": {name: result.to_dict() for name, result in probes.items()},
        "probe_differences": {
            f"{main} - {name}": difference(probes[main], other).to_dict()
            for name, other in probes.items()
            if name != main
        },
        "reconstruction": {name: errors.table() for name, errors in results["reconstruction"].items()},
        "lead_weights": results["lead_weights_NL"].mean(0).tolist(),
        "stages_s": dict(results["stages"]),
        "environment": dict(results["environment"]),
    }


def _page(results: DemoResults, claims: Sequence[Claim]) -> Page:
    main, dataset = results["main"], results["dataset"]
    page = Page(
        "LAMAE demo: from recordings to a probed model",
        subtitle=str(dataset.get("description", "")),
    )
    page.section("What holds", lead="Each verdict is computed from the numbers further down, nothing is written in.")
    page.verdicts([(claim.verdict, claim.statement, claim.evidence) for claim in claims])
    page.cards(_cards(results))

    page.section(
        "Recordings",
        lead="As packed into the shard set, on ECG paper: 25 mm/s, 10 mm/mV. One large box is 0.2 s × 0.5 mV.",
    )
    for record in results["records"]:
        page.figure(plot_record(record["mv_LT"], rate_hz=record["rate_hz"], title=record["title"]), raster=True,
                    alt=f"12-lead ECG {record['title']}")  # fmt: skip

    _add_training(page, results)
    page.section(
        "Reconstruction",
        lead="Shaded stretches were hidden from the model; the red line is what it put there from the rest.",
    )
    for example in results["examples"]:
        page.figure(
            plot_reconstruction(
                example.x_LT,
                example.y_LT,
                example.predicted_LT,
                valid_LT=example.valid_LT,
                rate_hz=example.rate_hz,
                unit=example.unit,
                title=example.key,
            ),
            raster=True,
            alt=f"Reconstruction of {example.key}",
        )
    _add_reconstruction(page, results)

    page.section(
        "Lead attention",
        lead="How much each lead weighs in the record embedding of test records: mean, and the 5th to 95th percentile. "
        "The dashed line is an equal share.",
    )
    page.figure(plot_lead_weights(results["lead_weights_NL"], title=""))
    _add_probe(page, results)

    page.section("How this was made")
    page.table(["stage", "seconds"], [[name, f"{seconds:.1f}"] for name, seconds in results["stages"].items()])
    page.table(["", ""], [[name, value] for name, value in results["environment"].items()])
    if results.get("next_steps"):
        page.section("Next")
        for step in results["next_steps"]:
            page.paragraph(step)
    page.paragraph(
        f"{main} here is a small model trained for minutes; its numbers say that the system works, not how good the "
        "method is."
    )
    return page


def _add_training(page: Page, results: DemoResults) -> None:
    page.section("Training", lead="Loss on hidden samples, per record seen; thin lines are single logging steps.")
    page.figure(
        plot_loss(
            {
                name: ([line["samples"] for line in run["metrics"]], [line["loss"] for line in run["metrics"]])
                for name, run in results["runs"].items()
            }
        )
    )
    page.table(
        ["run", "parameters", "steps", "first loss", "last loss", "training time"],
        [
            [
                name,
                f"{run['num_parameters']:,}",
                f"{run['steps']:,}",
                f"{run['metrics'][0]['loss']:.3f}",
                f"{run['metrics'][-1]['loss']:.3f}",
                f"{run['wall_s']:.0f} s",
            ]
            for name, run in results["runs"].items()
        ],
        caption="Losses of different kinds of model are not comparable: their targets are different samples.",
    )


def _cards(results: DemoResults) -> list[tuple[str, str, str]]:
    main, probes, dataset = results["main"], results["probes"], results["dataset"]
    errors = results["reconstruction"][main]
    ratio = errors.ratio(HIDDEN_LEAD, ALL_LEADS)
    macro = probes[main].macro
    gain = difference(probes[main], probes[results["random"]]).macro
    return [
        ("recordings", f"{dataset['num_records']:,}", f"of {dataset['num_subjects']:,} subjects"),
        ("hidden leads, error ÷ trivial", f"{ratio.value:.2f}", f"95 %: {ratio.low:.2f} to {ratio.high:.2f}"),
        (f"macro AUROC, {main}", f"{macro.value:.3f}", f"95 %: {macro.low:.3f} to {macro.high:.3f}"),
        ("gain over random weights", f"{gain.value:+.3f}", f"95 %: {gain.low:+.3f} to {gain.high:+.3f}"),
        ("whole demo", _duration(sum(results["stages"].values())), ""),
    ]


def _add_reconstruction(page: Page, results: DemoResults) -> None:
    main_errors = results["reconstruction"][results["main"]]
    single = [name for name, leads in GROUPS.items() if len(leads) == 1]
    by_lead = [main_errors.mse(HIDDEN_LEAD, lead) for lead in single]
    bars = {name: [errors[name] for errors in by_lead] for name in (*TRIVIAL, LINEAR, MODEL)}
    bars = {name: values for name, values in bars.items() if np.isfinite(values).any()}
    if bars:
        page.figure(
            plot_bars(
                single,
                {results["main"] if name == MODEL else name: values for name, values in bars.items()},
                ylabel=f"mean squared error ({main_errors.unit}²)",
                emphasis=results["main"],
            ),
            caption="Whole leads hidden from the model, at instants that other leads show.",
        )
    columns = [MODEL, *TRIVIAL, LINEAR]
    for name, errors in results["reconstruction"].items():
        rows = [row for row in errors.table() if len(GROUPS[row["group"]]) > 1]
        page.table(
            [f"{name}: {errors.unit}²", *columns, "÷ best trivial (95 %)"],
            [
                [
                    f"{row['situation']}: {row['group']}",
                    *(_number(row["mse"][column]) for column in columns),
                    format(Interval(**row["ratio_to_best_trivial"]), ".2f"),
                ]
                for row in rows
            ],
            strong_rows=[r for r, row in enumerate(rows) if row["group"] == ALL_LEADS],
        )
    page.paragraph(
        "Mean squared error on hidden samples of test records, all predictors on the same samples; a dash: nothing to "
        "go by. Derived leads (III, aVR, aVL, aVF) follow from I and II and are kept apart. “linear from leads” "
        "regresses on the leads visible at the same instant, with the covariance of training records: a strong "
        "yardstick, not a trivial one. Single leads are in report.json."
    )


def _add_probe(page: Page, results: DemoResults) -> None:
    main, probes = results["main"], results["probes"]
    first = probes[main]
    page.section(
        "Diagnoses from frozen embeddings",
        lead=f"A logistic regression on frozen embeddings, fitted on {first.num_train:,} training records, its penalty "
        f"chosen on {first.num_val:,}, tested once on {len(first.test_rows):,} records of {first.num_test_subjects:,} "
        "other subjects. Intervals: 95 %, bootstrap over test subjects.",
    )
    by_code = {name: result.by_code() for name, result in probes.items()}
    order = sorted(first.codes, key=lambda code: -by_code[main][code].value)
    names = results.get("code_descriptions", {})
    labels = {code: f"{code}  {names[code]}" if names.get(code) else code for code in first.codes}
    page.figure(
        plot_auroc(
            ["macro", *(labels[code] for code in order)],
            {name: [probes[name].macro, *(by_code[name][code] for code in order)] for name in probes},
        )
    )
    rows = [
        [labels[code], f"{first.prevalence[code]:.1%}", *(str(by_code[name][code]) for name in probes)]
        for code in order
    ]
    rows.append(["macro", "", *(str(result.macro) for result in probes.values())])
    left_out = "; ".join(f"{code}: {reason}" for code, reason in first.left_out.items())
    page.table(
        ["code", "prevalence (test)", *probes],
        rows,
        caption="AUROC with 95 % interval." + (f" Left out of the macro average: {left_out}." if left_out else ""),
        strong_rows=[len(rows) - 1],
    )
    for name, other in probes.items():
        if name == main:
            continue
        gap = difference(first, other)
        page.figure(
            plot_differences(
                ["macro", *(labels[code] for code in order)],
                [gap.macro, *(gap.by_code()[code] for code in order)],
                xlabel=f"AUROC of {main} minus {name}",
            ),
            caption="Paired differences on the same test records; filled where the 95 % interval excludes zero.",
        )


def _verdict(holds: bool) -> str:
    return "holds" if holds else "does not hold"


def _number(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "–"


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"
