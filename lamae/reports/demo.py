"""The demo's report: what was made, what was learned, what holds: ``report.html``, and its numbers in ``report.json``.

Blocks of the comparison report, and what only a demo has; every verdict on the page is computed here from the numbers.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from lamae.base import files
from lamae.evaluate.compare import RANDOM_WEIGHTS, Comparison
from lamae.evaluate.probe.result import difference
from lamae.evaluate.reconstruct.reconstruction import SITUATIONS, Reconstruction, ReconstructionErrors
from lamae.evaluate.statistics import Interval
from lamae.evaluate.values import finite
from lamae.reports.charts import plot_loss
from lamae.reports.compare import add_codes, add_lead_weights, add_reconstruction, add_scores, summarise
from lamae.reports.page import Page
from lamae.reports.tables import Table
from lamae.reports.training import plot_lead_weights, plot_reconstruction

AS_TRAINED = "as trained"
"""The one mask of the demo's comparison."""
HIDDEN_LEAD, HIDDEN_SPAN = SITUATIONS[0], SITUATIONS[1]
LEARNS_BELOW = 0.8
ALL_LEADS = "I, II, V1-V6"


@dataclass(frozen=True)
class Demo:
    """What the report shows beside the comparison of the runs, by whose names ``runs`` is keyed."""

    dataset: Mapping[str, Any]
    """``num_records``, ``num_subjects``, ``splits`` {name: count}, ``rejects`` {reason: count}, ``description``."""
    runs: Mapping[str, Mapping[str, Any]]
    """``num_parameters``, ``steps``, ``wall_s``, ``metrics``: lines of metrics.jsonl with ``samples`` and ``loss``."""
    recordings: Mapping[str, Figure]
    """Some records on ECG paper, by title."""
    examples: Sequence[Reconstruction]
    """By the first run's model."""
    stages: Mapping[str, float]
    """Seconds by stage of the demo, in order."""
    environment: Mapping[str, str]
    """Versions, hardware, commands, seeds: what it takes to run this again."""
    null_code: str | None = None
    """A code that is not in the waveform."""
    code_descriptions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    next_steps: Sequence[str] = ()


@dataclass(frozen=True)
class Claim:
    """A statement and whether the numbers bear it out: "holds", "does not hold" or "not decided"."""

    verdict: str
    statement: str
    evidence: str


def write_demo_report(comparison: Comparison, demo: Demo, out: Path) -> dict[str, Any]:
    """Write ``out/report.html`` and ``out/report.json``; returns the latter's content."""
    claims = check_claims(comparison, null_code=demo.null_code)
    _page(comparison, demo, claims).write(out / "report.html")
    found = summarise(comparison)
    summary = {
        "claims": [dataclasses.asdict(claim) for claim in claims],
        "dataset": demo.dataset,
        "runs": {
            name: {key: value for key, value in run.items() if key != "metrics"} | _losses(run)
            for name, run in demo.runs.items()
        },
        "probe": found["probe"]["record"],
        "probe_differences": found["difference"]["record"],
        "reconstruction": found["reconstruction"][AS_TRAINED],
        "lead_weights": comparison.lead_weights[comparison.first.name].mean(0).tolist(),
        "stages_s": demo.stages,
        "environment": demo.environment,
    }
    files.write_json(out / "report.json", finite(summary))
    return summary


def check_claims(comparison: Comparison, *, null_code: str | None) -> list[Claim]:
    """The demo's claims, each decided by its numbers alone."""
    first = comparison.first
    claims = [_check_reconstruction(first.name, comparison.reconstruction[AS_TRAINED][first.name])]
    for name, other in comparison.others.items():
        claims.append(_check_probe(first.name, name, difference(first, other).macro))
    if null_code is not None and null_code in first.codes:
        claims.append(_check_null(null_code, first.by_code()[null_code]))
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


def _check_probe(name: str, other: str, gain: Interval) -> Claim:
    is_random = other == RANDOM_WEIGHTS
    verdict = "holds" if gain.low > 0 else "does not hold" if gain.high < 0 or is_random else "not decided"
    tail = "the same architecture with random weights" if is_random else other
    note = "" if gain.excludes_zero else " The interval includes 0: a tie on this many test subjects."
    return Claim(
        verdict,
        f"{name}'s frozen embeddings separate diagnoses better than those of {tail}",
        f"Macro AUROC difference {gain:+.3f}, paired bootstrap over test subjects.{note}",
    )


