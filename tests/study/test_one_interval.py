"""Probe, few labels, compare and study say the same of the same embeddings: value, interval and paired difference."""

import dataclasses

import numpy as np
import pytest

from lamae.evaluate import statistics
from lamae.evaluate.probe.fewlabels import curve_difference, few_label_curve
from lamae.evaluate.probe.fit import difference as probe_difference
from lamae.evaluate.probe.fit import probe_arrays
from lamae.study.plan import TaskConfig
from lamae.study.scoring import score_embeddings, summarise
from tests.evaluate.test_probe import simulate


def studied(features, truth, *, fraction=1.0, repeats=1):
    """By seed, what a study has of one run, its three repeats of few labels taken as one value."""
    task = TaskConfig(fit_records=10**6, test_records=10**6, repeats=repeats)
    scores = score_embeddings(features, truth, task, fraction=fraction)
    return {0: summarise(scores).drawn()}


@pytest.fixture
def two_models():
    features, truth = simulate(seed=0)
    noise = np.random.default_rng(1).normal(size=features.x_ND.shape).astype(np.float32)
    return features, dataclasses.replace(features, x_ND=features.x_ND + noise, name="noisier"), truth


def test_all_ways_to_score_an_embedding_give_the_same_interval(two_models):
    features, _, truth = two_models
    probe = probe_arrays(features, truth).macro  # what probe, compare and the demo print
    curve = few_label_curve(features, truth, fractions=[1.0]).macro(1.0)
    study = statistics.estimate(studied(features, truth))
    for other in (curve, study):
        assert (other.value, other.low, other.high) == pytest.approx((probe.value, probe.low, probe.high), abs=1e-6)


def test_all_ways_leave_the_same_codes_out(two_models):
    features, _, truth = two_models
    truth.label_NC[truth.rows("test")[4:], 0] = 0
    truth.label_NC[truth.rows("train"), 1] = 0
    probe = probe_arrays(features, truth)
    assert probe.left_out_of_means == ["SEEN"]
    assert list(probe.left_out) == ["FAINT"]
    assert probe.macro.value == probe.by_code()["NOISE"].value
    study = statistics.estimate(studied(features, truth))
    assert (study.value, study.low) == pytest.approx((probe.macro.value, probe.macro.low), abs=1e-6)


def test_all_ways_to_compare_two_give_the_same_difference(two_models):
    first, second, truth = two_models
    probe = probe_difference(probe_arrays(first, truth), probe_arrays(second, truth)).macro
    curves = [few_label_curve(features, truth, fractions=[1.0]) for features in (first, second)]
    curve = curve_difference(*curves, 1.0)
    study = statistics.difference(*(studied(features, truth) for features in (first, second)))
    for other in (curve, study):
        assert (other.value, other.low, other.high) == pytest.approx((probe.value, probe.low, probe.high), abs=1e-6)


def test_few_labels_are_the_same_subjects_in_a_study_and_in_a_probe(two_models):
    features, _, truth = two_models
    curve = few_label_curve(features, truth, fractions=[0.1], num_seeds=1).results[0.1][0]
    _, value, _ = studied(features, truth, fraction=0.1)[0]
    assert value == pytest.approx(curve.macro.value, abs=1e-6)
