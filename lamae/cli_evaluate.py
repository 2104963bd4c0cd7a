"""The verbs that judge models and give them away: compare, finetune, export, import-embeddings."""

import hashlib
from pathlib import Path
from typing import Annotated

import typer

from lamae import console
from sharding.errors import UsageError

Transductive = Annotated[
    bool, typer.Option("--transductive", help="Allow test subjects that were in pretraining; said in the result.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda, or auto.")]
ShardsOption = Annotated[Path, typer.Option(help="A shard set made by 'lamae shard'.")]
LabelsOption = Annotated[Path, typer.Option(help="labels.zarr of 'lamae labels'.")]


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories; the first is on trial.")],
    shards: ShardsOption,
    labels: LabelsOption,
    out: Annotated[Path, typer.Option(help="Directory for the report and the embeddings it needs.")] = Path("compare"),
    store: Annotated[
        list[str] | None, typer.Option("--store", help="NAME=embeddings.zarr of another model; may be repeated.")
    ] = None,
    demographics: Annotated[
        Path | None, typer.Option(help="records_w_diag_icd10.csv or ptbxl_database.csv: adds a row of age and sex.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Draws of each small share of the labels.")] = 3,
    transductive: Transductive = False,
    device: Device = "auto",
) -> None:
    """Runs beside each other on one page: AUROC, few labels, missing leads, reconstruction, lead weights."""
    from lamae.evaluate.compare import compare as compare_runs
    from lamae.evaluate.demographics import embed_demographics
    from lamae.reports.compare import write_comparison

    stores = dict(_named(text) for text in store or [])
    if demographics is not None:
        path = out / "embeddings" / f"age-and-sex-{_digest(demographics)}.zarr"
        if not path.exists():
            embed_demographics(demographics, shards, path)
        stores["age and sex"] = path
    names = {run.resolve().name: run for run in runs}
    if len(names) < len(runs):
        raise UsageError(f"runs {', '.join(map(str, runs))}: two have the same name; rename one")
    with console.show_progress() as progress:
        comparison = compare_runs(
            names,
            shards,
            labels,
            out / "embeddings",
            stores=stores,
            num_seeds=seeds,
            transductive=transductive,
            device=pick_device(device),
            progress=progress,
        )
    write_comparison(comparison, out)
    rows = [[name, str(result.macro)] for name, result in comparison.probes["record"].items()]
    console.print_table("macro AUROC, frozen embeddings", ["", "AUROC (95 %)"], rows)
    console.console.print(f"report: {out / 'compare.html'}", soft_wrap=True)


def finetune(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory, or one of its checkpoints.")],
    shards: Annotated[Path, typer.Argument(metavar="SHARDS", help="A shard set made by 'lamae shard'.")],
    labels: Annotated[Path, typer.Argument(metavar="LABELS", help="labels.zarr of 'lamae labels'.")],
    out: Annotated[Path, typer.Argument(help="Directory to make, for weights and result.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Options, such as steps=2000 lr=5e-4.")
    ] = None,
    leads: Annotated[str | None, typer.Option(help="Train and test on these only, for example I,II,V2.")] = None,
    transductive: Transductive = False,
) -> None:
    """Train the encoder and a linear head on labels; from_scratch=true for the supervised reference.

    One process as it stands; under torchrun or srun, one process per rank.
    """
    from lamae import config as run_config
    from lamae.evaluate.finetune import FinetuneOptions
    from lamae.evaluate.finetune import finetune as finetune_model
    from sharding.leads import parse_leads

    options = run_config.override(FinetuneOptions(), overrides or [])
    try:
        chosen = tuple(parse_leads(leads)) if leads else None
    except ValueError as error:
        raise UsageError(f"--leads: {error}") from None
    with console.show_progress() as progress:
        result = finetune_model(
            run, shards, labels, out, options=options, leads=chosen, transductive=transductive, progress=progress
        )
    rows = [[code, str(value)] for code, value in result.by_code().items()]
    console.print_table(result.name, ["code", "AUROC (95 %)"], [*rows, ["macro", str(result.macro)]])
    console.console.print(f"weights and result: {out}", soft_wrap=True)


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory, or one of its checkpoints.")],
    out: Annotated[Path, typer.Argument(help="Directory to make.")],
) -> None:
    """Weights, configuration and a model card for others, without ids."""
    from lamae.evaluate.export import export as export_model

    export_model(run, out)
    console.console.print(f'{out}: load it with  lamae.load("{out}")', soft_wrap=True)


def import_embeddings(
    source: Annotated[Path, typer.Argument(help="NAME.npy with NAME.keys.txt beside it, NAME.npz or NAME.zarr.")],
    shards: Annotated[Path, typer.Argument(metavar="SHARDS", help="A shard set made by 'lamae shard'.")],
    out: Annotated[Path, typer.Argument(help="embeddings.zarr to make.")],
    allow_missing: Annotated[bool, typer.Option(help="Go on although some records have no embedding.")] = False,
) -> None:
    """Another model's embeddings, by record key, so that probe and compare treat them like ours."""
    from lamae.evaluate.foreign import import_embeddings as import_them

    count = import_them(source, shards, out, allow_missing=allow_missing)
    console.console.print(f"{count:,} records; next: lamae probe {out} LABELS.zarr", soft_wrap=True)


def pick_device(name: str) -> str:
    """``auto`` is CUDA where there is any. Raises UsageError for a device that this machine does not have."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind = name.split(":")[0]
    if kind not in ("cpu", "cuda"):
        raise UsageError(f"--device {name}: is none of cpu, cuda, auto")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"--device {name}: torch finds no CUDA device here; take --device cpu or auto")
    return name


def _digest(path: Path) -> str:
    """First 16 hex digits of a file's sha256."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        raise UsageError(f"{path}: not readable ({error.strerror})") from None


def _named(text: str) -> tuple[str, Path]:
    name, separator, path = text.partition("=")
    if not separator or not name or not path:
        raise UsageError(f"--store {text!r}: write NAME=PATH")
    return name, Path(path)
