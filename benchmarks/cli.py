"""The verb ``bench`` of the command line; ``lamae.cli.app`` registers it."""

import os
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lamae import console
from lamae.base import files
from lamae.base.errors import LamaeError, UsageError
from lamae.base.place import find_place
from lamae.base.text import whole_numbers
from lamae.benchmarks.ranks import Session, call_apart
from lamae.benchmarks.result import BENCHMARKS, Spread, combine, print_ratios, read_result, run_benchmark, write_result

OF_RANKS = ("scaling",)
# What 'bench all' asks of the full forms, with fewer repeats than alone: all of it in eight minutes on two cores.
IN_ALL: dict[str, dict[str, Any]] = {
    "shard": {"repeats": 5},
    "loader": {"repeats": 3},
    "step": {"sizes": ("tiny", "small"), "repeats": 3},
    "scaling": {"repeats": 3},
}

JsonOption = Annotated[Path | None, typer.Option("--json", help="Write the result here; it has a top-level 'ratios'.")]
QuickOption = Annotated[bool, typer.Option("--quick", help="A short form that shows it works; its figures are rough.")]
SizeOption = Annotated[str | None, typer.Option(help="tiny, small, base or large; default small, with --quick tiny.")]


class _Group(TyperGroup):
    """Subcommands, of which an unknown one is answered like any other bad input: in one line."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            raise UsageError(f"no benchmark {args[0]!r}; there are {', '.join(self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    help="Measure each stage of the pipeline beside its alternatives and the fastest that the machine allows.",
)


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


def _add_plain(name: str) -> None:
    def command(json: JsonOption = None, quick: QuickOption = False) -> None:
        _run(name, json, quick=quick)

    app.command(name, help=_sentence(BENCHMARKS[name]))(command)


for plain in BENCHMARKS:
    if plain not in ("checkpoint", "scaling"):  # these have options of their own
        _add_plain(plain)


@app.command(help=_sentence(BENCHMARKS["checkpoint"]))
def checkpoint(json: JsonOption = None, quick: QuickOption = False, size: SizeOption = None) -> None:
    _run("checkpoint", json, quick=quick, size=size)


@app.command()
def scaling(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Changes to the configuration.")
    ] = None,
    json: JsonOption = None,
    quick: QuickOption = False,
    processes: Annotated[
        str | None,
        typer.Option(help="Job sizes to compare, the least being the base; default: 1,2, or of a job 1,2,4… and all."),
    ] = None,
    mode: Annotated[
        str, typer.Option(help="weak: the same records per process; strong: the same global batch; or weak,strong.")
    ] = "weak",
    zero: Annotated[str | None, typer.Option(help="ZeRO stages; default: all that the precision allows.")] = None,
    precision: Annotated[str, typer.Option(help="fp32 or bf16; stage 0 needs fp32.")] = "fp32",
    size: SizeOption = None,
    records: Annotated[int, typer.Option(help="Records per process and step of the largest job.")] = 4,
) -> None:
    """One process and several: efficiency, communication share, bytes on the wire by ZeRO stage.

    Starts its processes on this machine, or, launched as several ranks (torchrun, lamae submit), measures those.
    """
    stages = zero or ("0,1,2,3" if precision == "fp32" else "1,2,3")
    _run(
        "scaling",
        json,
        quick=quick,
        processes=whole_numbers("--processes", processes, example="1,2") if processes else None,
        modes=mode.split(","),
        zero=whole_numbers("--zero", stages, example="1,2", least=0),
        precision=precision,
        size=size,
        records=records,
        overrides=overrides or [],
    )


@app.command("all")
def run_all(
    json: JsonOption = None,
    quick: QuickOption = False,
    report: Annotated[
        Path | None, typer.Option(help="Write a Markdown report here, its charts in a folder beside it.")
    ] = None,
) -> None:
    """Every benchmark, each in a process of its own; one that fails does not stop the others."""
    _refuse_several("all")
    files.check_writable("--json", json)
    files.check_writable("--report", report)
    results: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    for name in BENCHMARKS:
        try:
            options = {} if quick else IN_ALL.get(name, {})
            results[name] = call_apart(_measure, name=name, quick=quick, options=options)
        except LamaeError as error:  # whatever it was, it is reported below and the command fails
            failed[name] = str(error).splitlines()[-1]
            console.print_error(f"{name}: {failed[name]}")
            continue
        results[name]["command"] = f"lamae bench all{' --quick' * quick}"
        print_ratios(results[name])
    combined = combine(results, failed=failed, quick=quick)
    if json is not None:
        write_result(combined, json)
    if report is not None:
        _write_report([combined], report)
    if failed:
        raise LamaeError(f"bench all: {', '.join(failed)} failed; run 'lamae bench {next(iter(failed))}' alone")


@app.command("gpu-check")
def gpu_check(
    json: Annotated[Path, typer.Option("--json", help="The report; what it holds already is not run again.")] = Path(
        "gpu-check.json"
    ),
    minutes: Annotated[float, typer.Option(help="Minutes after which nothing begins, and what runs is ended.")] = 8.0,
    quick: QuickOption = False,
) -> None:
    """Whether everything computes what it should on this machine's GPU, and how fast: one command, one report."""
    from lamae.benchmarks.gpu_check import check

    _refuse_several("gpu-check")
    files.check_writable("--json", json)
    report = check(json, minutes=minutes, quick=quick)
    print_ratios(report)
    if report["failed"]:
        raise LamaeError(f"gpu-check: {', '.join(report['failed'])} failed; {json} says why, and the next run goes on")


