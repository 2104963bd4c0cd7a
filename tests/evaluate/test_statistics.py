"""The hierarchical bootstrap against closed forms and simulated truth."""

import numpy as np
import pytest

from lamae.evaluate.probe.auroc import auroc, stratified_auroc
from lamae.evaluate.statistics import (
    Interval,
    difference,
    estimate,
    interval,
    macro_drawn,
    simultaneous,
    subject_weights,
)
from lamae.study.scoring import Scores, summarise

RNG = np.random.default_rng


def test_one_stratum_is_the_auroc():
    rng = RNG(0)
    y = rng.random((80, 3)) < 0.3
    score = (rng.normal(size=(80, 3)) + y).round(1)
    found = stratified_auroc(score, y, np.zeros(80, dtype=int), np.ones((1, 80)))
    np.testing.assert_allclose(found[0], auroc(score, y), atol=1e-12)


def test_only_pairs_of_one_stratum_count_and_by_their_weights():
    score = np.array([0.0, 1.0, 10.0, 11.0])[:, None]
    y = np.array([0, 1, 1, 0])[:, None]
    weights = np.array([[1, 1, 1, 1], [2, 3, 1, 1], [0, 0, 1, 0]])
    found = stratified_auroc(score, y, np.array([0, 0, 1, 1]), weights)[:, 0]
    assert found[0] == 0.5  # one stratum in order, the other not; pairs across them would all count as in order
    assert found[1] == pytest.approx(6 / 7)
    assert np.isnan(found[2])


def test_repeats_are_averaged_over_the_same_subjects():
    rng = RNG(1)
    y = rng.random((60, 2)) < 0.4
    score = rng.normal(size=(2, 60, 2)) + y
    at = np.zeros((2, 60), dtype=int)
    both = summarise(Scores(score, at, y, np.arange(60), "p", ("a", "b")))
    each = [summarise(Scores(score[[r]], at[[r]], y, np.arange(60), "p", ("a", "b"))) for r in (0, 1)]
    np.testing.assert_allclose(both.draws_ZC, (each[0].draws_ZC + each[1].draws_ZC) / 2)


def simulate(rng, *, seeds, subjects, seed_sd, subject_sd, shift=0.0, subject_effect=None):
    """Values by seed whose truth is ``shift``: x = shift + seed + subject + noise, the value is the mean."""
    effect = rng.normal(0, subject_sd, subjects) if subject_effect is None else subject_effect
    weights = subject_weights(np.arange(subjects), num_draws=400, seed=0)
    values = {}
    for seed in range(seeds):
        x = shift + rng.normal(0, seed_sd) + effect + rng.normal(0, 0.1, subjects)
        values[seed] = "p", float(x.mean()), (weights @ x) / weights.sum(1)
    return values


def test_spread_is_that_of_seeds_and_subjects_together():
    """Variance: seeds' / S + subjects' / n. Without the stretch for few seeds the first were (S - 1) / S of it."""
    rng, widths = RNG(2), []
    for _ in range(200):
        found = estimate(simulate(rng, seeds=3, subjects=100, seed_sd=0.3, subject_sd=1.0))
        widths.append((found.high - found.low) / (2 * 1.96))
    expected = 0.3**2 / 3 + (1.0**2 + 0.1**2 / 3) / 100
    assert np.mean(np.square(widths)) == pytest.approx(expected, rel=0.15)


def test_intervals_cover_the_truth():
    rng = RNG(3)
    hits = [
        found.low <= 0.0 <= found.high
        for found in (estimate(simulate(rng, seeds=6, subjects=80, seed_sd=0.05, subject_sd=1.0)) for _ in range(300))
    ]
    assert 0.91 < np.mean(hits) < 0.985


def test_pairing_removes_what_the_subjects_have_in_common():
    rng = RNG(4)
    effect = rng.normal(0, 1.0, 100)
    one = simulate(rng, seeds=4, subjects=100, seed_sd=0.01, subject_sd=0, shift=0.2, subject_effect=effect)
    two = simulate(rng, seeds=4, subjects=100, seed_sd=0.01, subject_sd=0, subject_effect=effect)
    gap, alone = difference(one, two), estimate(one)
    assert gap.value == pytest.approx(0.2, abs=0.05)
    assert gap.high - gap.low < 0.3 * (alone.high - alone.low)
    assert gap.excludes_zero


