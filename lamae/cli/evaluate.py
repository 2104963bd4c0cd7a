"""The verbs that evaluate models and give them away: embed, probe, compare, finetune, export and the like."""

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lamae import console
from lamae.base import files
from lamae.base.errors import UsageError
from lamae.cli import verbs

if TYPE_CHECKING:  # these import torch, which takes a second; every verb imports what it needs when called
    from lamae.evaluate.probe.fewlabels import FewLabelCurve
    from lamae.evaluate.probe.result import Measures, ProbeResult
    from lamae.evaluate.statistics import Interval

Transductive = Annotated[
    bool, typer.Option("--transductive", help="Allow test subjects that were in pretraining; noted in the result.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda, or auto.")]
ShardsOption = Annotated[Path, typer.Option(help="A shard set made by 'lamae shard'.")]
LabelsOption = Annotated[Path, typer.Option(help="labels.zarr of 'lamae labels'.")]
ShardsArgument = Annotated[Path, typer.Argument(metavar="SHARDS", help="A shard set made by 'lamae shard'.")]
LabelsArgument = Annotated[Path, typer.Argument(metavar="LABELS", help="labels.zarr of 'lamae labels'.")]
RunArgument = Annotated[
    Path,
    typer.Argument(
        metavar="RUN",
        help="Run directory, one of its checkpoints, an exported model, or a name: lamae-tiny, which comes with lamae, "
        "or owner/name on the Hugging Face hub.",
    ),
]


def embed(
    run: RunArgument,
    shards: ShardsArgument,
    out: Annotated[Path, typer.Argument(help="embeddings.zarr to make.")],
    split: Annotated[str, typer.Option(help="train, val, test or all.")] = "all",
    leads: Annotated[str | None, typer.Option(help="Show the model only these, for example I,II,V2.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Records at once (default: what a core's cache holds).")
    ] = None,
    per_lead: Annotated[bool, typer.Option("--per-lead", help="Also keep one latent per lead.")] = False,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="The same architecture untrained: the reference row.")
    ] = False,
    device: Device = "auto",
) -> None:
    """Embed every record with a frozen model."""
    from lamae.evaluate.embeddings.embed import embed as embed_records

    chosen = _leads(leads)
    with console.show_progress() as progress:
        made = embed_records(
            run,
            shards,
            out,
            split=split,
            leads=chosen,
            batch_size=batch_size,
            per_lead=per_lead,
            random_weights=random_weights,
            device=pick_device(device),
            progress=progress,
        )
    if _prints_result():
        done = "" if made else f"{out}: already complete; "
        console.hint(f"{done}next: lamae probe {out} LABELS.zarr")


