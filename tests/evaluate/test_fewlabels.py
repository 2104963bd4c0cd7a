"""Few-label curves: nested, by subject, the same for every model, over the same codes."""

import numpy as np
import pytest

from lamae.evaluate.fewlabels import curve_difference, few_label_curve, resample_seeds, training_rows
from lamae.evaluate.groups import code_groups
from lamae.sharding.errors import UsageError
from tests.evaluate.test_probe import simulate


def test_fractions_are_nested_whole_subjects_of_the_training_split():
    features, truth = simulate()
    small, large = (set(training_rows(features, truth, fraction=f, seed=1)) for f in (0.05, 0.2))
    assert small < large < set(truth.rows("train"))
    assert len(small) == 2 * round(0.05 * 250)
    subjects = features.subject_N[sorted(large)]
    assert (np.unique(subjects, return_counts=True)[1] == 2).all()
    assert set(training_rows(features, truth, fraction=0.05, seed=2)) != small
    with pytest.raises(UsageError, match="fraction"):
        training_rows(features, truth, fraction=0, seed=0)


def test_more_labels_help_and_the_codes_stay_the_same():
    curve = few_label_curve(*simulate(), fractions=(0.02, 1.0), num_draws=200)
    assert [len(curve.results[f]) for f in (0.02, 1.0)] == [3, 1]
    assert {tuple(r.codes) for results in curve.results.values() for r in results} == {("SEEN", "FAINT", "NOISE")}
    assert curve.macro(0.02).value < curve.macro(1.0).value
    gap = curve_difference(curve, curve, 0.02)
    assert (gap.value, gap.low, gap.high) == (0, 0, 0)


def test_resampling_seeds_adds_their_spread():
    agreeing = np.tile(np.random.default_rng(0).normal(size=2000), (4, 1))
    apart = agreeing + np.array([[-1.0], [0], [0], [1]])
    np.testing.assert_allclose(resample_seeds(agreeing, seed=0), agreeing[0])
    assert resample_seeds(apart, seed=0).std() > agreeing[0].std() * 1.02


def test_icd_codes_fall_into_groups_and_other_names_into_none():
    groups = code_groups(["E11", "I10", "I48", "I4891", "R000", "Z950"])
    assert groups["cardiac chapter (I00-I99)"] == ["I10", "I48", "I4891"]
    assert groups["ECG-salient"] == ["I48", "I4891", "R000", "Z950"]
    assert groups["not ECG-salient"] == ["E11", "I10"]
    assert code_groups(["NORM", "MI", "I10"]) == {}