def _check_null(code: str, auroc: Interval) -> Claim:
    covers = auroc.low <= 0.5 <= auroc.high
    return Claim(
        _verdict(covers) if math.isfinite(auroc.low) else "not decided",
        f"The probe finds nothing where there is nothing: {code} is not in the waveform",
        f"AUROC {auroc}; its interval {'covers' if covers else 'does not cover'} 0.5.",
    )


def _verdict(holds: bool) -> str:
    return "holds" if holds else "does not hold"


def _page(comparison: Comparison, demo: Demo, claims: Sequence[Claim]) -> Page:
    page = Page(
        "LAMAE demo: from recordings to a probed model",
        subtitle=str(demo.dataset.get("description", "")),
    )
    page.section("What holds", lead="Each verdict is computed from the numbers further down, nothing is written in.")
    page.verdicts([(claim.verdict, claim.statement, claim.evidence) for claim in claims])
    page.cards(_cards(comparison, demo))

    page.section(
        "Recordings",
        lead="As packed into the shard set, on ECG paper: 25 mm/s, 10 mm/mV. One large box is 0.2 s × 0.5 mV.",
    )
    for title, figure in demo.recordings.items():
        page.figure(figure, raster=True, alt=f"12-lead ECG {title}")

    _add_training(page, demo)
    page.section(
        "What a model makes of hidden samples",
        lead="Shaded stretches were hidden from the model; the red line is what it put there from the rest.",
    )
    for example in demo.examples:
        page.figure(plot_reconstruction(example), raster=True, alt=f"Reconstruction of {example.key}")
    add_reconstruction(page, comparison.reconstruction[AS_TRAINED], title="Reconstruction")
    add_lead_weights(page, comparison)
    page.figure(
        plot_lead_weights(comparison.lead_weights[comparison.first.name]),
        caption="Mean over test records, and the 5th to 95th percentile; the dashed line is an equal share.",
    )
    add_scores(page, comparison)
    add_codes(page, comparison, demo.code_descriptions)

    page.section("How this was made")
    page.table(["stage", "seconds"], [[name, f"{seconds:.1f}"] for name, seconds in demo.stages.items()])
    page.table(["", ""], [[name, value] for name, value in demo.environment.items()])
    if demo.next_steps:
        page.section("Next")
        for step in demo.next_steps:
            page.paragraph(step)
    page.paragraph(
        f"{comparison.first.name} here is a small model trained for minutes; its numbers say that the system works, "
        "not how good the method is."
    )
    return page


def _add_training(page: Page, demo: Demo) -> None:
    page.add(
        Table.of(
            "Training",
            "Loss on hidden samples, per record seen; thin lines are single logging steps. Losses of different kinds "
            "of model are not comparable: their targets are different samples.",
            ({"name": name, **run, **_losses(run)} for name, run in demo.runs.items()),
            {
                "run": "{name}",
                "parameters": "{num_parameters:,}",
                "steps": "{steps:,}",
                "first loss": "{first_loss:.3f}",
                "last loss": "{last_loss:.3f}",
                "training time": "{wall_s:.0f} s",
            },
        )
    )
    page.figure(
        plot_loss(
            {
                name: ([line["samples"] for line in run["metrics"]], [line["loss"] for line in run["metrics"]])
                for name, run in demo.runs.items()
            }
        )
    )


def _losses(run: Mapping[str, Any]) -> dict[str, float]:
    return {"first_loss": run["metrics"][0]["loss"], "last_loss": run["metrics"][-1]["loss"]}


def _cards(comparison: Comparison, demo: Demo) -> list[tuple[str, str, str]]:
    first, macro = comparison.first, comparison.first.macro
    ratio = comparison.reconstruction[AS_TRAINED][first.name].ratio(HIDDEN_LEAD, ALL_LEADS)
    gain = difference(first, comparison.others[RANDOM_WEIGHTS]).macro
    seconds = sum(demo.stages.values())
    return [
        ("recordings", f"{demo.dataset['num_records']:,}", f"of {demo.dataset['num_subjects']:,} subjects"),
        ("hidden leads, error ÷ trivial", f"{ratio.value:.2f}", f"95 %: {ratio.low:.2f} to {ratio.high:.2f}"),
        (f"macro AUROC, {first.name}", f"{macro.value:.3f}", f"95 %: {macro.low:.3f} to {macro.high:.3f}"),
        ("gain over random weights", f"{gain.value:+.3f}", f"95 %: {gain.low:+.3f} to {gain.high:+.3f}"),
        ("whole demo", f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min", ""),
    ]
