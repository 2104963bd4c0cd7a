"""Synthetic recordings measured beside real ones."""

import numpy as np
import pytest

from lamae.base.errors import UsageError
from lamae.base.leads import INDEPENDENT_LEADS, LEADS
from lamae.sharding.synth import synthesize
from lamae.sharding.synth.realism import (
    explained_by_three,
    heart_rate_bpm,
    hidden_chest_lead,
    limb_residual_uv,
    load_millivolts,
    markdown,
    rows,
    spectrum_slope,
    without_wander,
)


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory) -> np.ndarray:
    out = tmp_path_factory.mktemp("realism") / "tree"
    synthesize(out, num_records=120, num_subjects=120, seed=1, defect_rate=0.1)
    return load_millivolts(out, max_records=120)


@pytest.fixture(scope="module")
def real(real_data) -> np.ndarray:
    return load_millivolts(real_data / "ptbxl_500hz_first500", max_records=90)


def test_damaged_records_are_not_measured(synthetic):
    assert 95 <= len(synthetic) < 120
    assert np.isfinite(synthetic).all()


def test_three_components_explain_as_much_as_in_real_recordings(synthetic, real):
    ours, theirs = explained_by_three(synthetic), explained_by_three(real)
    assert np.median(ours) == pytest.approx(np.median(theirs), abs=0.015)
    assert np.percentile(ours, 10) == pytest.approx(np.percentile(theirs, 10), abs=0.03)
    ours, theirs = explained_by_three(without_wander(synthetic)), explained_by_three(without_wander(real))
    assert np.median(ours) == pytest.approx(np.median(theirs), abs=0.006)


def test_voltages_rate_and_spectrum_are_near_real_ones(synthetic, real):
    ours_L, theirs_L = (np.median(without_wander(x).std(axis=-1), axis=0) for x in (synthetic, real))
    for lead in INDEPENDENT_LEADS:
        assert 0.75 < ours_L[lead] / theirs_L[lead] < 1.3, LEADS[lead]
    assert np.median(heart_rate_bpm(synthetic)) == pytest.approx(np.median(heart_rate_bpm(real)), abs=12)
    assert np.median(limb_residual_uv(synthetic)) <= 5.1
    for band_hz in ((1, 10), (10, 45)):
        ours, theirs = (np.median(spectrum_slope(x, band_hz=band_hz)) for x in (synthetic, real))
        assert ours == pytest.approx(theirs, abs=0.4)


def test_a_hidden_chest_lead_can_be_told_but_not_without_knowing_the_body(synthetic):
    own, shared = hidden_chest_lead(without_wander(synthetic), LEADS.index("V2"))
    assert np.median(own) > 0.95
    assert 0.6 < np.median(shared) < np.median(own) - 0.03
    assert np.percentile(shared, 10) < 0.8


def test_heart_rate_of_a_metronome():
    mv_LT = np.zeros((12, 5000))
    mv_LT[:, 100::400] = 1.0
    assert heart_rate_bpm(mv_LT[None])[0] == pytest.approx(75, abs=0.5)


def test_the_table_has_a_column_per_folder_and_folders_without_records_are_refused(synthetic, tmp_path):
    few = rows(synthetic[:20])
    lines = markdown({"ours": few, "theirs": few}).splitlines()
    assert lines[0] == "| | ours | theirs |"
    assert len(lines) == 2 + len(few)
    assert all(line.count("|") == 4 for line in lines)
    with pytest.raises(UsageError, match="no intact 12-lead record"):
        load_millivolts(tmp_path, max_records=5)
