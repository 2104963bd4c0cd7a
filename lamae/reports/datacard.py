"""The data card of one shard set, or of several that are pretrained on together: what is in them, how good it is, and
how it was made, on one self-contained page.

Everything but the example traces comes from the manifests and the indexes, so a card of 800,000 records takes seconds.
Without examples the page holds no trace and no record key: counts and distributions only.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lamae.base import keys
from lamae.base.leads import LEADS, NUM_LEADS
from lamae.data.mixture import Mixture
from lamae.reports.charts import WIDTH, log_scale, new_charts, plot_heatmap
from lamae.reports.inspect import plot_row
from lamae.reports.page import Page
from lamae.reports.style import SERIES
from lamae.sharding.format import SPLITS, ShardSet, lead_mask_to_bool
from lamae.sharding.quality import LEAD_FLAGS, RECORD_FLAGS, QualityConfig

Sets = Mapping[str, ShardSet]
"""By name."""

MAX_EXAMPLES = 6
OF_NO_RULE = {"missing": "The record does not have the lead", "duplicate": "The same waveform as another record"}


def write_card(records: Path | ShardSet | Mixture, out: Path, *, examples: bool = True) -> None:
    """Write the card of one set or several to ``out`` (.html). ``examples`` shows traces and keys of a few records.

    Raises UsageError when ``records`` is no shard set or ``out`` cannot be written.
    """
    mixture = Mixture.of(ShardSet.open(records) if isinstance(records, Path) else records)
    sets = dict(zip(mixture.names, mixture.sets, strict=True))
    page = Page(_title(sets), subtitle=_subtitle(sets))
    page.cards(_cards(sets))
    if len(sets) == 1:
        (only,) = sets.values()
        _add_composition(page, only)
        _add_quality(page, only)
    else:
        _add_sets(page, sets)
        _compare_quality(page, sets)
    _add_amplitudes(page, sets)
    if examples:
        _add_examples(page, sets)
    for name, shard_set in sets.items():
        _add_provenance(page, shard_set, title="How it was made" if len(sets) == 1 else f"How {name} was made")
    page.write(out)


def _title(sets: Sets) -> str:
    total = f"Data card: {sum(one.num_records for one in sets.values()):,} twelve-lead ECGs"
    return total if len(sets) == 1 else f"{total} from {len(sets)} shard sets"


def _subtitle(sets: Sets) -> str:
    if len(sets) > 1:
        return (
            "Rates and lengths are the sets' own; a run brings them to its signal.rate_hz and signal.seconds. "
            "Subjects are counted in each set: who is in two sets counts twice."
        )
    (only,) = sets.values()
    return (
        f"Source {only.manifest.get('source', 'unknown')}, {only.num_samples / only.rate_hz:g} s at "
        f"{only.rate_hz:g} Hz, {only.num_samples:,} samples per lead, int16 as recorded."
    )


def _cards(sets: Sets) -> list[tuple[str, str, str]]:
    each = sets.values()
    num_records = sum(one.num_records for one in each)
    rejected = sum(_num_rejected(one) for one in each)
    flagged = sum(int(one.flagged_N.sum()) for one in each)
    absent = sum(int((~lead_mask_to_bool(one.column("lead_mask"))).sum()) for one in each)
    subjects = sum(_num_subjects(one.column("subject")) for one in each)
    note = "set by set" if len(sets) > 1 else _subjects_note(next(iter(each)))
    cards = [
        ("records", f"{num_records:,}", f"{sum(map(_hours, each)):,.1f} hours of ECG"),
        ("subjects", f"{subjects:,}", note),
        ("rejected", f"{rejected:,}", f"{rejected / max(1, num_records + rejected):.2%} of those read"),
        ("records with any flag", f"{flagged:,}", f"{flagged / num_records:.1%}"),
        ("leads missing or masked", f"{absent:,}", f"{absent / (NUM_LEADS * num_records):.2%} of all leads"),
    ]
    return cards if len(sets) == 1 else [*cards, ("sets", f"{len(sets)}", ", ".join(sets))]


def _num_subjects(subjects: np.ndarray) -> int:
    return len(np.unique(subjects))


def _num_rejected(shard_set: ShardSet) -> int:
    return sum(shard_set.manifest.get("rejects", {}).values())


def _hours(shard_set: ShardSet, share: float = 1.0) -> float:
    return share * shard_set.num_records * shard_set.num_samples / shard_set.rate_hz / 3600


def _subjects_note(shard_set: ShardSet) -> str:
    subjects = shard_set.column("subject")
    if (subjects < 0).all():
        return "none named: each record counts as its own"
    _, counts = np.unique(subjects, return_counts=True)
    return f"{counts.mean():.1f} records each, at most {counts.max():,}"


def _add_composition(page: Page, shard_set: ShardSet) -> None:
    split, subjects = shard_set.column("split"), shard_set.column("subject")
    shared = np.unique(np.stack([subjects, split]), axis=1).shape[1] - _num_subjects(subjects)
    lead = "Splits are by subject: nobody is in two of them."
    if shard_set.unknown_patients:
        lead = f"Warning: {shard_set.unknown_patients}; one patient may be in train and test."
    if shared:
        lead = f"Warning: {shared:,} subjects are in more than one split; test results would flatter."
    page.section("Composition", lead=lead)
    if shard_set.partly_named:
        page.paragraph(f"Warning: the files given when packing have {shard_set.partly_named}.")
    rows = []
    for number, name in enumerate(SPLITS):
        chosen = split == number
        rows.append(
            [
                name,
                f"{chosen.sum():,}",
                f"{chosen.mean():.1%}",
                f"{_num_subjects(subjects[chosen]):,}",
                f"{_hours(shard_set, chosen.mean()):,.1f}",
            ]
        )
    page.table(["split", "records", "share", "subjects", "hours"], rows)
    _, counts = np.unique(subjects, return_counts=True)
    if counts.max() > 1:
        page.figure(_plot_records_per_subject(counts), caption="Records per subject.")
    reconciliation = shard_set.manifest.get("reconciliation", {})
    if reconciliation.get("expected") is not None:
        page.table(
            ["listing against files", "records"],
            [[name, f"{count:,}"] for name, count in reconciliation.items()],
            caption="expected: in the source's own list; found: with files; missing: listed without files; unlisted: "
            "files that no list names.",
        )
    rejects = shard_set.manifest.get("rejects", {})
    if rejects:
        page.table(
            ["rejected because", "records"],
            [
                [reason.replace("_", " "), f"{count:,}"]
                for reason, count in sorted(rejects.items(), key=lambda r: -r[1])
            ],
            caption="Every rejected record is listed with its reason in rejects.csv beside the shards.",
        )
    else:
        page.paragraph("No record was rejected.")


def _add_sets(page: Page, sets: Sets) -> None:
    page.section("Sets", lead="Splits are by subject within a set, unless a warning below says otherwise.")
    total = sum(one.num_records for one in sets.values())
    page.table(
        ["set", "source", "records", "share", "subjects", "hours", "rate", "length", "rejected"],
        [
            [
                name,
                str(one.manifest.get("source", "unknown")),
                f"{one.num_records:,}",
                f"{one.num_records / total:.1%}",
                f"{_num_subjects(one.column('subject')):,}",
                f"{_hours(one):,.1f}",
                f"{one.rate_hz:g} Hz",
                f"{one.num_samples / one.rate_hz:g} s",
                f"{_num_rejected(one):,}",
            ]
            for name, one in sets.items()
        ],
    )
    page.table(
        ["set", *(f"{split}: records (subjects)" for split in SPLITS)],
        [[name, *(_in_split(one, number) for number in range(len(SPLITS)))] for name, one in sets.items()],
    )
    for name, one in sets.items():
        if one.unknown_patients:
            page.paragraph(f"Warning: {name}: {one.unknown_patients}; one patient may be in train and test.")
        if one.partly_named:
            page.paragraph(f"Warning: {name}: the files given when packing have {one.partly_named}.")


def _in_split(shard_set: ShardSet, number: int) -> str:
    chosen = shard_set.column("split") == number
    return f"{chosen.sum():,} ({_num_subjects(shard_set.column('subject')[chosen]):,})"


def _add_quality(page: Page, shard_set: ShardSet) -> None:
    page.section(
        "Quality",
        lead="Rules with thresholds in physical units. A flag is a note in the index; a masked lead counts as not "
        "recorded. Amplitude alone never removes anything: paced rhythms and hypertrophy are large.",
    )
    rules = shard_set.manifest.get("plan", {}).get("options", {}).get("quality", {})
    lead_flags = shard_set.column("lead_flags")
    counts_FL = np.stack([(lead_flags >> bit & 1).sum(0, dtype=np.int64) for bit in range(len(LEAD_FLAGS))])
    leads = {name: f"{count:,}" for name, count in zip(LEAD_FLAGS, counts_FL.sum(1), strict=True)}
    page.table(
        ["flag", "action", "leads", "records"],
        [
            [
                _flag_text(name, rules),
                rules.get(name, "–" if name in leads else "flag"),
                leads.get(name, "–"),
                f"{has_N.sum():,}",
            ]
            for name, has_N in _flags(shard_set).items()
        ],
    )
    if counts_FL.any():
        share_FL = 100 * counts_FL / shard_set.num_records
        figure, _ = plot_heatmap(
            share_FL,
            [name.replace("_", " ") for name in LEAD_FLAGS],
            LEADS,
            form=lambda share: f"{share:.1f}" if share >= 0.05 else "<.1" if share else "",
            most=max(1.0, float(share_FL.max())),
        )
        page.figure(figure, caption="Share of records in which each lead carries each flag, percent.")


def _compare_quality(page: Page, sets: Sets) -> None:
    page.section("Quality", lead="Share of a set's records with each flag; flags that no set has are left out.")
    flags = [_flags(one) for one in sets.values()]
    shares = {_flag_text(name, {}): [of[name].mean() for of in flags] for name in flags[0]}
    shares = {text: of_sets for text, of_sets in shares.items() if any(of_sets)}
    missing = [1 - lead_mask_to_bool(one.column("lead_mask")).mean() for one in sets.values()]
    page.table(
        ["flag", *sets],
        [
            *([text, *(f"{share:.1%}" if share else "–" for share in of_sets)] for text, of_sets in shares.items()),
            ["any flag", *(f"{one.flagged_N.mean():.1%}" for one in sets.values())],
            ["leads missing or masked, of all leads", *(f"{share:.2%}" if share else "–" for share in missing)],
        ],
        strong_rows=[len(shares)],
    )


def _flags(shard_set: ShardSet) -> dict[str, np.ndarray]:
    """bool [N] by flag: the records that have it, in any lead or as a whole."""
    lead_flags, record_flags = shard_set.column("lead_flags"), shard_set.column("record_flags")
    return {
        **{name: (lead_flags >> bit & 1).any(1) for bit, name in enumerate(LEAD_FLAGS)},
        **{name: (record_flags >> bit & 1) == 1 for bit, name in enumerate(RECORD_FLAGS)},
    }


def _flag_text(name: str, rules: Mapping[str, Any]) -> str:
    limits = [
        f"{value:g} {_UNITS.get(key.rsplit('_', 1)[-1], key.rsplit('_', 1)[-1])}"
        for key, value in rules.items()
        if key.startswith(f"{name}_max")
        or (name == "limb_inconsistent" and key in ("limb_tolerance_uv", "limb_max_share"))
    ]
    limit = f" (limit {', '.join(limits)})" if limits else ""
    what = OF_NO_RULE.get(name) or keys.first_sentence(QualityConfig, name)
    return f"{name.replace('_', ' ')}: {what[0].lower()}{what[1:]}{limit}"


_UNITS = {"uv": "µV", "mv": "mV", "s": "s", "share": "of samples"}


def _add_amplitudes(page: Page, sets: Sets) -> None:
    lead = "Per lead over all records, in millivolt: median, middle 50 % (bar) and 98 % (line)."
    if len(sets) > 1:
        lead += " A set far from the others may have been scaled, or its gains may be no millivolts."
    page.section("Amplitude", lead=lead)
    figure, (spread, height) = new_charts(WIDTH, 3.6, columns=2)
    for number, (name, one) in enumerate(sets.items()):
        baseline = one.column("baseline").astype(np.float32)
        low, high = ((one.column(side) - baseline) / one.column("gain") for side in ("min_adc", "max_adc"))
        color = SERIES[1] if len(sets) == 1 else SERIES[number % len(SERIES)]
        place = 0.7 * ((number + 0.5) / len(sets) - 0.5)
        for ax, values_NL in ((spread, one.column("std_mv")), (height, high - low)):
            _draw_quantiles(ax, _of_present_leads(one, values_NL), place, width=7 / len(sets), color=color, name=name)
    for ax, title in ((spread, "standard deviation (mV)"), (height, "peak to peak (mV)")):
        ax.set_xticks(range(NUM_LEADS), LEADS, fontsize=8)
        log_scale(ax, "y")
        ax.set_title(title, loc="left", fontsize=10)
    if len(sets) > 1:
        spread.legend(frameon=False, fontsize=8)
    page.figure(figure)
    if len(sets) > 1:
        medians = {
            name: [np.median(of) if len(of) else np.nan for of in _of_present_leads(one, one.column("std_mv"))]
            for name, one in sets.items()
        }
        page.table(
            ["set", *LEADS],
            [[name, *(f"{value:.2f}" for value in of_leads)] for name, of_leads in medians.items()],
            caption="Median standard deviation, millivolt.",
        )
    for name, one in sets.items():
        gains, counts = np.unique(one.column("gain")[lead_mask_to_bool(one.column("lead_mask"))], return_counts=True)
        common = sorted(zip(counts.tolist(), gains.tolist(), strict=True), reverse=True)[:5]
        of_set = "" if len(sets) == 1 else f" of {name}"
        text = ", ".join(f"{value:g} in {count:,} leads" for count, value in common)
        page.paragraph(f"Gain{of_set} (ADC units per millivolt): {text}.")


def _of_present_leads(shard_set: ShardSet, values_NL: np.ndarray) -> list[np.ndarray]:
    """Of each lead the values of the records that have it and in which it moves."""
    has_NL = lead_mask_to_bool(shard_set.column("lead_mask")) & (values_NL > 0)
    return [values_NL[has_NL[:, lead], lead] for lead in range(NUM_LEADS)]


def _draw_quantiles(ax: Axes, by_lead: list[np.ndarray], place: float, *, width: float, color: str, name: str) -> None:
    for lead, values in enumerate(by_lead):
        if len(values):
            p1, p25, p50, p75, p99 = np.quantile(values, [0.01, 0.25, 0.5, 0.75, 0.99])
            ax.vlines(lead + place, p1, p99, color=color, linewidth=1.1, label=name if lead == 0 else "_")
            ax.vlines(lead + place, p25, p75, color=color, linewidth=width)
            ax.plot(lead + place, p50, "_", color="white", markersize=width + 1, markeredgewidth=1.6)


def _add_examples(page: Page, sets: Sets) -> None:
    shown = "One unremarkable record" + (" of each set" if len(sets) > 1 else ", then one for each flag that occurs")
    page.section("Examples", lead=f"{shown}. 25 mm/s, 10 mm/mV.")
    for name, one in sets.items():
        prefix, most = ("", MAX_EXAMPLES) if len(sets) == 1 else (f"{name}: ", 1)
        for title, row in _choose_examples(one)[:most]:
            figure = plot_row(one, row, title=f"{prefix}{one.keys[row]}   {title}")
            page.figure(figure, raster=True, alt=f"12-lead ECG, {prefix}{title}")


def _choose_examples(shard_set: ShardSet) -> list[tuple[str, int]]:
    """What to show, as (what is to be seen, row): first a record without a flag, if there is one."""
    clean = np.flatnonzero(~shard_set.flagged_N)
    chosen = [("no flag", int(clean[len(clean) // 2]))] if len(clean) else []
    for name, has_N in _flags(shard_set).items():
        rows = np.setdiff1d(np.flatnonzero(has_N), [row for _, row in chosen])
        if len(rows) and len(chosen) < MAX_EXAMPLES:
            chosen.append((name.replace("_", " "), int(rows[0])))
    return chosen


def _add_provenance(page: Page, shard_set: ShardSet, *, title: str) -> None:
    manifest = shard_set.manifest
    page.section(title)
    num_bytes = sum(shard["bytes"] for shard in manifest.get("shards", []))
    rows = [
        ["format version", str(manifest["format_version"])],
        ["shards", f"{len(manifest.get('shards', [])):,} tars, {num_bytes / 1e9:.2f} GB"],
        ["index sha256", shard_set.index_hash],
    ]
    readers = manifest.get("readers")
    if readers:
        rows.append(["read by", ", ".join(f"{name}: {count:,}" for name, count in readers.items())])
    options = manifest.get("plan", {}).get("options", {})
    rows += [[name, str(value)] for name, value in options.items() if not isinstance(value, dict)]
    page.table(["", ""], rows)


def _plot_records_per_subject(counts: np.ndarray) -> Figure:
    figure, (ax,) = new_charts(WIDTH, 2.6)
    edges = np.unique(np.geomspace(1, counts.max() + 1, 24).astype(int))
    ax.stairs(np.histogram(counts, bins=edges)[0], edges, fill=True, color=SERIES[1])
    ax.set(xlabel="records per subject", ylabel="subjects", xscale="log", ylim=(0, None))
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500) if tick <= counts.max()]
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.minorticks_off()
    return figure
