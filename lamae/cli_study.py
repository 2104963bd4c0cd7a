"""The verb ``study``: a controlled comparison, from its plan to its report."""

from pathlib import Path
from typing import Annotated

import typer

from lamae import console


def study(
    plan: Annotated[Path, typer.Argument(help="What is compared (YAML), for example configs/study/claim.yaml.")],
    out: Annotated[Path, typer.Option(help="Directory of the study: absent, empty, or begun with the same plan.")],
    workers: Annotated[
        int, typer.Option(min=0, help="Runs at a time, a process each; 0 runs all in this process (debugging).")
    ] = 1,
    report_only: Annotated[
        bool, typer.Option("--report-only", help="Report the seeds that are finished; start no final run.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs with their FLOPs; make nothing.")] = False,
) -> None:
    """Compare pretraining methods: search, runs over seeds, judgement, statistics, report.

    Killed and started again with the same command, it goes on where it was.
    """
    from lamae.study.driver import list_runs, run_study
    from lamae.study.plan import load_plan

    if dry_run:
        rows = list_runs(load_plan(plan))
        total = sum(tflops for *_, tflops in rows)
        table = [[stage, name, f"{steps:,}", f"{tflops:,.2f}"] for stage, name, steps, tflops in rows]
        console.print_table(f"{plan}: {len(rows)} runs", ["stage", "run", "steps", "TFLOP"], table)
        console.console.print(
            f"{len(rows)} runs, {total:,.1f} TFLOP of training in all, if the search chooses the first mask throughout",
            soft_wrap=True,
        )
        return
    run_study(plan, out, workers=workers, report_only=report_only)
    console.console.print(f"look at: {out / 'report.html'}", soft_wrap=True)
