"""The verb ``study``: a controlled comparison, from its plan to its report."""

from pathlib import Path
from typing import Annotated

import typer

from lamae import console
from lamae.cli import verbs


def study(
    plan: Annotated[
        str, typer.Argument(metavar="PLAN", help="What is compared with what: a YAML file, claim, hospitals or mimic.")
    ],
    out: Annotated[Path, typer.Option(help="Directory of the study: absent, empty, or begun with the same plan.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE", help="Changes to it, such as corpus.sources.ptbxl.path=PATH; --print-config lists all."
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=0, help="Runs at a time, a process each; 0 runs all in this process (debugging).")
    ] = 1,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Report the seeds that are finished; start no final run.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs with their FLOPs; make nothing.")] = False,
    print_config: verbs.PrintConfig = False,
) -> None:
    """Compare pretraining methods: search, runs over seeds, scores, statistics, report.

    Killed and started again with the same command, it goes on where it was.
    """
    from lamae.base.settings import explain
    from lamae.study.plan import KIND, StudyPlan, load_plan

    if print_config:
        console.say(explain(StudyPlan(), plan, overrides or [], kind=KIND))
        return
    from lamae.study.driver import list_runs, run_study

    loaded = load_plan(plan, overrides or [])
    if dry_run:
        rows = list_runs(loaded, out)
        total = sum(tflops for *_, tflops in rows)
        table = [[stage, name, f"{steps:,}", f"{tflops:,.2f}"] for stage, name, steps, tflops in rows]
        console.print_table(f"{plan}: {len(rows)} runs", ["stage", "run", "steps", "TFLOP"], table)
        console.say(
            f"{len(rows)} runs, {total:,.1f} TFLOP of training in all, if the search chooses the first mask throughout",
        )
        return
    run_study(loaded, out, workers=workers, report_only=report_only)
    console.say(f"look at: {out / 'report.html'}")
