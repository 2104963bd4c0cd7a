"""The verbs that make shard sets and look into them: synth, shard, verify, inspect, card."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from lamae import console
from lamae.base.errors import LamaeError, UsageError
from lamae.base.files import check_writable, named
from lamae.cli import verbs
from lamae.cli.evaluate import ShardsArgument


def synth(
    out: Annotated[Path, typer.Argument(help="Directory to make; must not exist or be empty.")],
    records: Annotated[int, typer.Option(help="Number of ECGs.")] = 1000,
    subjects: Annotated[int, typer.Option(help="Number of people they come from.")] = 400,
    seed: Annotated[int, typer.Option(help="Same seed, same files.")] = 0,
    defect_rate: Annotated[float, typer.Option(help="Share of records with NaN runs, flat or missing leads.")] = 0.01,
) -> None:
    """Write synthetic 12-lead ECGs as a MIMIC-IV-ECG tree, with ICD-10 codes visible in the waveforms."""
    from lamae.sharding.synth import synthesize

    out = named(out)  # a working directory is replaced, and has no name from then on
    with console.show_progress() as progress:
        synthesize(
            out,
            num_records=records,
            num_subjects=subjects,
            seed=seed,
            defect_rate=defect_rate,
            progress=progress,
        )
    console.hint(f"next: lamae shard {out} {out.with_name(out.name + '-shards')}")


def shard(
    source: Annotated[
        Path, typer.Argument(help="MIMIC-IV-ECG, PTB-XL or CODE-15 %, any directory of WFDB records, or a .zip of one.")
    ],
    out: Annotated[Path, typer.Argument(help="Shard set to make: absent, empty, or begun by the same command.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Further options, such as quality.flat=reject.")
    ] = None,
    kind: Annotated[str, typer.Option("--source", help="mimic, ptbxl, code15, wfdb, or auto to detect it.")] = "auto",
    workers: Annotated[int, typer.Option(help="Processes; any number gives the same bytes.")] = 1,
    shard_size: Annotated[int, typer.Option(help="Records listed per tar.")] = 1024,
    limit: Annotated[int | None, typer.Option(help="Only this many records, the first of the sorted listing.")] = None,
    rate: Annotated[float | None, typer.Option(metavar="HZ", help="Resample to this rate; else as recorded.")] = None,
    seconds: Annotated[
        float | None,
        typer.Option(help="Length of every row: windows of longer records; shorter ones end in missing samples."),
    ] = None,
    windows: Annotated[str, typer.Option(help="With --seconds: first, centre, or all windows of a record.")] = "first",
    overlap: Annotated[float, typer.Option(help="With --windows all: share that neighbours have in common.")] = 0.0,
    min_seconds: Annotated[float, typer.Option(help="With --seconds: reject records shorter than this.")] = 0.0,
    gain: Annotated[
        float | None, typer.Option(help="Stored units per millivolt, where the headers' gains are wrong.")
    ] = None,
    splits_from: Annotated[Path | None, typer.Option(help="CSV with study_id or key, and strat_fold or fold.")] = None,
    subjects_from: Annotated[
        Path | None, typer.Option(help="CSV with study_id or key, and subject or patient_id: whose record each is.")
    ] = None,
    subject_pattern: Annotated[
        str | None, typer.Option(metavar="REGEX", help="Its one group is the subject in a path: 'patient(\\d+)/'.")
    ] = None,
    audit: Annotated[float, typer.Option(help="Share also read by stock wfdb, and one of each header shape.")] = 0.002,
    plan_only: Annotated[
        bool,
        typer.Option(
            "--plan-only", help="Only say what is there and plan: then pack --parts anywhere, and merge without either."
        ),
    ] = False,
    parts: Annotated[
        str | None,
        typer.Option(metavar="K/N", help="Pack shards K, K+N, K+2N, … of the plan (K from 0); do not merge."),
    ] = None,
    card: Annotated[
        bool, typer.Option("--card/--no-card", help="Write OUT-card.html, a data card, beside OUT.")
    ] = True,
    examples: Annotated[bool, typer.Option("--examples/--no-examples", help="Show a few traces on the card.")] = True,
    print_config: verbs.PrintConfig = False,
) -> None:
    """Pack WFDB records into WebDataset tar shards with an index, quality control and splits by subject.

    Killed and started again with the same command, it goes on where it was.
    """
    from lamae.base.settings import explain, override
    from lamae.sharding.options import PackOptions

    options = PackOptions(
        source=kind,
        workers=workers,
        shard_size=shard_size,
        limit=limit,
        rate_hz=rate,
        seconds=seconds,
        windows=windows,
        overlap=overlap,
        min_seconds=min_seconds,
        gain=gain,
        splits_from=str(splits_from) if splits_from else None,
        subjects_from=str(subjects_from) if subjects_from else None,
        subject_pattern=subject_pattern,
        audit=audit,
    )
    if print_config:
        console.say(explain(options, overrides=overrides or []))
        return
    manifest = _pack(source, out, override(options, overrides or []), plan_only=plan_only, parts=parts)
    if manifest is not None:
        _print_packed(out, manifest)
        if card:
            _write_card(out, examples=examples)
        console.hint(f"next: lamae verify {out}")


def _pack(source: Path, out: Path, options: Any, *, plan_only: bool, parts: str | None) -> Any:
    """Plan, pack some parts, or all of it; the manifest, None where the set is not made whole."""
    from lamae.sharding.output import refuse_other_options
    from lamae.sharding.pack import pack, pack_part
    from lamae.sharding.packplan import Plan
    from lamae.sharding.plan import plan

    def announce(planned: Plan) -> None:
        show = console.say if plan_only else console.hint
        for name, text in planned.overview:
            show(f"{name + ':':<18} {text}")

    with console.show_progress() as progress:
        if plan_only:
            announce(plan(source, out, options=options, progress=progress))
            return None
        if parts is not None:
            planned = Plan.open(out)
            refuse_other_options(planned.options, options, out)
            for part in every_nth(parts, count=planned.num_parts):
                pack_part(source, out, part, progress=progress)
            return None
        return pack(source, out, options=options, progress=progress, announce=announce)


def _print_packed(out: Path, manifest: dict[str, Any]) -> None:
    """Counts of a shard set, and what its user should look at."""
    from lamae.sharding.format import REJECTS_NAME

    rows_are = "windows" if manifest["plan"]["options"]["windows"] == "all" else "records"
    rows = [[rows_are, f"{manifest['num_records']:,}"], ["subjects", f"{manifest['num_subjects']:,}"]]
    rows += [[f"split {name}", f"{count['records']:,}"] for name, count in manifest["splits"].items()]
    rows += [[f"rejected: {reason}", f"{count:,}"] for reason, count in manifest["rejects"].items()]
    rows += [[f"leads flagged: {flag}", f"{count:,}"] for flag, count in manifest["lead_flags"].items() if count]
    rows += [[f"{rows_are} flagged: {flag}", f"{count:,}"] for flag, count in manifest["record_flags"].items() if count]
    console.print_table(f"{out}: packed", ["", "number"], rows)
    if manifest["rejects"]:
        console.say(f"rejected, one by one: {out / REJECTS_NAME}")
    given = manifest["plan"]["options"]["gain"]
    for flag in ("gain_normalised", "gain_implausible"):
        if not manifest["record_flags"].get(flag):
            continue
        count = f"{_num_flagged(out, flag):,} records"
        if given is not None:  # all gains are equal, so this is gain_implausible
            console.say(f"warning: --gain {given:g} gives no millivolts in {count} ({flag}); pack them with another")
            continue
        console.say(
            f"warning: the gains in the headers of {count} give no millivolts ({flag}); where you know the stored "
            f"units per millivolt, pack them with --gain, such as --gain 1000, which replaces the gains of all records "
            f"of a set"
        )
    if empty := [name for name, count in manifest["splits"].items() if not count["records"]]:
        console.say(
            f"warning: no record is in {' or '.join(empty)}; "
            f"with few subjects set split_fractions=[0.6,0.2,0.2] (and source_folds=false if the source has folds), "
            f"or give --splits-from",
        )


def _num_flagged(out: Path, flag: str) -> int:
    """Records, not windows, with a flag of RECORD_FLAGS."""
    from lamae.sharding.format import ShardSet
    from lamae.sharding.quality import RECORD_FLAGS

    shard_set = ShardSet.open(out)
    is_flagged = (shard_set.column("record_flags") >> RECORD_FLAGS.index(flag) & 1).tolist()
    return len({key for key, found in zip(shard_set.record_keys, is_flagged, strict=True) if found})


def _write_card(out: Path, *, examples: bool) -> None:
    from lamae.reports.datacard import write_card

    path = named(out).with_name(f"{named(out).name}-card.html")
    try:
        write_card(out, path, examples=examples)
        console.say(f"data card: {path}")
    except UsageError as error:
        console.print_error(f"{error}; the shard set is complete without its card")


def every_nth(text: str, *, count: int) -> range:
    """``K/N`` as K, K + N, K + 2 N, … below ``count``. Raises UsageError."""
    first, _, stride = text.partition("/")
    if not (first.isdecimal() and stride.isdecimal() and int(first) < int(stride)):
        raise UsageError(f"--parts {text}: write K/N with K from 0 to N - 1, for example 0/16")
    return range(int(first), count, int(stride))


def verify(shards: ShardsArgument) -> None:
    """Check every byte of a shard set: tar hashes, record checksums, index, counts, splits."""
    from lamae.sharding.verify import verify as verify_shard_set

    with console.show_progress() as progress:
        report = verify_shard_set(shards, progress=progress)
    for problem in report.problems:
        console.print_error(problem)
    if report.problems:
        remedy = "remove it and pack it again"
        if report.only_shards:
            remedy = "remove the tars named there and run the same 'lamae shard' again: it packs just those"
        raise LamaeError(f"{shards}: {len(report.problems)} problems, named above; {remedy}")
    console.say(f"{shards}: whole, {report.num_records:,} records in {report.num_shards:,} shards")


def inspect(
    shards: ShardsArgument,
    key: Annotated[str | None, typer.Argument(help="Record key; the first record when left out.")] = None,
    save: Annotated[Path | None, typer.Option(help="Where to write the plot (default: KEY.png here).")] = None,
    layout: Annotated[
        Literal["3x4", "12x1"],
        typer.Option(help="3x4: 2.5 s of each lead over a strip of II; 12x1: ten seconds of every lead."),
    ] = "3x4",
) -> None:
    """Print a record and save its 12-lead plot on ECG paper (25 mm/s, 10 mm/mV)."""
    from lamae.reports.inspect import describe_record, save_record_plot
    from lamae.sharding.format import ShardSet

    check_writable("--save", save)
    shard_set = ShardSet.open(shards)
    row = shard_set.row_of(key) if key is not None else 0
    title, columns, rows = describe_record(shard_set, row)
    console.print_table(title, columns, rows)
    path = save_record_plot(shard_set, row, save or Path(f"{shard_set.keys[row]}.png"), layout=layout)
    console.say(f"plot: {path}")


def card(
    shards: Annotated[list[Path], typer.Argument(metavar="SHARDS", help="Shard sets; several make one card.")],
    out: Annotated[Path, typer.Option("--out", help="Where to write the page.")],
    examples: Annotated[bool, typer.Option("--examples/--no-examples", help="Show a few traces on the card.")] = True,
) -> None:
    """Write a data card, one page of HTML, of one shard set or of several that are pretrained on together."""
    from lamae.data.mixture import Mixture
    from lamae.reports.datacard import write_card

    check_writable("--out", out)
    write_card(Mixture.open([str(path) for path in shards]), out, examples=examples)
    console.say(f"data card: {out}")
