"""A 12-lead ECG on ECG paper, true to scale: 25 mm/s, 10 mm/mV.

One data unit of the axes is one millimetre, and the figure's size is given in millimetres, so a print at 100 % can be
measured with a ruler and every export keeps the proportions. Missing samples are gaps; missing leads are said to be
missing rather than drawn as flat lines.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lamae.base.leads import LEADS, NUM_LEADS
from lamae.sharding.format import NO_SAMPLE

MM_PER_S = 25.0
MM_PER_MV = 10.0
MM_PER_INCH = 25.4
GRID_FINE = "#f6d5d5"
GRID_COARSE = "#e8a9a9"
INK = "#16181d"
NOTE = "#6b6f76"
LAYOUTS = ("3x4", "12x1")

# Standard arrangement, read down the columns: limb, augmented, right and left precordial leads.
_COLUMNS_3X4 = (("I", "II", "III"), ("aVR", "aVL", "aVF"), ("V1", "V2", "V3"), ("V4", "V5", "V6"))
_RHYTHM_LEAD = "II"
_MAX_S = 10.0
_MARGIN_MM = 7.0
_PULSE_MM = 15.0  # room left of the traces for the calibration pulse
_BOX_MM = 5.0
_HEAD_MM = 12.0


def plot_record(
    record_LT: np.ndarray,
    *,
    rate_hz: float,
    gain: np.ndarray | None = None,
    baseline: np.ndarray | None = None,
    lead_mask: np.ndarray | None = None,
    layout: str = "3x4",
    title: str = "",
) -> Figure:
    """Draw the first ten seconds of a record.

    Args:
        record_LT: [12, T] in canonical lead order: millivolt (float, NaN for missing samples), or ADC units (integer,
            NO_SAMPLE for missing samples) together with ``gain`` (units per millivolt) and ``baseline`` [12].
        rate_hz: sampling rate.
        lead_mask: bool [12], leads that are present; by default those with any sample.
        layout: "3x4" (2.5 s of each lead in the standard arrangement and a strip of lead II) or "12x1" (every lead in
            full length).
        title: text above the traces, such as the record's key.

    Raises ValueError for another shape or layout, or integers without a gain.
    """
    if record_LT.ndim != 2 or record_LT.shape[0] != NUM_LEADS:
        raise ValueError(f"a record is [12, T], not {list(record_LT.shape)}")
    if layout not in LAYOUTS:
        raise ValueError(f"layout {layout!r} is none of {', '.join(LAYOUTS)}")
    mv_LT = to_millivolt(record_LT, gain=gain, baseline=baseline)
    mv_LT = mv_LT[:, : round(_MAX_S * rate_hz)]
    present_L = np.isfinite(mv_LT).any(1)
    if lead_mask is not None:
        present_L = present_L & np.asarray(lead_mask, dtype=bool)
    seconds = mv_LT.shape[1] / rate_hz
    if layout == "3x4":
        rows = [[column[r] for column in _COLUMNS_3X4] for r in range(3)] + [[_RHYTHM_LEAD]]
    else:
        rows = [[lead] for lead in LEADS]
    row_mm = 30.0 if layout == "3x4" else 20.0
    return _Sheet(seconds, len(rows), row_mm).draw(mv_LT, present_L, rows, rate_hz=rate_hz, title=title)


def to_millivolt(record_LT: np.ndarray, *, gain: np.ndarray | None, baseline: np.ndarray | None) -> np.ndarray:
    """float64 [12, T] in millivolt, NaN where there is no sample; floats are taken for millivolt already."""
    if not np.issubdtype(record_LT.dtype, np.integer):
        return np.asarray(record_LT, dtype=np.float64)
    if gain is None:
        raise ValueError("a record in ADC units needs its gain")
    zero_L = np.zeros(NUM_LEADS) if baseline is None else np.asarray(baseline, dtype=np.float64)
    mv_LT = (record_LT - zero_L[:, None]) / np.asarray(gain, dtype=np.float64)[:, None]
    return np.where(record_LT == NO_SAMPLE, np.nan, mv_LT)


class _Sheet:
    """A sheet of paper: millimetres from its lower left corner."""

    def __init__(self, seconds: float, num_rows: int, row_mm: float) -> None:
        self.num_rows, self.row_mm = num_rows, row_mm
        # Whole large boxes, and always a little paper to the right of the traces.
        self.paper_mm = _BOX_MM * np.ceil((_PULSE_MM + seconds * MM_PER_S + 1) / _BOX_MM)
        self.width = 2 * _MARGIN_MM + self.paper_mm
        self.height = 2 * _MARGIN_MM + _HEAD_MM + num_rows * row_mm
        self.left = _MARGIN_MM + _PULSE_MM
        self.figure = Figure(figsize=(self.width / MM_PER_INCH, self.height / MM_PER_INCH), dpi=120)
        FigureCanvasAgg(self.figure)
        self.axes = self.figure.add_axes((0, 0, 1, 1))
        self.axes.set(xlim=(0, self.width), ylim=(0, self.height), aspect="equal")
        self.axes.axis("off")

    def draw(
        self, mv_LT: np.ndarray, present_L: np.ndarray, rows: Sequence[Sequence[str]], *, rate_hz: float, title: str
    ) -> Figure:
        self._grid()
        for r, names in enumerate(rows):
            middle = self.height - _MARGIN_MM - _HEAD_MM - (r + 0.5) * self.row_mm
            self._pulse(middle)
            for c, name in enumerate(names):
                start, stop = (int(mv_LT.shape[1] * edge / len(names)) for edge in (c, c + 1))
                lead = LEADS.index(name)
                piece = mv_LT[lead, start:stop] if present_L[lead] else None
                self._trace(name, piece, start / rate_hz, (stop - start) / rate_hz, rate_hz, middle, divider=c > 0)
        self._text(_MARGIN_MM, self.height - _MARGIN_MM - 3.5, title, size=10, weight="bold")
        self._text(_MARGIN_MM, _MARGIN_MM - 4, "25 mm/s    10 mm/mV", size=7.5, color=NOTE)
        return self.figure

    def _grid(self) -> None:
        x0, x1 = _MARGIN_MM, _MARGIN_MM + self.paper_mm
        y1 = self.height - _MARGIN_MM - _HEAD_MM + _BOX_MM
        y0 = y1 - _BOX_MM * np.floor((y1 - _MARGIN_MM) / _BOX_MM)
        self.paper = Rectangle((x0, y0), x1 - x0, y1 - y0, transform=self.axes.transData)
        for step, color, width in ((1.0, GRID_FINE, 0.35), (_BOX_MM, GRID_COARSE, 0.6)):
            xs = np.arange(x0, x1 + step / 2, step)
            ys = np.arange(y0, y1 + step / 2, step)
            lines = [[(x, y0), (x, y1)] for x in xs] + [[(x0, y), (x1, y)] for y in ys]
            self.axes.add_collection(LineCollection(lines, colors=color, linewidths=width, zorder=0))

    def _pulse(self, middle: float) -> None:
        """1 mV for 0.2 s."""
        x = _MARGIN_MM + 2
        xs = np.array([0, 2, 2, 7, 7, 9]) + x
        ys = np.array([0, 0, 1, 1, 0, 0]) * MM_PER_MV + middle
        self.axes.plot(xs, ys, color=INK, linewidth=0.8, solid_joinstyle="miter")

    def _trace(
        self,
        name: str,
        mv_T: np.ndarray | None,
        start_s: float,
        length_s: float,
        rate_hz: float,
        middle: float,
        *,
        divider: bool,
    ) -> None:
        left = self.left + start_s * MM_PER_S
        if divider:
            self.axes.plot([left, left], [middle - 4, middle + 4], color=INK, linewidth=0.6)
        self._text(left + 1.2, middle + 0.36 * self.row_mm, name, size=8.5, weight="bold")
        if mv_T is None:
            self._text(left + length_s * MM_PER_S / 2, middle, "not recorded", size=8, color=NOTE, align="center")
            return
        xs = left + np.arange(len(mv_T)) / rate_hz * MM_PER_S
        ys = middle + mv_T * MM_PER_MV
        if np.isfinite(mv_T).any() and not (np.abs(mv_T) * MM_PER_MV < self.row_mm).any():
            self._text(left + length_s * MM_PER_S / 2, middle, "off the paper", size=8, color=NOTE, align="center")
        (line,) = self.axes.plot(xs, ys, color=INK, linewidth=0.75, solid_joinstyle="round", zorder=3)
        line.set_clip_path(self.paper)

    def _text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: float,
        color: str = INK,
        weight: str = "normal",
        align: str = "left",
    ) -> None:
        if not text:
            return
        self.axes.text(
            x,
            y,
            text,
            fontsize=size,
            color=color,
            fontweight=weight,
            ha=align,
            va="center",
            parse_math=False,
            zorder=1,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8},
        )
