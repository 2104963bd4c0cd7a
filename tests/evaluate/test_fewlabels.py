"""Few-label curves: nested, by subject, the same for every model, over the same codes."""

import numpy as np
import pytest

from lamae.base.errors import UsageError
from lamae.evaluate.labels.groups import code_groups
from lamae.evaluate.probe.fewlabels import (
    FewLabelCurve,
    curve_difference,
    distinct_fractions,
    few_label_curve,
    training_rows,
)
from lamae.evaluate.statistics import Scored
from tests.evaluate.test_probe import simulate
from tests.evaluate.test_statistics import simulate as simulate_seeds


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
    curve = few_label_curve(*simulate(), fractions=(0.02, 1.0))
    assert [len(curve.results[f]) for f in (0.02, 1.0)] == [3, 1]
    assert {tuple(r.codes) for results in curve.results.values() for r in results} == {("SEEN", "FAINT", "NOISE")}
    assert curve.macro(0.02).value < curve.macro(1.0).value
    gap = curve_difference(curve, curve, 0.02)
    assert (gap.value, gap.low, gap.high) == (0, 0, 0)


def test_shares_of_the_same_size_are_one_and_each_says_its_subjects_and_records(caplog):
    features, truth = simulate(40)
    assert distinct_fractions(features.subject_N, truth, [0.01, 0.05, 0.1, 1]) == [0.1, 1]
    assert "of 20 training subjects the shares 0.01, 0.05 are the same 2 as 0.1, and are left out" in caplog.text
    found = few_label_curve(features, truth, fractions=(0.1, 1.0)).to_dict()
    assert {share: (of["num_subjects"], of["num_records"]) for share, of in found.items()} == {
        "0.1": (2, 4), "1": (20, 40),
    }  # fmt: skip


def curve_of(values):
    """A curve whose seeds have these (population, macro AUROC, macro AUROC by draw)."""
    results = [Scored(np.array([value]), draws_Z[:, None], population, ["A"]) for population, value, draws_Z in values]
    return FewLabelCurve("simulated", {0.1: results})


@pytest.mark.parametrize(("seed_sd", "least"), [(0.05, 0.935), (0.2, 0.908), (0.4, 0.845)])
def test_intervals_over_three_seeds_cover_the_truth(seed_sd, least):
    """Of a mean whose standard deviation by subjects is .11. Without the stretch .4 came to 83 %, .2 to 90 %."""
    rng, hits = np.random.default_rng(1), []
    for _ in range(1000):
        values = simulate_seeds(rng, seeds=3, subjects=80, seed_sd=seed_sd, subject_sd=1.0)
        found = curve_of(values.values()).macro(0.1)
        hits.append(found.low <= 0 <= found.high)
    assert least < np.mean(hits) < 0.97


def test_icd_codes_fall_into_groups_and_other_names_into_none():
    groups = code_groups(["E11", "I10", "I48", "I4891", "R000", "Z950"])
    assert groups["cardiac chapter (I00-I99)"] == ["I10", "I48", "I4891"]
    assert groups["ECG-salient"] == ["I48", "I4891", "R000", "Z950"]
    assert groups["not ECG-salient"] == ["E11", "I10"]
    assert code_groups(["NORM", "MI", "I10"]) == {}