def probe(
    embeddings: Annotated[Path, typer.Argument(metavar="EMBEDDINGS", help="embeddings.zarr of 'lamae embed'.")],
    labels: LabelsArgument,
    readout: Annotated[
        str, typer.Option(help="record (the model's own pooling) or mean (of its tokens: better with few labels).")
    ] = "record",
    method: Annotated[str, typer.Option(help="logistic or knn.")] = "logistic",
    against: Annotated[Path | None, typer.Option(help="Other embeddings.zarr: paired differences to it.")] = None,
    fraction: Annotated[
        str | None,
        typer.Option(help="Also fit on these shares of the training subjects, such as 0.01,0.05,0.1,1."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Draws of each fraction below 1.")] = 3,
    test: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="EMBEDDINGS LABELS", help="Test on these, of another shard set; fit on the arguments."),
    ] = None,
    test_split: Annotated[str, typer.Option(help="With --test: test, or all of its labelled records.")] = "test",
    against_test: Annotated[
        Path | None, typer.Option(help="With --test and --against: the other model's embeddings of the set tested on.")
    ] = None,
    transductive: Transductive = False,
    json: Annotated[Path | None, typer.Option(help="Write the result here too.")] = None,
) -> None:
    """Read labels off frozen embeddings: AUROC of every code with 95 % intervals by subject.

    With --test across hospitals: fitted on one shard set's patients, tested on another's, on the codes that both have.
    """
    from lamae.evaluate.probe import fit as probing
    from lamae.evaluate.probe import transfer
    from lamae.evaluate.probe.fewlabels import distinct_fractions, few_label_curve, parse_fractions

    files.check_writable("--json", json)
    fractions = parse_fractions(fraction) if fraction is not None else []
    if (against_test is not None) != (test is not None and against is not None):
        raise UsageError("--against-test goes with --test and --against: the same two sets for both models")
    pairs = [(embeddings, test[0] if test else None)]
    if against is not None:
        pairs.append((against, against_test))
    models, truth, left_out = transfer.read(
        pairs, labels=labels, readout=readout, test_labels=test[1] if test else None, test_split=test_split
    )
    results = [probing.probe_arrays(features, truth, method=method, transductive=transductive) for features in models]
    results = [dataclasses.replace(result, left_out=left_out | result.left_out) for result in results]
    result, other = results[0], results[-1]
    summary: dict[str, Any] = {"probe": result.to_dict()}
    difference = None
    if against is not None:
        difference = probing.difference(result, other)
        summary |= {"against": other.to_dict(), "difference": difference.to_dict()}
    _print_result(result, f"{result.name}: {method} probe", truth.descriptions, other.name, difference)
    if fractions:
        fractions = distinct_fractions(models[0].subject_N, truth, fractions)
        with console.show_progress() as progress:
            curves = [
                few_label_curve(
                    features,
                    truth,
                    fractions=fractions,
                    num_seeds=seeds,
                    method=method,
                    transductive=transductive,
                    progress=progress,
                )
                for features in models
            ]
        summary |= _print_few_labels(curves, num_seeds=seeds)
    if json is not None:
        from lamae.evaluate.values import finite

        files.write_json(json, finite(summary))


def _print_result(
    result: "ProbeResult",
    heading: str,
    descriptions: dict[str, str],
    other: str = "",
    difference: "Measures | None" = None,
) -> None:
    """AUROC of every code and group, by how much it is above that of ``other`` where there is a difference, and which
    codes are left out.
    """
    from lamae.evaluate.labels.groups import code_groups

    groups = code_groups(result.codes)
    about = {code: f"{share:.3f}" for code, share in result.prevalence.items()}
    about |= {group: f"{len(codes)} codes" for group, codes in groups.items()}
    columns, values = ["code", "prevalence", "AUROC (95 %)"], _all_intervals(result)
    rows = [[name, about.get(name, ""), str(value)] for name, value in values.items()]
    if difference is not None:
        columns.append(f"minus {other}")
        rows = [[*row, str(gap)] for row, gap in zip(rows, _all_intervals(difference).values(), strict=True)]
    if any(descriptions.get(code) for code in result.codes):
        columns.insert(1, "name")
        rows = [[row[0], descriptions.get(row[0], ""), *row[1:]] for row in rows]
    console.print_table(
        f"{heading} on {len(result.test_rows):,} test records of {result.num_test_subjects:,} "
        f"subjects, subjects seen in pretraining: {result.contamination}",
        columns,
        rows,
    )
    _print_left_out(result, descriptions)


def _print_left_out(result: "ProbeResult", descriptions: dict[str, str]) -> None:
    from lamae.base.text import few
    from lamae.evaluate.statistics import MIN_SUBJECTS

    def say(what: str, codes: list[str]) -> None:
        names = few([" ".join([code, descriptions.get(code, "")]).strip() for code in codes])
        console.say(f"left out of {what}: {names}")

    for reason in dict.fromkeys(result.left_out.values()):
        say(f"the macro ({reason})", [code for code, its in result.left_out.items() if its == reason])
    if result.left_out_of_means:
        say(f"every mean (under {MIN_SUBJECTS} test subjects in a class, so no interval)", result.left_out_of_means)
    if result.without_f1:
        say("the macro F1 (no positive record in val, which chooses the threshold)", result.without_f1)


