"""The data card of a shard set: what is in it, how good it is, and how it was made, on one self-contained page.

Everything but the example traces comes from the manifest and the index, so a card of 800,000 records takes seconds.
Without examples the page holds no trace and no record key: counts and distributions only.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from lamae.base.leads import LEADS, NUM_LEADS
from lamae.reports.charts import WIDTH, new_charts, plot_heatmap
from lamae.reports.inspect import plot_row
from lamae.reports.page import Page
from lamae.reports.style import SERIES
from lamae.sharding.format import SPLITS, ShardSet, lead_mask_to_bool
from lamae.sharding.quality import LEAD_FLAGS, RECORD_FLAGS

MAX_EXAMPLES = 6
EXPLANATIONS = {
    "missing": "the record does not have the lead",
    "gaps": "too many samples of the lead are missing",
    "zero": "every sample is 0 mV",
    "flat": "the lead does not move",
    "flat_run": "the lead stands still for a while",
    "saturated": "many samples at the lead's own largest or smallest value",
    "amplitude": "farther from 0 mV than any heart takes it, for longer than a spike",
    "wander": "the baseline leaves its place on paper",
    "hum": "mains hum at 50 or 60 Hz",
    "limb_inconsistent": "the limb leads contradict Einthoven's and Goldberger's relations",
    "gain_normalised": "the limb leads agree in stored integers alone, so the gains give no millivolts: --gain",
    "gain_implausible": "a unit is less than any recorder resolves, so the header's gain gives no millivolts: --gain",
    "avl_avf_exchanged": "the limb leads agree once aVL and aVF change names",
    "duplicate": "the same waveform as another record",
}


def write_data_card(shards: Path | ShardSet, out: Path, *, examples: bool = True) -> None:
    """Write the card of ``shards`` to ``out`` (.html). ``examples`` shows traces and keys of a few records.

    Raises UsageError when ``shards`` is no shard set or ``out`` cannot be written.
    """
    shard_set = ShardSet.open(shards)
    manifest = shard_set.manifest
    page = Page(
        f"Data card: {shard_set.num_records:,} twelve-lead ECGs",
        subtitle=f"Source {manifest.get('source', 'unknown')}, {shard_set.num_samples / shard_set.rate_hz:g} s at "
        f"{shard_set.rate_hz:g} Hz, {shard_set.num_samples:,} samples per lead, int16 as recorded.",
    )
    page.cards(_cards(shard_set))
    _add_composition(page, shard_set)
    _add_quality(page, shard_set)
    _add_amplitudes(page, shard_set)
    if examples:
        _add_examples(page, shard_set)
    _add_provenance(page, shard_set)
    page.write(out)


def _cards(shard_set: ShardSet) -> list[tuple[str, str, str]]:
    manifest, N = shard_set.manifest, shard_set.num_records
    rejected = sum(manifest.get("rejects", {}).values())
    hours = N * shard_set.num_samples / shard_set.rate_hz / 3600
    flagged = num_flagged(shard_set)
    absent = int((~lead_mask_to_bool(shard_set.column("lead_mask"))).sum())
    return [
        ("records", f"{N:,}", f"{hours:,.1f} hours of ECG"),
        ("subjects", f"{num_subjects(shard_set.column('subject')):,}", _subjects_note(shard_set)),
        ("rejected", f"{rejected:,}", f"{rejected / max(1, N + rejected):.2%} of those read"),
        ("records with any flag", f"{flagged:,}", f"{flagged / N:.1%}"),
        ("leads missing or masked", f"{absent:,}", f"{absent / (NUM_LEADS * N):.2%} of all leads"),
    ]


def num_subjects(subjects: np.ndarray) -> int:
    return len(np.unique(subjects))


def num_flagged(shard_set: ShardSet) -> int:
    """Records with any flag, of a lead or of the whole."""
    return int((shard_set.column("lead_flags").any(1) | (shard_set.column("record_flags") > 0)).sum())


def _subjects_note(shard_set: ShardSet) -> str:
    subjects = shard_set.column("subject")
    if (subjects < 0).all():
        return "none named: each record counts as its own"
    _, counts = np.unique(subjects, return_counts=True)
    return f"{counts.mean():.1f} records each, at most {counts.max():,}"


def _add_composition(page: Page, shard_set: ShardSet) -> None:
    split, subjects = shard_set.column("split"), shard_set.column("subject")
    shared = np.unique(np.stack([subjects, split]), axis=1).shape[1] - num_subjects(subjects)
    lead = "Splits are by subject: nobody is in two of them."
    if shard_set.unknown_patients:
        lead = f"Warning: {shard_set.unknown_patients}; one patient may be in train and test."
    if shared:
        lead = f"Warning: {shared:,} subjects are in more than one split; test results would flatter."
    page.section("Composition", lead=lead)
    rows = []
    for number, name in enumerate(SPLITS):
        chosen = split == number
        rows.append(
            [
                name,
                f"{chosen.sum():,}",
                f"{chosen.mean():.1%}",
                f"{num_subjects(subjects[chosen]):,}",
                f"{chosen.sum() * shard_set.num_samples / shard_set.rate_hz / 3600:,.1f}",
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


def _add_quality(page: Page, shard_set: ShardSet) -> None:
    page.section(
        "Quality",
        lead="Rules with thresholds in physical units. A flag is a note in the index; a masked lead counts as not "
        "recorded. Amplitude alone never removes anything: paced rhythms and hypertrophy are large.",
    )
    lead_flags, record_flags = shard_set.column("lead_flags"), shard_set.column("record_flags")
    rules = shard_set.manifest.get("plan", {}).get("options", {}).get("quality", {})
    counts_FL = np.array([[(lead_flags[:, lead] >> bit & 1).sum() for lead in range(NUM_LEADS)] for bit in _bits()])
    rows = []
    for bit, name in enumerate(LEAD_FLAGS):
        records = int((lead_flags >> bit & 1).any(1).sum())
        rows.append([_flag_text(name, rules), rules.get(name, "–"), f"{counts_FL[bit].sum():,}", f"{records:,}"])
    for bit, name in enumerate(RECORD_FLAGS):
        records = int((record_flags >> bit & 1).sum())
        rows.append([_flag_text(name, rules), rules.get(name, "flag"), "–", f"{records:,}"])
    page.table(["flag", "action", "leads", "records"], rows)
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


def _bits() -> range:
    return range(len(LEAD_FLAGS))


def _flag_text(name: str, rules: Mapping[str, Any]) -> str:
    limits = [
        f"{value:g} {_UNITS.get(key.rsplit('_', 1)[-1], key.rsplit('_', 1)[-1])}"
        for key, value in rules.items()
        if key.startswith(f"{name}_max")
        or (name == "limb_inconsistent" and key in ("limb_tolerance_uv", "limb_max_share"))
    ]
    limit = f" (limit {', '.join(limits)})" if limits else ""
    return f"{name.replace('_', ' ')}: {EXPLANATIONS.get(name, '')}{limit}"


_UNITS = {"uv": "µV", "mv": "mV", "s": "s", "share": "of samples"}


def _add_amplitudes(page: Page, shard_set: ShardSet) -> None:
    present = lead_mask_to_bool(shard_set.column("lead_mask"))
    gain, baseline = shard_set.column("gain"), shard_set.column("baseline")
    low, high = ((shard_set.column(side) - baseline.astype(np.float32)) / gain for side in ("min_adc", "max_adc"))
    page.section(
        "Amplitude", lead="Per lead over all records, in millivolt: median, middle 50 % (bar) and 98 % (line)."
    )
    figure, axes = new_charts(WIDTH, 3.6, columns=2)
    for ax, values, title in zip(
        axes,
        (shard_set.column("std_mv"), high - low),
        ("standard deviation (mV)", "peak to peak (mV)"),
        strict=True,
    ):
        for lead in range(NUM_LEADS):
            of_lead = values[present[:, lead], lead]
            of_lead = of_lead[of_lead > 0]
            if len(of_lead):
                p1, p25, p50, p75, p99 = np.quantile(of_lead, [0.01, 0.25, 0.5, 0.75, 0.99])
                ax.vlines(lead, p1, p99, color=SERIES[1], linewidth=1.1)
                ax.vlines(lead, p25, p75, color=SERIES[1], linewidth=7)
                ax.plot(lead, p50, "_", color="white", markersize=8, markeredgewidth=1.6)
        ax.set_xticks(range(NUM_LEADS), LEADS, fontsize=8)
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter("{x:g}")
        ax.set_title(title, loc="left", fontsize=10)
    page.figure(figure)
    gains, counts = np.unique(gain[present], return_counts=True)
    common = sorted(zip(counts.tolist(), gains.tolist(), strict=True), reverse=True)[:5]
    page.paragraph(
        "Gain (ADC units per millivolt): " + ", ".join(f"{value:g} in {count:,} leads" for count, value in common) + "."
    )


def _add_examples(page: Page, shard_set: ShardSet) -> None:
    page.section("Examples", lead="One unremarkable record, then one for each flag that occurs. 25 mm/s, 10 mm/mV.")
    for title, row in choose_examples(shard_set):
        figure = plot_row(shard_set, row, title=f"{shard_set.keys[row]}   {title}")
        page.figure(figure, raster=True, alt=f"12-lead ECG, {title}")


def choose_examples(shard_set: ShardSet) -> list[tuple[str, int]]:
    """What to show, as (what is to be seen, row): first a record without a flag, if there is one."""
    lead_flags, record_flags = shard_set.column("lead_flags"), shard_set.column("record_flags")
    clean = np.flatnonzero(~lead_flags.any(1) & (record_flags == 0))
    chosen = [("no flag", int(clean[len(clean) // 2]))] if len(clean) else []
    candidates = [(name, (lead_flags >> bit & 1).any(1)) for bit, name in enumerate(LEAD_FLAGS)]
    candidates += [(name, (record_flags >> bit & 1) == 1) for bit, name in enumerate(RECORD_FLAGS)]
    for name, flagged in candidates:
        rows = np.setdiff1d(np.flatnonzero(flagged), [row for _, row in chosen])
        if len(rows) and len(chosen) < MAX_EXAMPLES:
            chosen.append((name.replace("_", " "), int(rows[0])))
    return chosen


def _add_provenance(page: Page, shard_set: ShardSet) -> None:
    manifest = shard_set.manifest
    page.section("How it was made")
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
