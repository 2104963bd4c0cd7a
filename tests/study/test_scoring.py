"""Probes score subjects that nothing was learned from, and find what is there."""

import dataclasses

import numpy as np
import pytest

from lamae.base.errors import UsageError
from lamae.evaluate.embeddings.embed import NOT_PRETRAINED, PRETRAINED, Embeddings
from lamae.evaluate.labels.store import Labels
from lamae.study import scoring
from lamae.study.plan import TaskConfig
from lamae.study.scoring import deal_folds, nested_share, score_embeddings, summarise
from lamae.study.search import val_score

N = 240
HELD_OUT = np.arange(N) >= 120


def simulate(*, seed=0, protocol="patients"):
    """Two records per subject; SEEN is in the features, NOISE belongs to the subject and is not."""
    rng = np.random.default_rng(seed)
    subject = np.arange(N) // 2
    x = rng.normal(size=(N, 12)).astype(np.float32)
    noise = rng.integers(0, 2, N // 2)[subject]
    # A fingerprint of the subject: a probe that saw the other record of a subject would know NOISE.
    x[:, 4:] += 5 * rng.normal(size=(N // 2, 8))[subject]
    y = np.stack([x[:, 0] + 0.3 * rng.normal(size=N) > 0, noise > 0], axis=1)
    features = Embeddings(
        x_ND=x,
        embedded_N=np.ones(N, dtype=bool),
        subject_N=subject.astype(np.int32),
        split_N=np.where(HELD_OUT, 2, 0).astype(np.uint8),
        pretrained_N=np.where(HELD_OUT, NOT_PRETRAINED, PRETRAINED).astype(np.uint8),
        index_hash="i",
        name="features",
    )
    with_val = np.where(subject < 60, 0, np.where(subject < 80, 1, 2))
    split = (with_val if protocol == "splits" else np.where(HELD_OUT, 2, 0)).astype(np.uint8)
    truth = Labels(y.astype(np.uint8), np.ones(N, dtype=bool), split, ["SEEN", "NOISE"], {}, "simulated", "i")
    return features, truth


@pytest.mark.parametrize("protocol", ["patients", "splits"])
def test_finds_what_is_there_and_no_fingerprints(protocol):
    features, truth = simulate(protocol=protocol)
    scores = score_embeddings(features, truth, TaskConfig(protocol=protocol))
    seen, noise = summarise(scores).auroc_C
    assert seen > 0.9
    assert 0.3 < noise < 0.7
    assert scores.score_RMC.shape == ((2, 120, 2) if protocol == "patients" else (1, 80, 2))


def test_no_label_reaches_a_score_of_its_own_fold(monkeypatch):
    monkeypatch.setattr(scoring, "deal_folds", lambda subject_M, y_MC, folds, seed: subject_M % folds)
    features, truth = simulate()
    config = TaskConfig(protocol="patients", repeats=1)
    before = score_embeddings(features, truth, config)
    label = truth.label_NC.copy()
    label[np.flatnonzero(HELD_OUT)[before.stratum_RM[0] == 0]] ^= 1
    after = score_embeddings(features, dataclasses.replace(truth, label_NC=label), config)
    inside = before.stratum_RM[0] == 0
    np.testing.assert_array_equal(before.score_RMC[0, inside], after.score_RMC[0, inside])
    assert not np.allclose(before.score_RMC[0, ~inside], after.score_RMC[0, ~inside])


def test_subjects_that_were_pretrained_on_are_refused():
    features, truth = simulate()
    seen = dataclasses.replace(features, pretrained_N=np.full(N, PRETRAINED, dtype=np.uint8))
    with pytest.raises(UsageError, match="subjects to be scored were in pretraining"):
        score_embeddings(seen, truth, TaskConfig(protocol="patients"))
    in_train = dataclasses.replace(truth, split_N=np.zeros(N, dtype=np.uint8))
    with pytest.raises(UsageError, match="no labelled record"):
        score_embeddings(features, in_train, TaskConfig(protocol="patients"))


@pytest.mark.parametrize("protocol", ["patients", "splits"])
def test_a_code_that_no_probe_can_be_fitted_for_is_in_no_mean(protocol):
    features, truth = simulate(protocol=protocol)
    fitted = truth.rows("train") if protocol == "splits" else np.arange(N)
    truth.label_NC[fitted, 1] = 0  # of splits, test still has positives
    found = summarise(score_embeddings(features, truth, TaskConfig(protocol=protocol)))
    assert np.isnan(found.auroc_C[1])
    assert found.macro_of().value == pytest.approx(found.auroc_C[0])


def test_embeddings_of_another_shard_set_than_the_labels_are_refused():
    features, truth = simulate(protocol="splits")
    other = dataclasses.replace(features, index_hash="another")
    for score in (lambda: score_embeddings(other, truth, TaskConfig()), lambda: val_score(truth, other, TaskConfig())):
        with pytest.raises(UsageError, match="features and the labels belong to different shard sets"):
            score()


def test_folds_are_of_subjects_and_even_in_labels():
    rng = np.random.default_rng(0)
    subject = rng.integers(0, 50, 200)
    y = (subject < 10)[:, None]
    fold = deal_folds(subject, y, folds=5, seed=1)
    for number in np.unique(subject):
        assert len(set(fold[subject == number])) == 1
    positive = [len(set(subject[(fold == f) & y[:, 0]])) for f in range(5)]
    assert positive == [2] * 5
    assert not np.array_equal(fold, deal_folds(subject, y, folds=5, seed=2))


def test_smaller_shares_lie_within_larger():
    subject, rows = np.arange(100) // 2, np.arange(100)
    small = nested_share(subject, rows, fraction=0.1, seed=3)
    large = nested_share(subject, rows, fraction=0.5, seed=3)
    assert len(small) == 10
    assert set(small) < set(large)