def _print_few_labels(curves: "list[FewLabelCurve]", *, num_seeds: int) -> dict[str, Any]:
    """A table of one curve, or of two and their difference; gives the same for JSON."""
    from lamae.evaluate.probe.fewlabels import curve_difference

    summary: dict[str, Any] = {
        "few_labels": {role: curve.to_dict() for role, curve in zip(("probe", "against"), curves, strict=False)}
    }
    first = curves[0]
    rows = [
        [f"{share:g}", f"{number:,}", f"{first.num_records(share):,}", *(str(curve.macro(share)) for curve in curves)]
        for share, number in first.num_subjects.items()
    ]
    columns = ["share of training subjects", "subjects", "records", *(curve.name for curve in curves)]
    if len(curves) == 2:
        gaps = {f"{share:g}": curve_difference(first, curves[1], share) for share in first.results}
        summary["few_labels_difference"] = gaps
        columns, rows = [*columns, "difference"], [[*row, str(gaps[row[0]])] for row in rows]
    console.print_table(
        f"few labels: macro AUROC, mean over {num_seeds} draws of subjects; with all of them, of one fit", columns, rows
    )
    return summary


def _all_intervals(found: "Measures") -> "dict[str, Interval]":
    """Codes, then macro means: of all codes, of groups of them, and of the other measures."""
    metrics = {f"macro {name.upper()}": found.macro_metric(name) for name in found.metrics}
    return {**found.by_code(), "macro": found.macro, **found.by_group(), **metrics}


def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN", help="Run directories; the others are compared with the first.")
    ],
    shards: ShardsOption,
    labels: LabelsOption,
    out: Annotated[Path, typer.Option(help="Directory for the report and the embeddings it needs.")] = Path("compare"),
    store: Annotated[
        list[str] | None, typer.Option("--store", help="NAME=embeddings.zarr of another model; may be repeated.")
    ] = None,
    finetuned: Annotated[
        list[str] | None, typer.Option("--finetuned", help="NAME=OUT of 'lamae finetune'; may be repeated.")
    ] = None,
    demographics: Annotated[
        Path | None, typer.Option(help="records_w_diag_icd10.csv or ptbxl_database.csv: adds a row of age and sex.")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Draws of each small share of the labels.")] = 3,
    transductive: Transductive = False,
    device: Device = "auto",
) -> None:
    """Runs beside each other on one page: AUROC, few labels, missing leads, reconstruction, lead weights."""
    from lamae.evaluate.compare import RANDOM_WEIGHTS, refuse_repeated
    from lamae.evaluate.compare import compare as compare_runs
    from lamae.evaluate.embeddings.embed import read_embeddings
    from lamae.evaluate.probe.demographics import AGE_AND_SEX, describe_known, embed_demographics
    from lamae.reports.compare import write_comparison

    named = [(_run_name(run), run) for run in runs]
    others = [_named(text, "--store") for text in store or []]
    tuned = [_named(text, "--finetuned") for text in finetuned or []]
    references = [RANDOM_WEIGHTS, *([AGE_AND_SEX] if demographics is not None else [])]
    refuse_repeated([*references, *(name for name, _ in named + others + tuned)])
    if demographics is not None:
        path = out / "embeddings" / f"age-and-sex-{_digest(demographics)}.zarr"
        if not path.exists():
            embed_demographics(demographics, shards, path)
        console.say(f"{demographics}: {describe_known(read_embeddings(path))}")
        others.append((AGE_AND_SEX, path))
    with console.show_progress() as progress:
        comparison = compare_runs(
            dict(named),
            shards,
            labels,
            out / "embeddings",
            stores=dict(others),
            finetuned=dict(tuned),
            num_seeds=seeds,
            transductive=transductive,
            device=pick_device(device),
            progress=progress,
        )
    write_comparison(comparison, out)
    rows = [[name, str(result.macro)] for name, result in comparison.probes["record"].items()]
    console.print_table("macro AUROC, frozen embeddings", ["", "AUROC (95 %)"], rows)
    console.say(f"report: {out / 'compare.html'}")


