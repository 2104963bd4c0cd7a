"""The verbs ``submit``, ``jobs`` and ``doctor`` of the command line; ``lamae.cli.app`` registers them."""

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from lamae import console
from lamae.base.errors import LamaeError, UsageError
from lamae.cli import verbs

ClusterOption = Annotated[
    str, typer.Option("--cluster", metavar="PROFILE", help="A YAML file, or local, generic-gpu or cpu-partition.")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change to the profile; repeatable.")
]

SUBMIT_CONTEXT = {"ignore_unknown_options": True}
"""For the command line's registration of ``submit``: options it does not know belong to the submitted verb."""


def submit(
    context: typer.Context,
    verb: Annotated[str, typer.Argument(help="The verb to run: train, shard, embed, probe, finetune, bench, …")],
    arguments: Annotated[list[str] | None, typer.Argument(metavar="ARGS", help="Its arguments and options.")] = None,
    cluster: ClusterOption = "local",
    overrides: SetOption = None,
    folder: Annotated[
        Path | None, typer.Option(help="Where jobs other than training keep their files (default: lamae-jobs here).")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print batch script and plan; do nothing.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the log until the job ends; its exit code.")] = False,
    print_config: verbs.PrintConfig = False,
) -> None:
    """Run a verb on a SLURM cluster, or on this machine as a cluster would: restarted until it is done."""
    from lamae.cluster import profile

    if print_config:
        console.say(profile.explain(cluster, overrides or []))
        return
    from lamae.cluster import jobs as jobs_module
    from lamae.cluster.submit import VERBS
    from lamae.cluster.submit import submit as submit_job

    if verb in VERBS:
        _check_overrides(verb, verbs.check_words(context.find_root(), [verb, *(arguments or [])]))
    chosen = profile.load(cluster, overrides or [])
    submitted = submit_job(verb, arguments or [], profile=chosen, folder=folder, dry_run=dry_run)
    for job in submitted:
        if job.job_id is None:
            if job.script is not None:
                console.say(job.script)
            console.say(f"plan: {job.plan}")
        else:
            console.say(f"job {job.job_id}: {job.plan}")
            console.say(f"log: {jobs_module.log_path(job.folder, job.job_id)}")
    last = submitted[-1]
    if last.job_id is None:
        return
    if not wait:
        run = last.folder.parent.parent if verb == "train" else last.folder
        console.hint(f"next: lamae jobs {shlex.quote(str(run))}   (--cancel ends it)")
        return
    status = jobs_module.follow(last.folder, write=_write_through)
    if status.state != jobs_module.DONE:
        console.print_error(f"job {status.job_id} {status.state}{': ' * bool(status.detail)}{status.detail}")
        raise typer.Exit(status.exit_code or 1)


def _check_overrides(verb: str, given: dict[str, Any]) -> None:
    """Raise what a verb would say against its KEY=VALUE words; those of ``train`` and ``shard`` are checked later."""
    from lamae.base.settings import override

    words = given.get("overrides") or []
    if verb == "finetune":
        from lamae.evaluate.finetune.options import FinetuneOptions

        override(FinetuneOptions(), words)
    elif verb == "study":
        from lamae.study.plan import load_plan

        load_plan(given["plan"], words)


def jobs(
    run: Annotated[Path | None, typer.Argument(help="Run or job directory; else all submitted from here.")] = None,
    cancel: Annotated[bool, typer.Option("--cancel", help="End its jobs for good; what is saved stays.")] = False,
) -> None:
    """Show submitted jobs: state, node, restarts, step, records/s, loss, time left, last log line."""
    from lamae.cluster import jobs as jobs_module

    if cancel and run is None:
        raise UsageError("jobs --cancel: say whose, for example lamae jobs RUN --cancel")
    statuses = jobs_module.read_statuses(jobs_module.find_jobs(run))
    if not statuses:
        console.say("no jobs submitted from here; see lamae submit --help")
        return
    if cancel:
        for status in statuses:
            if not status.ended:
                jobs_module.cancel(status)
                console.say(f"job {status.job_id}: cancelled")
        return
    columns = ["job", "verb", "state", "nodes", "restarts", "step", "records/s", "loss", "left"]
    rows = [
        [
            status.job_id,
            status.verb,
            status.state,
            status.nodes or "-",
            str(status.restarts),
            "-" if status.step is None else f"{status.step}" + (f"/{status.steps}" if status.steps else ""),
            "-" if status.records_per_s is None else f"{status.records_per_s:,.1f}",
            "-" if status.loss is None else f"{status.loss:.4f}",
            "-" if status.eta_s is None else _format_left(status.eta_s),
        ]
        for status in statuses
    ]
    console.print_table("jobs", columns, rows)
    for status in statuses:
        for label, text in (("why", status.detail), ("log", status.last_line), ("in", str(status.folder))):
            if text:
                console.say(f"{status.job_id} {label}: {text}")


def doctor(
    cluster: Annotated[
        str | None, typer.Option("--cluster", help="Examine its nodes by a short job; else this machine.")
    ] = None,
    overrides: SetOption = None,
    shards: Annotated[Path | None, typer.Option(help="Shard set to read from, for loader speed.")] = None,
    out: Annotated[Path, typer.Option(help="Directory on the file system that runs will use.")] = Path("."),
) -> None:
    """Examine this installation before a long run: versions, gradients, network, loader, disk; what to do about it."""
    from lamae.cluster import doctor as doctor_module

    findings = doctor_module.examine(cluster, overrides or [], shards=shards, out=out)
    rows = [[finding.check, finding.result, finding.measured, finding.advice] for finding in findings]
    console.print_table("doctor", ["check", "result", "measured", "what to do"], rows)
    if any(finding.result == doctor_module.FAIL for finding in findings):
        raise LamaeError("doctor: at least one check failed; see the table")


def _format_left(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d}" if hours else f"{minutes} min"


def _write_through(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