@app.command(context_settings={"ignore_unknown_options": True})
def against(
    revision: Annotated[str, typer.Argument(metavar="REVISION", help="Of this repository: a tag, a branch, a commit.")],
    name: Annotated[str, typer.Argument(metavar="BENCHMARK", help="Which, and its options after it.")],
    arguments: Annotated[list[str] | None, typer.Argument(metavar="OPTIONS", help="As of the benchmark.")] = None,
    json: JsonOption = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each side runs the whole benchmark.")] = 5,
) -> None:
    """A benchmark beside the same one of another revision, in turns: how many times as fast this code is."""
    from lamae.benchmarks.against import run_against

    _refuse_several("against")
    files.check_writable("--json", json)
    options = arguments or []
    with console.show_progress() as progress:
        result = run_against(revision, name, options, rounds=rounds, progress=progress)
    result["command"] = shlex.join(["lamae", "bench", "against", revision, name, *options, "--rounds", str(rounds)])
    print_ratios(result)
    if json is not None:
        write_result(result, json)


@app.command()
def compare(
    before: Annotated[Path, typer.Argument(metavar="A.json", help="A result, single or of 'bench all'.")],
    after: Annotated[Path, typer.Argument(metavar="B.json", help="Another of the same.")],
) -> None:
    """Ratios of two results side by side; what moved beyond both spreads is flagged."""
    from lamae.benchmarks.compare import MOVED, differing_conditions
    from lamae.benchmarks.compare import compare as compare_results

    old, new = read_result(before), read_result(after)
    changes = compare_results(old, new)
    if not any(change.factor for change in changes):
        raise UsageError(
            f"{before} and {after} have no ratio in common; compare results of the same benchmark, "
            "those of 'bench all' with each other"
        )
    if old["quick"] or new["quick"]:
        console.say("short form: few repeats, whose spread says little")
    for line in differing_conditions(old, new):
        console.say(f"differs: {line}")
    rows = [
        [
            change.name,
            _with_spread(change.before),
            _with_spread(change.after),
            "-" if change.factor is None else f"{change.factor:.3f}",
            change.verdict,
        ]
        for change in changes
    ]
    console.print_table(f"{before} -> {after}", ["ratio", "A", "B", "B / A", ""], rows)
    moved = sum(change.verdict == MOVED for change in changes)
    console.say(f"{moved} of {len(changes)} moved beyond both spreads")


@app.command()
def report(
    results: Annotated[list[Path], typer.Argument(metavar="RESULT.json", help="Results, single or of 'bench all'.")],
    out: Annotated[Path | None, typer.Option(help="Write it here; else to the terminal, without charts.")] = None,
) -> None:
    """Results as one Markdown page with charts in a folder beside it."""
    files.check_writable("--out", out)
    _write_report([read_result(path) for path in results], out)


def _measure(_session: Session, *, name: str, quick: bool, options: dict[str, Any]) -> dict[str, Any]:
    console.set_up_logging()
    with console.show_progress() as progress:
        return run_benchmark(name, quick=quick, progress=progress, **options)


def _run(name: str, json: Path | None, *, quick: bool, **options: Any) -> None:
    if name not in OF_RANKS:
        _refuse_several(name)
    if find_place(os.environ).rank:
        run_benchmark(name, quick=quick, **options)  # rank 0 speaks for all
        return
    files.check_writable("--json", json)
    with console.show_progress() as progress:
        result = run_benchmark(name, quick=quick, progress=progress, **options)
    result["command"] = _command(name, quick, options)
    print_ratios(result)
    if json is not None:
        write_result(result, json)


def _command(name: str, quick: bool, options: dict[str, Any]) -> str:
    """What was typed, defaults included."""
    words = ["lamae", "bench", name, *(["--quick"] if quick else []), *options.pop("overrides", [])]
    for option, value in options.items():
        if value is not None:
            listed = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            words += [f"--{option.removesuffix('s') if option == 'modes' else option}", listed]
    return shlex.join(words)


def _refuse_several(name: str) -> None:
    if find_place(os.environ).world_size > 1:
        raise UsageError(
            f"bench {name} is of one process: start it without a launcher; only {', '.join(OF_RANKS)} measures ranks"
        )


def _with_spread(spread: Spread | None) -> str:
    return "{:.3g} ({:.3g} to {:.3g})".format(*spread) if spread else "-"


def _write_report(results: list[dict[str, Any]], out: Path | None) -> None:
    from lamae.benchmarks.report import render_report, write_report

    if out is None:
        console.say(render_report(results))
    else:
        write_report(results, out)