def test_populations_weigh_alike_however_many_seeds_they_have():
    flat = np.zeros(10)
    values = {0: ("a", 1.0, flat + 1), 1: ("a", 1.0, flat + 1), 2: ("b", 0.0, flat)}
    assert estimate(values).value == 0.5
    with pytest.raises(ValueError, match="seed 2 was scored on different records"):
        difference(values, {**values, 2: ("a", 1.0, flat)})
    with pytest.raises(ValueError, match="no seed in common"):
        difference(values, {7: ("a", 1.0, flat)})


def test_simultaneous_intervals_cover_all_truths_at_once():
    """Of 12 independent comparisons the usual intervals all cover in .95^12 = .54 of cases."""
    rng, together, alone = RNG(5), [], []
    for _ in range(150):
        family = [simulate(rng, seeds=6, subjects=200, seed_sd=0.02, subject_sd=1.0) for _ in range(12)]
        together.append(all(one.low <= 0 <= one.high for one in simultaneous(family)))
        alone.append(all(one.low <= 0 <= one.high for one in map(estimate, family)))
    assert 0.89 < np.mean(together) < 0.99
    assert np.mean(alone) < 0.7


def test_a_family_that_moves_together_costs_no_width():
    values = simulate(RNG(6), seeds=4, subjects=60, seed_sd=0.1, subject_sd=1.0)
    (one,), many = simultaneous([values]), simultaneous([values] * 20)
    assert {(found.low, found.high) for found in many} == {(one.low, one.high)}
    usual = estimate(values)
    assert one.high - one.low == pytest.approx(usual.high - usual.low, rel=0.15)


def test_what_has_no_draws_gets_no_interval_and_widens_no_other():
    values = simulate(RNG(7), seeds=2, subjects=60, seed_sd=0.1, subject_sd=1.0)
    fixed = {0: ("p", 0.5, np.full(400, 0.5))}
    undefined = {0: ("p", 0.5, np.full(400, np.nan))}
    alone, same, unknown = simultaneous([values, fixed, undefined])
    assert (alone.low, alone.high) == (simultaneous([values])[0].low, simultaneous([values])[0].high)
    assert [same.verdict, unknown.verdict] == ["unknown", "unknown"]


def test_draws_without_a_code_are_not_means_of_the_other_codes():
    """Left out of a draw alone, a poor code would lift it: here from .7 to .9 in a third of the draws."""
    rng = RNG(8)
    value_C = np.array([0.9, 0.5])
    draws_ZC = value_C + rng.normal(0, 0.02, (600, 2))
    draws_ZC[:200, 1] = np.nan
    found = interval(*macro_drawn(value_C, draws_ZC))
    assert found.value == pytest.approx(0.7)
    assert found.low == pytest.approx(0.67, abs=0.01)
    assert found.high == pytest.approx(0.73, abs=0.01)


def test_codes_without_an_interval_are_in_no_mean_unless_all_are_so():
    value_C, draws_ZC = np.array([0.9, 0.5]), np.full((50, 2), np.nan)
    value, draws_Z = macro_drawn(value_C, draws_ZC)
    assert value == pytest.approx(0.7)
    assert np.isnan(draws_Z).all()
    draws_ZC[:, 0] = 0.9
    assert macro_drawn(value_C, draws_ZC)[0] == 0.9


def test_a_population_of_one_seed_takes_the_spread_of_the_others_seeds():
    """Seeds 0 and 2 of one part lie 1 from their mean, stretched sqrt(2); the other part's only seed may lie as far."""
    flat = np.zeros(1000)
    values = {seed: (f"part {seed % 2}", value, flat + value) for seed, value in enumerate((1.0, 5.0, -1.0))}
    found = estimate(values)
    assert found.value == 2.5
    assert (found.low, found.high) == pytest.approx((2.5 - np.sqrt(2), 2.5 + np.sqrt(2)))
    del values[2]  # now no part shows how far its seeds lie apart
    found = estimate(values)
    assert (found.low, found.high) == (3.0, 3.0)


def test_a_tie_is_an_interval_that_covers_zero():
    assert Interval(0.1, -0.01, 0.2).verdict == "tie"
    assert Interval(0.1, 0.01, 0.2).verdict == "better"
    assert Interval(-0.1, -0.2, -0.01).verdict == "worse"
    assert Interval(0.01, -0.2, -0.01).verdict == "worse"  # by the interval, where its bias leaves the value outside
