"""The paper is true to scale and honest about what is missing."""

import itertools

import numpy as np
import pytest
import wfdb

from lamae.base.leads import LEADS, canonical_columns
from lamae.reports.paper import MM_PER_INCH, MM_PER_MV, MM_PER_S, plot_record


def traces(figure):
    """Curves long enough to be leads rather than pulses or dividers, as [points, 2] in millimetres."""
    return [line.get_xydata() for line in figure.axes[0].lines if len(line.get_xdata()) > 10]


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


@pytest.fixture
def record():
    times = np.arange(5000) / 500
    return np.sin(2 * np.pi * times)[None] * np.linspace(0.2, 1.3, 12)[:, None]


def test_a_second_is_25_mm_and_a_millivolt_10_mm(record):
    figure = plot_record(record, rate_hz=500, layout="12x1")
    width, height = figure.get_size_inches() * MM_PER_INCH
    axes = figure.axes[0]
    assert axes.get_position().bounds == (0, 0, 1, 1)
    assert (axes.get_xlim()[1], axes.get_ylim()[1]) == pytest.approx((width, height)), "a data unit is a millimetre"
    curve = traces(figure)[11]
    assert curve[500, 0] - curve[0, 0] == pytest.approx(MM_PER_S)
    assert np.ptp(curve[:, 1]) == pytest.approx(2 * 1.3 * MM_PER_MV, rel=1e-3)


def test_standard_layout_shows_consecutive_quarters_and_a_rhythm_strip(record):
    figure = plot_record(record, rate_hz=500)
    curves = traces(figure)
    assert len(curves) == 13
    assert len(curves[-1]) == 5000
    assert {len(curve) for curve in curves[:-1]} == {1250}
    first_row = curves[:4]  # I aVR V1 V4 follow each other in time and on paper
    for before, after in itertools.pairwise(first_row):
        assert after[0, 0] - before[-1, 0] == pytest.approx(MM_PER_S / 500, abs=1e-6)
    assert [text for text in texts(figure) if text in LEADS] == [
        "I", "aVR", "V1", "V4", "II", "aVL", "V2", "V5", "III", "aVF", "V3", "V6", "II",
    ]  # fmt: skip


def test_missing_samples_are_gaps_and_missing_leads_are_named(record):
    record[0, 100:200] = np.nan
    record[7] = np.nan
    figure = plot_record(record, rate_hz=500, layout="12x1")
    curves = traces(figure)
    assert len(curves) == 11
    assert np.isnan(curves[0][100:200, 1]).all()
    assert np.isfinite(curves[0][[99, 200], 1]).all()
    assert texts(figure).count("not recorded") == 1


def test_adc_units_are_turned_into_millivolt_with_the_sentinel_as_gap():
    adc = np.full((12, 500), 1200, dtype=np.int16)
    adc[:, 250:] = 1000
    adc[3, :50] = -32768
    figure = plot_record(adc, rate_hz=500, gain=np.full(12, 200), baseline=np.full(12, 1000), layout="12x1")
    curve = traces(figure)[3]
    assert np.isnan(curve[:50, 1]).all()
    assert curve[100, 1] - curve[300, 1] == pytest.approx(MM_PER_MV)


def test_a_lead_mask_hides_what_is_there(record):
    present = np.arange(12) != 4
    assert texts(plot_record(record, rate_hz=500, lead_mask=present)).count("not recorded") == 1


def test_a_real_recording_is_drawn_whole(real_data, tmp_path):
    path = real_data / "ptbxl_500hz_first500" / "records500" / "00000" / "00001_hr"
    record = wfdb.rdrecord(str(path))
    mv = record.p_signal.T[canonical_columns(record.sig_name)]
    figure = plot_record(mv, rate_hz=record.fs, title="00001_hr")
    np.testing.assert_allclose(np.ptp(traces(figure)[-1][:, 1]), np.ptp(mv[1]) * MM_PER_MV)
    figure.savefig(tmp_path / "plot.svg")
    assert (tmp_path / "plot.svg").stat().st_size > 10_000


def test_wrong_shapes_and_missing_gain_are_refused(record):
    with pytest.raises(ValueError, match=r"\[12, T\]"):
        plot_record(record[:8], rate_hz=500)
    with pytest.raises(ValueError, match="gain"):
        plot_record(record.astype(np.int16), rate_hz=500)
    with pytest.raises(ValueError, match="layout"):
        plot_record(record, rate_hz=500, layout="6x2")
