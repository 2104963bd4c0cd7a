"""The one command, ``lamae``. Every verb is a thin layer over a function of its house and imports it lazily.

Exit codes: 0 done, 1 failed, 2 bad usage or configuration (never retried), 75 stopped on request after saving.
"""

import os
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import cli as bench_cli
from benchmarks.plan import cli as plan_cli
from cluster import cli as cluster_cli
from lamae import cli_evaluate, console
from sharding.errors import LamaeError, UsageError

app = typer.Typer(
    name="lamae",
    help="Pretrain and evaluate the latent attention masked autoencoder for 12-lead ECG.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

EXIT_INTERRUPTED = 130

ShardsArgument = Annotated[Path, typer.Argument(metavar="SHARDS", help="A shard set made by 'lamae shard'.")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory, or one of its checkpoints.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        console.console.print(f"lamae {metadata.version('lamae')}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Pretrain and evaluate the latent attention masked autoencoder for 12-lead ECG."""


def main() -> None:
    """Console entry point: runs the verb, turns bad input into one line and an exit code."""
    console.set_up_logging()
    try:
        app()
    except LamaeError as error:
        console.print_error(str(error))
        sys.exit(error.exit_code)
    except SystemExit as leaving:
        if leaving.code == EXIT_INTERRUPTED:  # what the command line makes of Ctrl-C, without a word
            console.print_error("interrupted; what is complete stays, the same command goes on from there")
        raise
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
def shard(
    source: Annotated[
        Path, typer.Argument(help="MIMIC-IV-ECG or PTB-XL, any directory of WFDB records, or a .zip of one.")
    ],
    out: Annotated[Path, typer.Argument(help="Shard set to make: absent, empty, or begun by the same command.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Further options, such as quality.flat=reject.")
    ] = None,
    kind: Annotated[str, typer.Option("--source", help="mimic, ptbxl, wfdb, or auto to detect it.")] = "auto",
    workers: Annotated[int, typer.Option(help="Processes; any number gives the same bytes.")] = 1,
    shard_size: Annotated[int, typer.Option(help="Records listed per tar.")] = 1024,
    limit: Annotated[int | None, typer.Option(help="Only the first so many records of the sorted listing.")] = None,
    splits_from: Annotated[Path | None, typer.Option(help="CSV with study_id or key, and strat_fold or fold.")] = None,
    audit: Annotated[
        float, typer.Option(help="Share of records that stock wfdb reads too, compared bit for bit.")
    ] = 0.01,
    plan_only: Annotated[
        bool, typer.Option("--plan-only", help="Only plan: then pack --parts anywhere, and merge without either.")
    ] = False,
    parts: Annotated[
        str | None, typer.Option(metavar="K/N", help="Of a plan, pack part K and every N-th after it; do not merge.")
    ] = None,
    card: Annotated[
        bool, typer.Option("--card/--no-card", help="Write OUT-card.html, a data card, beside OUT.")
    ] = True,
    examples: Annotated[bool, typer.Option("--examples/--no-examples", help="Show a few traces on the card.")] = True,
) -> None:
    """Pack WFDB records into WebDataset tar shards with an index, quality control and splits by subject.

    Killed and started again with the same command, it goes on where it was.
    """
    from lamae.config import override
    from sharding.options import PackOptions
    from sharding.pack import pack, pack_part
    from sharding.plan import Plan, plan

    options = PackOptions(
        source=kind,
        workers=workers,
        shard_size=shard_size,
        limit=limit,
        splits_from=str(splits_from) if splits_from else None,
        audit=audit,
    )
    options = override(options, overrides or [])
    with console.show_progress() as progress:
        if plan_only:
            plan(source, out, options=options, progress=progress)
            return
        if parts is not None:
            for part in _every_nth(parts, count=Plan.open(out).num_parts):
                pack_part(source, out, part, progress=progress)
            return
        manifest = pack(source, out, options=options, progress=progress)
    rows = [["records", f"{manifest['num_records']:,}"], ["subjects", f"{manifest['num_subjects']:,}"]]
    rows += [[f"split {name}", f"{count['records']:,}"] for name, count in manifest["splits"].items()]
    rows += [[f"rejected: {reason}", f"{count:,}"] for reason, count in manifest["rejects"].items()]
    rows += [[f"leads flagged: {flag}", f"{count:,}"] for flag, count in manifest["lead_flags"].items() if count]
    rows += [[f"records flagged: {flag}", f"{count:,}"] for flag, count in manifest["record_flags"].items() if count]
    console.print_table(f"{out}: packed", ["", "number"], rows)
    if card:
        from lamae.reports.datacard import write_data_card

        path = out.with_name(f"{out.name}-card.html")
        write_data_card(out, path, examples=examples)
        console.console.print(f"data card: {path}", soft_wrap=True)
    console.console.print(f"next: lamae verify {out}", soft_wrap=True)


def _every_nth(text: str, *, count: int) -> range:
    """``K/N`` as K, K + N, K + 2 N, … below ``count``. Raises UsageError."""
    first, _, stride = text.partition("/")
    if not (first.isdecimal() and stride.isdecimal() and int(first) < int(stride)):
        raise UsageError(f"--parts {text}: write K/N with K from 0 to N - 1, for example 0/16")
    return range(int(first), count, int(stride))


@app.command()
def verify(shards: ShardsArgument) -> None:
    """Check every byte of a shard set: tar hashes, record checksums, index, counts, splits."""
    from sharding.verify import verify as verify_shard_set

    with console.show_progress() as progress:
        report = verify_shard_set(shards, progress=progress)
    for problem in report.problems:
        console.print_error(problem)
    if report.problems:
        raise LamaeError(f"{shards}: {len(report.problems)} problems, named above; remove it and pack it again")
    console.console.print(
        f"{shards}: whole, {report.num_records:,} records in {report.num_shards:,} shards", soft_wrap=True
    )


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
def labels(
    shards: ShardsArgument,
    file: Annotated[
        Path, typer.Argument(help="records_w_diag_icd10.csv, ptbxl_database.csv, WFDB headers or any CSV.")
    ],
    out: Annotated[Path, typer.Argument(help="labels.zarr to make.")],
    source: Annotated[
        str, typer.Option(help="mimic-icd10, ptbxl, snomed or csv; by default told from the file.")
    ] = "auto",
    protocol: Annotated[str, typer.Option(help="shards keeps their splits; or ed2all, all2all, folds.")] = "shards",
    min_count: Annotated[
        int | None, typer.Option(help="Keep codes with so many records (default: 2000 for mimic-icd10, else 1).")
    ] = None,
    top: Annotated[int | None, typer.Option(help="Keep only so many most frequent codes.")] = None,
    key_column: Annotated[str, typer.Option(help="csv: the column with record keys.")] = "key",
    column: Annotated[
        str, typer.Option(help="mimic-icd10: the column with diagnoses, such as ed_diag_ed or all_diag_hosp.")
    ] = "all_diag_all",
    task: Annotated[
        str, typer.Option(help="ptbxl: superclass, subclass, diagnostic, form, rhythm, all.")
    ] = "superclass",
    min_likelihood: Annotated[float, typer.Option(help="ptbxl: a statement counts from so many percent on.")] = 0.0,
    allow_missing: Annotated[bool, typer.Option(help="Go on although some records have no line in FILE.")] = False,
) -> None:
    """Join diagnoses to the rows of a shard set."""
    from lamae.evaluate.sources import build_labels

    if source == "auto":
        source = "snomed" if file.is_dir() else "ptbxl" if file.name.startswith("ptbxl") else "mimic-icd10"
    report = build_labels(
        shards,
        out,
        source=source,
        file=file,
        protocol=protocol,
        min_count=(2000 if source == "mimic-icd10" else 1) if min_count is None else min_count,
        top=top,
        column=column,
        task=task,
        min_likelihood=min_likelihood,
        allow_missing=allow_missing,
        key_column=key_column,
    )
    console.console.print(str(report), soft_wrap=True)


@app.command()
def embed(
    run: RunArgument,
    shards: ShardsArgument,
    out: Annotated[Path, typer.Argument(help="embeddings.zarr to make.")],
    split: Annotated[str, typer.Option(help="train, val, test or all.")] = "all",
    leads: Annotated[str | None, typer.Option(help="Show the model only these, for example I,II,V2.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Records at once.")] = 64,
    per_lead: Annotated[bool, typer.Option(help="Also keep one latent per lead.")] = False,
    random_weights: Annotated[bool, typer.Option(help="The same architecture untrained: the reference row.")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto.")] = "auto",
) -> None:
    """Embed every record with a frozen model."""
    from lamae.evaluate.embed import embed as embed_records
    from sharding.leads import parse_leads

    try:
        chosen = parse_leads(leads) if leads else None
    except ValueError as error:
        raise UsageError(f"--leads: {error}") from None
    with console.show_progress() as progress:
        embed_records(
            run,
            shards,
            out,
            split=split,
            leads=chosen,
            batch_size=batch_size,
            per_lead=per_lead,
            random_weights=random_weights,
            device=cli_evaluate.pick_device(device),
            progress=progress,
        )
    console.console.print(f"next: lamae probe {out} LABELS.zarr", soft_wrap=True)


@app.command()
def probe(
    embeddings: Annotated[Path, typer.Argument(metavar="EMBEDDINGS", help="embeddings.zarr of 'lamae embed'.")],
    labels: Annotated[Path, typer.Argument(metavar="LABELS", help="labels.zarr of 'lamae labels'.")],
    readout: Annotated[
        str, typer.Option(help="record (the model's own pooling) or mean (common to all models).")
    ] = "record",
    method: Annotated[str, typer.Option(help="logistic or knn.")] = "logistic",
    against: Annotated[Path | None, typer.Option(help="Other embeddings.zarr: paired differences to it.")] = None,
    transductive: Annotated[
        bool, typer.Option(help="Allow test subjects that were in pretraining; said in the result.")
    ] = False,
    json: Annotated[Path | None, typer.Option(help="Write the result here too.")] = None,
) -> None:
    """Read labels off frozen embeddings: AUROC of every code with 95 % intervals by subject."""
    from lamae.evaluate import probe as probing

    result = probing.probe(embeddings, labels, readout=readout, method=method, transductive=transductive)
    rows = [[code, f"{result.prevalence[code]:.3f}", str(value)] for code, value in result.by_code().items()]
    columns = ["code", "prevalence", "AUROC (95 %)"]
    macro = ["macro", "", str(result.macro)]
    summary: dict[str, Any] = {"probe": result.to_dict()}
    if against is not None:
        other = probing.probe(against, labels, readout=readout, method=method, transductive=transductive)
        difference = probing.difference(result, other)
        columns.append(f"minus {other.name}")
        rows = [[*row, str(difference.by_code[row[0]])] for row in rows]
        macro.append(str(difference.macro))
        summary |= {"against": other.to_dict(), "difference": difference.to_dict()}
    console.print_table(
        f"{result.name}: probe on {len(result.test_rows):,} test records of {result.num_test_subjects:,} subjects, "
        f"subjects seen in pretraining: {result.contamination}",
        columns,
        [*rows, macro],
    )
    for code, reason in result.left_out.items():
        console.console.print(f"left out of the macro: {code} ({reason})", soft_wrap=True)
    if json is not None:
        console.write_json(json, summary)


@app.command()
def checkpoints(
    run: Annotated[Path, typer.Argument(help="Run directory.")],
    verify: Annotated[bool, typer.Option(help="Read every file and compare it with its hash.")] = False,
    keep: Annotated[
        int | None, typer.Option(min=1, help="Remove all but the newest so many (pinned ones stay).")
    ] = None,
) -> None:
    """List, verify or prune the checkpoints of a run."""
    from lamae.train import checkpoint

    root = run / "checkpoints"
    if not root.is_dir():
        raise UsageError(f"{run}: no checkpoints/ in it; is this a run directory?")
    if keep is not None:
        for removed in checkpoint.prune_checkpoints(root, keep=keep):
            console.console.print(f"removed {removed}", soft_wrap=True)
    infos = checkpoint.list_checkpoints(root)
    rows, broken = [], 0
    for info in infos:
        problems = checkpoint.verify_checkpoint(info.path) if verify else []
        broken += bool(problems)
        state = "; ".join(problems) if problems else ("whole" if verify else "")
        rows.append([info.path.name, f"{info.step:,}", f"{info.samples_consumed:,}", state])
    console.print_table(f"{root}", ["checkpoint", "step", "samples", "state"], rows)
    if broken:
        raise LamaeError(f"{root}: {broken} of {len(infos)} checkpoints are broken; a resume passes over them")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Directory for everything the demo makes.")] = Path("demo"),
    records: Annotated[int, typer.Option(min=100, help="Synthetic ECGs to make.")] = 4000,
    seed: Annotated[int, typer.Option(help="Seed of the data and of both models.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Training steps of each model.")] = 1000,
    processes: Annotated[int, typer.Option(help="Training processes (default: one per core, at most 2).")] = 0,
) -> None:
    """The whole way in minutes: synth, shard, verify, train LAMAE and a baseline, embed, probe, report."""
    from lamae.demo import run_demo
    from lamae.launch import usable_cores

    run_demo(
        out,
        num_records=records,
        seed=seed,
        num_processes=processes or min(2, usable_cores()),
        steps=steps,
    )


app.command()(cli_evaluate.finetune)
app.command()(cli_evaluate.compare)
app.command()(cli_evaluate.export)
app.command()(cli_evaluate.import_embeddings)
app.command(context_settings=cluster_cli.SUBMIT_CONTEXT)(cluster_cli.submit)
app.command()(cluster_cli.jobs)
app.command()(cluster_cli.doctor)
app.add_typer(bench_cli.app, name="bench")
app.command()(plan_cli.plan)


if __name__ == "__main__":
    main()
