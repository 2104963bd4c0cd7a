"""One record of a shard set, for people: what the index says about it, and its plot on ECG paper."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from lamae.base.errors import UsageError
from lamae.base.leads import LEADS
from lamae.reports.paper import plot_record
from lamae.sharding.format import SPLITS, ShardSet, lead_mask_to_bool, shard_name


def describe_record(shard_set: ShardSet, row: int) -> tuple[str, list[str], list[list[str]]]:
    """Title, column heads and one line per lead, ready for a table."""
    column = {name: shard_set.column(name)[row] for name in _COLUMNS}
    shard, split = shard_name(int(column["shard"])), SPLITS[int(column["split"])]
    title = (
        f"{shard_set.keys[row]}  row {row}, {shard} offset {int(column['payload_offset'])}, split {split}, "
        f"{shard_set.num_samples} samples at {shard_set.rate_hz:g} Hz "
        f"({shard_set.num_samples / shard_set.rate_hz:g} s)"
    )
    present = lead_mask_to_bool(column["lead_mask"])
    rows = []
    for lead, name in enumerate(LEADS):
        if not present[lead]:
            rows.append([name, "missing", *[""] * 6])
            continue
        gain, zero = float(column["gain"][lead]), int(column["baseline"][lead])
        low, high = ((int(column[side][lead]) - zero) / gain for side in ("min_adc", "max_adc"))
        rows.append(
            [
                name,
                "present",
                f"{gain:g}",
                f"{float(column['mean_mv'][lead]):.3f}",
                f"{float(column['std_mv'][lead]):.3f}",
                f"{low:.3f}",
                f"{high:.3f}",
                str(int(column["num_missing"][lead])),
            ]
        )
    heads = ["lead", "", "gain (1/mV)", "mean (mV)", "sd (mV)", "min (mV)", "max (mV)", "missing samples"]
    return title, heads, rows


def plot_row(shard_set: ShardSet, row: int, *, title: str, layout: str = "3x4") -> Figure:
    """Record ``row`` on ECG paper, with its own gain, baseline and leads."""
    return plot_record(
        shard_set.read(row),
        rate_hz=shard_set.rate_hz,
        gain=shard_set.column("gain")[row],
        baseline=shard_set.column("baseline")[row],
        lead_mask=lead_mask_to_bool(np.asarray(shard_set.column("lead_mask")[row])),
        layout=layout,
        title=title,
    )


def save_record_plot(shard_set: ShardSet, row: int, path: Path, *, layout: str = "3x4") -> Path:
    """Plot record ``row`` to ``path`` (.png, .svg or .pdf; true to scale when printed at 100 %)."""
    figure = plot_row(shard_set, row, title=shard_set.keys[row], layout=layout)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: the plot cannot be written ({error})") from None
    return path


_COLUMNS = (
    "shard", "payload_offset", "split", "gain", "baseline", "lead_mask", "mean_mv", "std_mv", "min_adc", "max_adc",
    "num_missing",
)  # fmt: skip
