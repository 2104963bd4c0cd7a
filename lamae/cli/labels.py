"""The verb ``labels``: diagnoses joined to the rows of a shard set."""

from pathlib import Path
from typing import Annotated, Any

import typer

from lamae import console
from lamae.base import files
from lamae.cli.evaluate import ShardsArgument

CODES_LISTED = 20


def labels(
    shards: ShardsArgument,
    file: Annotated[
        Path, typer.Argument(help="records_w_diag_icd10.csv, ptbxl_database.csv, WFDB headers or any CSV.")
    ],
    out: Annotated[Path, typer.Argument(help="labels.zarr to make.")],
    source: Annotated[
        str, typer.Option(help="mimic-icd10, ptbxl, snomed or csv; by default recognised by its columns.")
    ] = "auto",
    protocol: Annotated[
        str | None,
        typer.Option(help="shards: the shard set's splits (default); mimic-icd10: ed2all, all2all; ptbxl: folds."),
    ] = None,
    min_count: Annotated[
        int | None,
        typer.Option(help="Keep codes with at least this many records (default: 2000 for mimic-icd10, else 1)."),
    ] = None,
    top: Annotated[int | None, typer.Option(min=1, help="Keep only this many codes, the most frequent.")] = None,
    key_column: Annotated[
        str | None, typer.Option(help="csv: the column with record keys (default: key, study_id, ecg_id, …).")
    ] = None,
    columns: Annotated[
        str | None, typer.Option(help="csv: the 0/1 columns to take, for example AF,LBBB (default: all that can be).")
    ] = None,
    leave_out: Annotated[str | None, typer.Option("--except", help="csv: 0/1 columns to leave.")] = None,
    label_column: Annotated[
        str | None, typer.Option(help="csv: the column with words for labels; snomed: the header comment with them.")
    ] = None,
    separator: Annotated[
        str | None, typer.Option(help="With --label-column: characters between several labels in a cell (default: ;|).")
    ] = None,
    vocabulary: Annotated[
        str | None, typer.Option(help="ptbxl, csv: snomed takes labels to the SNOMED CT codes of the Challenges.")
    ] = None,
    merge: Annotated[
        bool | None,
        typer.Option("--merge/--no-merge", help="SNOMED CT codes that the Challenge scores as one are one."),
    ] = None,
    column: Annotated[
        str | None, typer.Option(help="mimic-icd10: the column with diagnoses, such as ed_diag_ed (all_diag_all).")
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="ptbxl: superclass (default), subclass, diagnostic, form, rhythm, all.")
    ] = None,
    min_likelihood: Annotated[
        float | None, typer.Option(help="ptbxl: a statement counts from this likelihood on, in percent.")
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Go on although some records have no line in FILE.")
    ] = False,
    all_codes: Annotated[
        bool, typer.Option("--all-codes", help="List every code, not the most frequent alone.")
    ] = False,
) -> None:
    """Join diagnoses to the rows of a shard set, and list how many records of each split have them."""
    from lamae.evaluate.labels.sources import build_labels

    if not out.exists():
        files.check_writable("labels", out)
    report = build_labels(
        shards,
        out,
        source=source if source != "auto" else _detect(file, key_column, columns or leave_out or label_column),
        file=file,
        allow_missing=allow_missing,
        protocol=protocol,
        min_count=min_count,
        top=top,
        key_column=key_column,
        columns=_names(columns),
        leave_out=_names(leave_out),
        label_column=label_column,
        separator=separator,
        vocabulary=vocabulary,
        merge=merge,
        column=column,
        task=task,
        min_likelihood=min_likelihood,
    )
    _print_report(report, out, all_codes=all_codes)


def _detect(file: Path, key_column: str | None, chosen_columns: str | None) -> str:
    from lamae.evaluate.labels.sources import detect_source

    is_csv = bool(chosen_columns) and file.is_file() and file.suffix != ".zip"
    source = "csv" if is_csv else detect_source(file, key_column=key_column)
    console.hint(f"{file}: read as --source {source}")
    return source


def _print_report(report: Any, out: Path, *, all_codes: bool) -> None:
    from lamae.sharding.format import SPLITS

    for note in report.notes:
        console.say(note)
    rows = report.rows()
    listed = rows if all_codes else rows[:CODES_LISTED]
    title = f"{out}: labelled {report.rows_are} with each code"
    console.print_table(title, ["code", "name", report.rows_are, *SPLITS], listed)
    if len(listed) < len(rows):
        console.say(f"… and {len(rows) - len(listed)} more, which --all-codes lists")
    console.say(("" if report.made else f"{out}: already complete; ") + str(report))


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]
