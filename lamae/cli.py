"""The one command, ``lamae``. Every verb is a thin layer over a function of its house and imports it lazily.

Exit codes: 0 done, 1 failed, 2 bad usage or configuration (never retried), 75 stopped on request after saving.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from lamae import console
from sharding.errors import LamaeError

app = typer.Typer(
    name="lamae",
    help="Pretrain and evaluate the latent attention masked autoencoder for 12-lead ECG.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

BENCH_NOTE = "ratios measured side by side in this run"
ShardsArgument = Annotated[Path, typer.Argument(metavar="SHARDS", help="A shard set made by 'lamae shard'.")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory, or one of its checkpoints.")]


def main() -> None:
    """Console entry point: runs the verb, turns bad input into one line and an exit code."""
    console.set_up_logging()
    try:
        app()
    except LamaeError as error:
        console.print_error(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        console.print_error("interrupted")
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output (head, less) has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


@app.command()
def synth(
    out: Annotated[Path, typer.Argument(help="Directory to make; must not exist or be empty.")],
    records: Annotated[int, typer.Option(help="Number of ECGs.")] = 1000,
    subjects: Annotated[int, typer.Option(help="Number of people they come from.")] = 400,
    seed: Annotated[int, typer.Option(help="Same seed, same files.")] = 0,
    defect_rate: Annotated[float, typer.Option(help="Share of records with NaN runs, flat or missing leads.")] = 0.01,
) -> None:
    """Write synthetic 12-lead ECGs as a MIMIC-IV-ECG tree, with ICD-10 codes visible in the waveforms."""
    from sharding.synth import synthesize

    with console.show_progress() as progress:
        synthesize(
            out,
            num_records=records,
            num_subjects=subjects,
            seed=seed,
            defect_rate=defect_rate,
            progress=progress,
        )
    console.console.print(f"next: lamae shard {out} {out.with_name(out.name + '-shards')}", soft_wrap=True)


@app.command()
def inspect(
    shards: ShardsArgument,
    key: Annotated[str | None, typer.Argument(help="Record key; the first record when left out.")] = None,
    save: Annotated[Path | None, typer.Option(help="Where to write the plot (default: KEY.png here).")] = None,
) -> None:
    """Print a record and save its 12-lead plot on ECG paper (25 mm/s, 10 mm/mV)."""
    from lamae.reports.inspect import describe_record, save_record_plot
    from sharding.format import ShardSet

    shard_set = ShardSet.open(shards)
    row = shard_set.row_of(key) if key is not None else 0
    title, columns, rows = describe_record(shard_set, row)
    console.print_table(title, columns, rows)
    path = save_record_plot(shard_set, row, save or Path(f"{shard_set.keys[row]}.png"))
    console.console.print(f"plot: {path}", soft_wrap=True)


@app.command(context_settings={"allow_extra_args": False})
def train(
    config: Annotated[str, typer.Argument(help="Run configuration (YAML), for example configs/pretrain/tiny.yaml.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Dotted overrides.")] = None,
) -> None:
    """Pretrain. Started again with the same run.dir, it goes on from the newest whole checkpoint.

    One process as it stands; under torchrun, deepspeed or srun, one process per rank.
    """
    raise typer.Exit(run_training(config, overrides or []))


def run_training(config_path: str, overrides: list[str]) -> int:
    """Load the configuration and train; the exit code. Figures for TensorBoard are drawn by lamae.reports."""
    from lamae import config as run_config

    config = run_config.load(config_path, overrides)

    from lamae.reports.training import draw_figures
    from lamae.train.loop import train as train_loop

    return train_loop(config, draw_figures=draw_figures)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Directory for everything the demo makes.")] = Path("demo"),
    records: Annotated[int, typer.Option(help="Synthetic ECGs to make.")] = 4000,
    seed: Annotated[int, typer.Option(help="Seed of the data and of both models.")] = 0,
    processes: Annotated[int, typer.Option(help="Training processes (default: one per core, at most 2).")] = 0,
) -> None:
    """The whole way in minutes: synth, shard, verify, train LAMAE and a baseline, embed, probe, report."""
    from lamae.demo import run_demo

    run_demo(out, num_records=records, seed=seed, num_processes=processes or min(2, os.cpu_count() or 1))


@app.command()
def bench(
    name: Annotated[str, typer.Argument(help="shard, loader, kernels or step.")],
    json: Annotated[Path | None, typer.Option(help="Write the result here; it has a top-level 'ratios'.")] = None,
    quick: Annotated[bool, typer.Option(help="A short form that shows it works; its figures are rough.")] = False,
) -> None:
    """Measure one arrow of the system side by side with its alternatives and its floor."""
    from benchmarks.result import run_benchmark, write_result

    with console.show_progress() as progress:
        result = run_benchmark(name, quick=quick, progress=progress)
    rows = [
        [ratio, f"{value:.2f}", "{:.2f} to {:.2f}".format(*result.get("ratio_spread", {}).get(ratio, (value, value)))]
        for ratio, value in result["ratios"].items()
    ]
    console.print_table(f"{name}: {BENCH_NOTE}", ["ratio", "median", "spread"], rows)
    if json is not None:
        write_result(result, json)


if __name__ == "__main__":
    main()
