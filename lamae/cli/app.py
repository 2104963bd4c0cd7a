"""The one command, ``lamae``. Every verb is a thin layer over a function of its package and imports it lazily.

Exit codes are in ``lamae.base.errors``.
"""

import os
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer

from lamae import console
from lamae.base import allocator
from lamae.base.errors import EXIT_INTERRUPTED, LamaeError, UsageError
from lamae.base.place import prints_error
from lamae.benchmarks import cli as bench_cli
from lamae.benchmarks.forecast import cli as forecast_cli
from lamae.cli import data as cli_data
from lamae.cli import evaluate as cli_evaluate
from lamae.cli import labels as cli_labels
from lamae.cli import study as cli_study
from lamae.cli import verbs
from lamae.cluster import cli as cluster_cli

# Groups of verbs, as --help lists them.
START, DATA, TRAINING, EVALUATION = "Get started", "Data", "Training", "Evaluation"
COMPARING, CLUSTER, MEASURING = "Comparing methods", "On a SLURM cluster", "Measurements and forecasts"

app = typer.Typer(
    name="lamae",
    help="Pretrain and evaluate the latent attention masked autoencoder for 12-lead ECG.",
    cls=verbs.Root,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        console.say(f"lamae {metadata.version('lamae')}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
    local_rank: Annotated[int, typer.Option("--local_rank", hidden=True, help="The DeepSpeed launcher's.")] = 0,
) -> None:
    """Pretrain and evaluate the latent attention masked autoencoder for 12-lead ECG."""


def main() -> None:
    """Console entry point: runs the verb, turns bad input into one line and an exit code."""
    console.set_up_logging()
    console.say_when_terminated()
    allocator.share_one_arena()
    try:
        app()
    except LamaeError as error:
        if prints_error(error, os.environ):
            console.print_error(str(error))
        sys.exit(error.exit_code)
    except SystemExit as leaving:
        if leaving.code == EXIT_INTERRUPTED:  # what the command line makes of Ctrl-C, without a word
            console.print_error(f"interrupted; {console.GOES_ON}")
        raise
    except BrokenPipeError:  # the reader of our output (head, less) has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


for verb in (cli_data.synth, cli_data.shard, cli_data.verify, cli_data.inspect, cli_data.card):
    app.command(rich_help_panel=DATA)(verb)


@app.command(context_settings={"allow_extra_args": False}, rich_help_panel=TRAINING)
def train(
    config: Annotated[
        str,
        typer.Argument(metavar="CONFIG", help="Configuration: a YAML file, or tiny, tiny-200ms, small, base, large."),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Changes to it, such as train.steps=1000; --print-config lists all."),
    ] = None,
    print_config: verbs.PrintConfig = False,
) -> None:
    """Pretrain. Started again with the same run.dir, it goes on from the newest whole checkpoint.

    One process as it stands; under torchrun, deepspeed or srun, one process per rank.
    """
    from lamae.base.settings import explain
    from lamae.train.runconfig import RunConfig

    if print_config:
        console.say(explain(RunConfig(), config, overrides or [], kind="pretrain"))
        return
    raise typer.Exit(run_training(config, overrides or []))


def run_training(config_path: str, overrides: list[str]) -> int:
    """Load the configuration and train; the exit code. Figures are drawn by lamae.reports, probes by lamae.evaluate."""
    from lamae.train import runconfig

    config = runconfig.load(config_path, overrides)
    probe = None
    if config.monitor.probe_every:
        if config.monitor.probe_labels is None:
            raise UsageError(
                f"monitor.probe_every={config.monitor.probe_every} needs monitor.probe_labels=LABELS.zarr, as "
                "'lamae labels' writes it"
            )
        from lamae.evaluate.online import OnlineProbe

        labels = Path(config.monitor.probe_labels)
        probe = OnlineProbe(config, labels, num_records=config.monitor.probe_records)

    from lamae.reports.training import draw_figures
    from lamae.train.loop import train as train_loop

    return train_loop(config, draw_figures=draw_figures, probe=probe)


@app.command(rich_help_panel=TRAINING)
def checkpoints(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    verify: Annotated[bool, typer.Option("--verify", help="Read every file and compare it with its hash.")] = False,
    keep: Annotated[
        int | None,
        typer.Option(
            min=1, help="Remove all but this many, the newest; pinned ones and multiples of checkpoint.keep_every stay."
        ),
    ] = None,
) -> None:
    """List, verify or prune the checkpoints of a run."""
    from lamae.base.rundirectory import RunDirectory
    from lamae.train.checkpoint import format as checkpoint
    from lamae.train.checkpoint.writing import prune_checkpoints

    root = RunDirectory(run).checkpoints
    if not root.is_dir():
        raise UsageError(f"{run}: no checkpoints/ in it; is this a run directory?")
    if keep is not None:
        for removed in prune_checkpoints(root, keep=keep):
            console.say(f"removed {removed}")
    rows, broken = [], 0
    for info in checkpoint.list_checkpoints(root):
        problems = [str(info.unreadable)] if info.unreadable else []
        problems = checkpoint.verify_checkpoint(info.path) if verify else problems
        state = "; ".join(problems) if problems else ("whole" if verify else "")
        if problems and not info.path.is_dir():  # the run has pruned it
            problems, state = [], "removed meanwhile"
        broken += bool(problems)
        rows.append([info.path.name, f"{info.step:,}", f"{info.samples_consumed:,}", state])
    console.print_table(f"{root}", ["checkpoint", "step", "samples", "state"], rows)
    if broken:
        raise LamaeError(f"{root}: {broken} of {len(rows)} checkpoints are broken; a resume passes over them")


@app.command(rich_help_panel=START)
def demo(
    out: Annotated[Path, typer.Option(help="Directory for everything the demo makes.")] = Path("demo"),
    records: Annotated[int, typer.Option(min=100, help="Synthetic ECGs to make.")] = 4000,
    seed: Annotated[int, typer.Option(help="Seed of the data and of both models.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Training steps of each model.")] = 1000,
    processes: Annotated[int, typer.Option(min=0, help="Training processes (default: one per core, at most 2).")] = 0,
) -> None:
    """The whole way in minutes: synth, shard, verify, train LAMAE and a baseline, embed, probe, report."""
    from lamae.base.processes import usable_cores
    from lamae.demo import run_demo

    run_demo(
        out,
        num_records=records,
        seed=seed,
        num_processes=processes or min(2, usable_cores()),
        steps=steps,
    )


app.command(rich_help_panel=EVALUATION)(cli_labels.labels)
app.command(rich_help_panel=EVALUATION)(cli_evaluate.embed)
app.command(rich_help_panel=EVALUATION)(cli_evaluate.probe)
app.command(rich_help_panel=EVALUATION)(cli_evaluate.finetune)
app.command(rich_help_panel=COMPARING)(cli_evaluate.compare)
app.command(rich_help_panel=EVALUATION)(cli_evaluate.export)
app.command(rich_help_panel=EVALUATION)(cli_evaluate.import_embeddings)
app.command(rich_help_panel=COMPARING)(cli_study.study)
app.command(context_settings=cluster_cli.SUBMIT_CONTEXT, rich_help_panel=CLUSTER)(cluster_cli.submit)
app.command(rich_help_panel=CLUSTER)(cluster_cli.jobs)
app.command(rich_help_panel=CLUSTER)(cluster_cli.doctor)
app.add_typer(bench_cli.app, name="bench", rich_help_panel=MEASURING)
app.command(rich_help_panel=MEASURING)(forecast_cli.plan)

verbs.share_options(app)
verbs.share_options(bench_cli.app)


if __name__ == "__main__":
    main()