def finetune(
    run: RunArgument,
    shards: ShardsArgument,
    labels: LabelsArgument,
    out: Annotated[Path, typer.Argument(help="Directory to make, for weights and result.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Options, such as steps=2000 lr=5e-4.")
    ] = None,
    leads: Annotated[str | None, typer.Option(help="Train and test on these only, for example I,II,V2.")] = None,
    transductive: Transductive = False,
    print_config: verbs.PrintConfig = False,
) -> None:
    """Train the encoder and a linear head on labels; from_scratch=true for the supervised baseline.

    One process as it stands; under torchrun or srun, one process per rank.
    """
    from lamae.base import settings
    from lamae.evaluate.finetune.finetune import finetune as finetune_model
    from lamae.evaluate.finetune.options import FinetuneOptions
    from lamae.evaluate.labels.store import read_labels

    if print_config:
        console.say(settings.explain(FinetuneOptions(), overrides=overrides or []))
        return
    options = settings.override(FinetuneOptions(), overrides or [])
    chosen = _leads(leads)
    with console.show_progress() as progress:
        result = finetune_model(
            run, shards, labels, out, options=options, leads=chosen, transductive=transductive, progress=progress
        )
    if _prints_result():
        _print_result(result, result.name, read_labels(labels).descriptions)
        console.say(f"weights and result: {out}")


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory, or one of its checkpoints.")],
    out: Annotated[Path, typer.Argument(help="Directory to make.")],
) -> None:
    """Weights, configuration and a model card for others, without ids."""
    from lamae.evaluate.export.export import export as export_model

    export_model(run, out)
    console.say(f'{out}: load it with  lamae.load("{out}")')


def import_embeddings(
    source: Annotated[Path, typer.Argument(help="NAME.npy with NAME.keys.txt beside it, NAME.npz or NAME.zarr.")],
    shards: ShardsArgument,
    out: Annotated[Path, typer.Argument(help="embeddings.zarr to make.")],
    model: Annotated[
        str | None, typer.Option(help="Name and version of the model: needed to probe across shard sets.")
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Go on although some records have no embedding.")
    ] = False,
) -> None:
    """Another model's embeddings, by record key, so that probe and compare treat them like ours."""
    from lamae.evaluate.embeddings.foreign import import_embeddings as import_them

    count = import_them(source, shards, out, model=model, allow_missing=allow_missing)
    console.say(f"{count:,} records; next: lamae probe {out} LABELS.zarr")


def _leads(text: str | None) -> tuple[int, ...] | None:
    from lamae.base.leads import parse_leads

    try:
        return tuple(parse_leads(text)) if text else None
    except ValueError as error:
        raise UsageError(f"--leads: {error}") from None


def _prints_result() -> bool:
    """Whether this process prints the result: alone, or rank 0 of a launcher's."""
    from lamae.base.place import find_place

    return find_place(os.environ).rank == 0


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
    from lamae.base.files import file_sha256

    try:
        return file_sha256(path)[:16]
    except OSError as error:
        raise UsageError(f"{path}: not readable ({error.strerror})") from None


def _run_name(run: Path) -> str:
    """A run by its directory; a checkpoint as RUN/step-00000100, since all runs have that step."""
    from lamae.base.rundirectory import STEP_NAME, RunDirectory

    path = run.resolve()
    root = path.parent.parent
    is_checkpoint = STEP_NAME.fullmatch(path.name) and path.parent == RunDirectory(root).checkpoints
    return f"{root.name}/{path.name}" if is_checkpoint else path.name


def _named(text: str, option: str) -> tuple[str, Path]:
    name, separator, path = text.partition("=")
    if not separator or not name or not path:
        raise UsageError(f"{option} {text!r}: write NAME=PATH")
    return name, Path(path)
