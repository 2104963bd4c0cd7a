"""One data card for several shard sets that are pretrained on together: what each brings, side by side.

As ``lamae.reports.datacard``, without whose examples the page holds no trace and no record key.
"""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from lamae.base.leads import LEADS, NUM_LEADS
from lamae.data.mixture import Mixture
from lamae.reports.charts import WIDTH, new_charts
from lamae.reports.datacard import EXPLANATIONS, choose_examples, num_flagged, num_subjects, write_data_card
from lamae.reports.inspect import plot_row
from lamae.reports.page import Page
from lamae.reports.style import SERIES
from lamae.sharding.format import SPLITS, ShardSet, lead_mask_to_bool
from lamae.sharding.quality import LEAD_FLAGS, RECORD_FLAGS


def write_card(records: Mixture, out: Path, *, examples: bool = True) -> None:
    """Write the card of one set or several to ``out`` (.html). ``examples`` shows traces and keys of a few records.

    Raises UsageError when ``out`` cannot be written.
    """
    if len(records.sets) == 1:
        write_data_card(records.sets[0], out, examples=examples)
        return
    hours = sum(_hours(shard_set) for shard_set in records.sets)
    subjects = sum(num_subjects(shard_set.column("subject")) for shard_set in records.sets)
    page = Page(
        f"Data card: {records.num_records:,} twelve-lead ECGs from {len(records.sets)} shard sets",
        subtitle="Rates and lengths are the sets' own; a run brings them to its signal.rate_hz and signal.seconds. "
        "Subjects are counted in each set: who is in two sets counts twice.",
    )
    page.cards(
        [
            ("records", f"{records.num_records:,}", f"{hours:,.1f} hours of ECG"),
            ("subjects", f"{subjects:,}", "set by set"),
            ("sets", f"{len(records.sets)}", ", ".join(records.names)),
        ]
    )
    _add_sets(page, records)
    _add_quality(page, records)
    _add_amplitudes(page, records)
    if examples:
        page.section("Examples", lead="One unremarkable record of each set. 25 mm/s, 10 mm/mV.")
        for name, shard_set in zip(records.names, records.sets, strict=True):
            title, row = choose_examples(shard_set)[0]
            page.figure(
                plot_row(shard_set, row, title=f"{name}: {shard_set.keys[row]}   {title}"),
                raster=True,
                alt=f"12-lead ECG of {name}, {title}",
            )
    page.write(out)


def _hours(shard_set: ShardSet) -> float:
    return shard_set.num_records * shard_set.num_samples / shard_set.rate_hz / 3600


def _add_sets(page: Page, records: Mixture) -> None:
    page.section("Sets", lead="Splits are by subject within a set, unless a warning below says otherwise.")
    rows = []
    for name, shard_set in zip(records.names, records.sets, strict=True):
        rejected = sum(shard_set.manifest.get("rejects", {}).values())
        rows.append(
            [
                name,
                str(shard_set.manifest.get("source", "unknown")),
                f"{shard_set.num_records:,}",
                f"{shard_set.num_records / records.num_records:.1%}",
                f"{num_subjects(shard_set.column('subject')):,}",
                f"{_hours(shard_set):,.1f}",
                f"{shard_set.rate_hz:g} Hz",
                f"{shard_set.num_samples / shard_set.rate_hz:g} s",
                f"{rejected:,}",
            ]
        )
    page.table(["set", "source", "records", "share", "subjects", "hours", "rate", "length", "rejected"], rows)
    page.table(
        ["set", *(f"{split}: records (subjects)" for split in SPLITS)],
        [
            [name, *(_in_split(shard_set, number) for number in range(len(SPLITS)))]
            for name, shard_set in zip(records.names, records.sets, strict=True)
        ],
    )
    for name, shard_set in zip(records.names, records.sets, strict=True):
        if shard_set.unknown_patients:
            page.paragraph(f"Warning: {name}: {shard_set.unknown_patients}; one patient may be in train and test.")


def _in_split(shard_set: ShardSet, number: int) -> str:
    chosen = shard_set.column("split") == number
    return f"{chosen.sum():,} ({num_subjects(shard_set.column('subject')[chosen]):,})"


def _add_quality(page: Page, records: Mixture) -> None:
    page.section("Quality", lead="Share of a set's records with each flag; flags that no set has are left out.")
    shares = {}
    for bit, name in enumerate(LEAD_FLAGS):
        shares[name] = [(s.column("lead_flags") >> bit & 1).any(1).mean() for s in records.sets]
    for bit, name in enumerate(RECORD_FLAGS):
        shares[name] = [(s.column("record_flags") >> bit & 1).mean() for s in records.sets]
    rows = [
        [
            f"{name.replace('_', ' ')}: {EXPLANATIONS.get(name, '')}",
            *(f"{share:.1%}" if share else "–" for share in of_sets),
        ]
        for name, of_sets in shares.items()
        if any(of_sets)
    ]
    rows.append(["any flag", *(f"{num_flagged(s) / s.num_records:.1%}" for s in records.sets)])
    missing = [1 - lead_mask_to_bool(s.column("lead_mask")).mean() for s in records.sets]
    rows.append(["leads missing or masked, of all leads", *(f"{share:.2%}" if share else "–" for share in missing)])
    page.table(["flag", *records.names], rows, strong_rows=[len(rows) - 2])


def _add_amplitudes(page: Page, records: Mixture) -> None:
    page.section(
        "Amplitude",
        lead="Median standard deviation of each lead. A set far from the others may have been scaled, or its gains may "
        "be no millivolts.",
    )
    page.figure(_plot_amplitudes(records))
    page.table(
        ["set", *LEADS],
        [
            [name, *(f"{value:.2f}" for value in _median_std_mv(shard_set))]
            for name, shard_set in zip(records.names, records.sets, strict=True)
        ],
        caption="Millivolt.",
    )


def _plot_amplitudes(records: Mixture) -> Figure:
    figure, (ax,) = new_charts(WIDTH, 3.4)
    for number, (name, shard_set) in enumerate(zip(records.names, records.sets, strict=True)):
        color, marker = SERIES[number % len(SERIES)], "osD^vPX*"[number % 8]
        ax.plot(range(NUM_LEADS), _median_std_mv(shard_set), marker=marker, markersize=4, color=color, label=name)
    ax.set_xticks(range(NUM_LEADS), LEADS)
    ax.set(ylabel="standard deviation (mV)", ylim=(0, None))
    ax.legend(frameon=False, fontsize=8, ncols=4, loc="upper left", bbox_to_anchor=(0, 1.25))
    return figure


def _median_std_mv(shard_set: ShardSet) -> list[float]:
    present, std_mv = lead_mask_to_bool(shard_set.column("lead_mask")), shard_set.column("std_mv")
    return [
        float(np.median(std_mv[present[:, lead], lead])) if present[:, lead].any() else np.nan
        for lead in range(NUM_LEADS)
    ]
