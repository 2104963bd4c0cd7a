"""The probe finds what is there, nothing where there is nothing, and refuses what would flatter it."""

import dataclasses

import numpy as np
import pytest
from scipy.sparse import csr_array

from lamae.base.errors import UsageError
from lamae.evaluate import store
from lamae.evaluate.embeddings.embed import PRETRAINED, UNKNOWN, Embeddings
from lamae.evaluate.labels.store import NO_SPLIT, Labels, labels_hash, read_labels
from lamae.evaluate.probe import methods, result, scores, transfer
from lamae.evaluate.probe.fit import difference, probe_arrays

CODES = ["SEEN", "FAINT", "NOISE"]


def simulate(num_subjects=500, *, strength=3.0, seed=0):
    """Two records per subject; code SEEN is in the embedding, FAINT weakly, NOISE not at all."""
    rng = np.random.default_rng(seed)
    N = 2 * num_subjects
    subject = np.arange(N) // 2
    split = np.where(subject < 0.5 * num_subjects, 0, np.where(subject < 0.65 * num_subjects, 1, 2))
    x = rng.normal(size=(N, 20)).astype(np.float32)
    odds = np.stack([strength * x[:, 0], 0.5 * x[:, 1] - 1, np.zeros(N)], axis=1)
    labels = (rng.random((N, 3)) < 1 / (1 + np.exp(-odds))).astype(np.uint8)
    features = Embeddings(
        x_ND=x,
        embedded_N=np.ones(N, dtype=bool),
        subject_N=subject.astype(np.int32),
        split_N=split.astype(np.uint8),
        pretrained_N=np.where(split == 0, 1, 0).astype(np.uint8),
        index_hash="i",
        name="features",
    )
    truth = Labels(labels, np.ones(N, dtype=bool), split.astype(np.uint8), list(CODES), {}, "simulated", "i")
    return features, truth


def test_finds_what_is_there_and_nothing_where_there_is_nothing():
    result = probe_arrays(*simulate())
    auroc = result.by_code()
    assert auroc["SEEN"].low > 0.85
    assert 0.5 < auroc["FAINT"].value < auroc["SEEN"].value
    assert auroc["NOISE"].low < 0.5 < auroc["NOISE"].high
    assert result.macro.value == pytest.approx(np.mean([i.value for i in auroc.values()]))
    assert (result.num_train, result.num_val, len(result.test_rows)) == (500, 150, 350)
    assert result.num_test_subjects == 175


def test_penalty_comes_from_val_not_from_test():
    features, truth = simulate()
    chosen = probe_arrays(features, truth).setting
    shuffled = truth.label_NC.copy()
    test_rows = truth.rows("test")
    shuffled[test_rows] = shuffled[np.random.default_rng(0).permutation(test_rows)]
    assert chosen == probe_arrays(features, dataclasses.replace(truth, label_NC=shuffled)).setting
    val = probe_arrays(features, truth).val_macro
    assert val[chosen] == max(val.values())


def test_only_labelled_records_of_the_protocol_are_used():
    features, truth = simulate()
    labelled, split = truth.labelled_N.copy(), truth.split_N.copy()
    labelled[900:920] = False
    split[920:940] = NO_SPLIT
    result = probe_arrays(features, dataclasses.replace(truth, labelled_N=labelled, split_N=split))
    assert not set(result.test_rows) & set(range(900, 940))


def test_paired_differences_are_narrower_than_unpaired_and_zero_against_itself():
    features, truth = simulate()
    noisy = dataclasses.replace(
        features, x_ND=features.x_ND + np.random.default_rng(5).normal(size=features.x_ND.shape).astype(np.float32)
    )
    better, worse = probe_arrays(features, truth), probe_arrays(noisy, truth)
    gap = difference(better, worse)
    assert gap.macro.low > 0
    assert gap.by_code()["SEEN"].low > 0
    spread = gap.by_code()["SEEN"].high - gap.by_code()["SEEN"].low
    unpaired = sum(r.by_code()["SEEN"].high - r.by_code()["SEEN"].low for r in (better, worse))
    assert spread < unpaired
    assert difference(better, better).macro == dataclasses.replace(gap.macro, value=0, low=0, high=0)


def test_difference_needs_the_same_test_records():
    features, truth = simulate()
    split = truth.split_N.copy()
    split[-2:] = NO_SPLIT
    other = probe_arrays(features, dataclasses.replace(truth, split_N=split))
    with pytest.raises(UsageError, match="not tested on the same records"):
        difference(probe_arrays(features, truth), other)


def test_codes_with_one_class_are_left_out_and_counted():
    features, truth = simulate()
    labels = truth.label_NC.copy()
    labels[truth.rows("test"), 1] = 0
    labels[truth.rows("train"), 2] = 1
    result = probe_arrays(features, dataclasses.replace(truth, label_NC=labels))
    assert result.codes == ["SEEN"]
    assert result.left_out == {"FAINT": "no positive record in test", "NOISE": "no negative record in train"}
    assert result.macro.value == result.by_code()["SEEN"].value


def test_a_code_without_a_positive_record_in_val_has_no_f1_and_takes_no_part_in_its_macro():
    features, truth = simulate()
    truth.label_NC[truth.rows("val"), 0] = 0
    result = probe_arrays(features, truth)
    assert result.by_code()["SEEN"].value > 0.85
    assert result.without_f1 == ["SEEN"]
    assert result.macro_metric("f1").value == pytest.approx(result.metrics["f1"][1:].mean())
    assert result.macro_metric("f1").low > 0.2
    assert result.to_dict()["f1"]["SEEN"] is None


def test_subjects_seen_in_pretraining_are_refused_unless_told():
    features, truth = simulate()
    pretrained = features.pretrained_N.copy()
    pretrained[truth.rows("test")[:6]] = PRETRAINED
    features = dataclasses.replace(features, pretrained_N=pretrained)
    with pytest.raises(UsageError, match=r"3 of 175 test subjects .*--transductive"):
        probe_arrays(features, truth)
    assert "3 of 175" in probe_arrays(features, truth, transductive=True).contamination
    assert probe_arrays(*simulate()).contamination == "none"


def test_where_pretraining_is_unknown_the_result_says_so():
    features, truth = simulate()
    pretrained = features.pretrained_N.copy()
    pretrained[truth.rows("test")[0]] = UNKNOWN
    result = probe_arrays(dataclasses.replace(features, pretrained_N=pretrained), truth)
    assert result.contamination == result.to_dict()["contamination"] == "unknown"


def test_a_subject_on_both_sides_is_refused():
    features, truth = simulate()
    split = truth.split_N.copy()
    split[0] = 2
    with pytest.raises(UsageError, match="1 subjects are in both train and test"):
        probe_arrays(features, dataclasses.replace(truth, split_N=split))


def test_missing_pieces_are_named():
    features, truth = simulate()
    with pytest.raises(UsageError, match="no labelled record in split val"):
        probe_arrays(features, dataclasses.replace(truth, split_N=np.where(truth.split_N == 1, 0, truth.split_N)))
    with pytest.raises(UsageError, match="were not embedded"):
        probe_arrays(dataclasses.replace(features, embedded_N=features.split_N != 2), truth)


@pytest.mark.parametrize("method", ["logistic", "knn"])
@pytest.mark.parametrize("value", [0, 1])
def test_without_both_classes_in_val_no_setting_is_chosen(method, value):
    features, truth = simulate(20)
    labels = truth.label_NC.copy()
    labels[truth.rows("val")] = value
    with pytest.raises(UsageError, match="no code has both classes in the 6 val records"):
        probe_arrays(features, dataclasses.replace(truth, label_NC=labels), method=method)


def test_stores_of_different_shard_sets_are_refused(tmp_path):
    features, truth = simulate(20)
    write_stores(tmp_path, features, truth, labels_hash="other")
    with pytest.raises(UsageError, match="different shard sets"):
        transfer.read([(tmp_path / "e.zarr", None)], labels=tmp_path / "l.zarr", readout="record")


def test_probing_stores_equals_probing_arrays(tmp_path):
    features, truth = simulate()
    write_stores(tmp_path, features, truth)
    (stored,), labels, _ = transfer.read([(tmp_path / "e.zarr", None)], labels=tmp_path / "l.zarr", readout="record")
    np.testing.assert_array_equal(probe_arrays(stored, labels).draws_ZC, probe_arrays(features, truth).draws_ZC)


@pytest.mark.parametrize("method", ["logistic", "knn"])
def test_large_stores_are_probed_from_disk_as_in_memory(tmp_path, monkeypatch, method):
    features, truth = simulate()
    write_stores(tmp_path, features, truth)
    expected = probe_arrays(features, truth, method=method)
    monkeypatch.setattr(store, "LARGE_BYTES", 0)
    labels = read_labels(tmp_path / "l.zarr")
    assert not isinstance(labels.label_NC, np.ndarray)
    assert labels_hash(labels) == labels_hash(truth)
    (stored,), labels, _ = transfer.read([(tmp_path / "e.zarr", None)], labels=tmp_path / "l.zarr", readout="record")
    result = probe_arrays(stored, labels, method=method)
    assert result.setting == expected.setting
    np.testing.assert_allclose(result.probability_NC, expected.probability_NC, atol=1e-4)
    np.testing.assert_array_equal(store.dense(result.y_NC), expected.y_NC)


@pytest.mark.parametrize("method", ["logistic", "knn"])
def test_codes_scored_in_blocks_give_the_same_result_as_all_at_once(monkeypatch, method):
    features, truth = simulate()
    whole = probe_arrays(features, truth, method=method)
    monkeypatch.setattr(scores, "BLOCK_BYTES", 1)
    blockwise = probe_arrays(features, truth, method=method)
    assert blockwise.micro_auroc == pytest.approx(whole.micro_auroc, abs=1e-6)
    assert blockwise.val_macro == pytest.approx(whole.val_macro, abs=1e-6)
    for field in ("auroc_C", "draws_ZC", "metrics", "metric_draws", "probability_NC"):
        found, expected = getattr(blockwise, field), getattr(whole, field)
        for key in expected if isinstance(expected, dict) else [...]:
            np.testing.assert_allclose(found[key], expected[key], atol=1e-6, err_msg=field)


def test_scores_are_never_asked_for_all_codes_at_once(monkeypatch):
    features, truth = simulate()
    rows = {split: truth.rows(split) for split in ("train", "val", "test")}
    widths = []

    def noting(score_NC):
        return scores.Scores(score_NC.shape, lambda at: (widths.append(at.stop - at.start), score_NC[:, at])[1])

    monkeypatch.setattr(scores, "BLOCK_BYTES", 2 * 4 * len(rows["test"]))
    monkeypatch.setattr(result, "LARGE_BYTES", 0)
    fit = methods.Fit(1.0, {}, *(noting(features.x_ND[rows[split], :3]) for split in ("val", "test")), np.tanh)
    sparse = dataclasses.replace(truth, label_NC=csr_array(truth.label_NC))
    options = {"name": "noted", "method": "noted", "contamination": "none"}
    found = result.evaluate_scores(fit, sparse, rows, np.arange(3), {}, features.subject_N, **options)
    assert max(widths) == 2
    assert found.probability_NC is None
    assert found.prevalence == pytest.approx(dict(zip(CODES, truth.label_NC[rows["test"]].mean(0), strict=True)))


def write_stores(path, features, truth, *, labels_hash=None):
    store.write(
        path / "e.zarr",
        kind="embeddings",
        columns={
            "record": features.x_ND,
            "embedded": features.embedded_N,
            "subject": features.subject_N,
            "split": features.split_N,
            "pretrained": features.pretrained_N,
        },
        attributes={"index_sha256": features.index_hash, "made_by": features.made_by},
    )
    store.write(
        path / "l.zarr",
        kind="labels",
        columns={"label": truth.label_NC, "labelled": truth.labelled_N, "split": truth.split_N},
        attributes={
            "index_sha256": labels_hash or truth.index_hash,
            "codes": truth.codes,
            "descriptions": {},
            "protocol": "simulated",
        },
    )


@pytest.mark.parametrize("rare", [0, 1])
def test_a_code_of_two_subjects_in_a_class_has_no_interval_and_is_in_no_mean(rare):
    features, truth = simulate()
    test = np.flatnonzero(truth.split_N == 2)
    truth.label_NC[test, :2] = 1 - rare
    truth.label_NC[test[:4], :2] = rare  # four records of two subjects
    truth.label_NC[test[4], 1] = rare  # and one of a third
    found = probe_arrays(features, truth)
    two, three, many = found.by_code().values()
    assert 0 <= two.value <= 1
    assert str(two).endswith("(interval unknown)")
    assert three.low < three.high
    assert found.left_out_of_means == ["SEEN"]
    assert found.macro.value == pytest.approx((three.value + many.value) / 2)
    brier = found.metrics["brier"]
    assert found.macro_metric("brier").value == pytest.approx(brier[1:].mean())


def test_nothing_is_decided_on_one_test_subject():
    features, truth = simulate()
    features.subject_N[truth.split_N == 2] = 10_000
    other = dataclasses.replace(features, x_ND=features.x_ND[::-1].copy(), name="other")
    gap = difference(probe_arrays(features, truth), probe_arrays(other, truth))
    assert gap.macro.value > 0.1
    assert gap.macro.verdict == gap.macro_metric("auprc").verdict == "unknown"


def test_embeddings_of_any_unit_give_the_same(caplog):
    features, truth = simulate()
    expected = probe_arrays(features, truth).macro.value
    small = dataclasses.replace(features, x_ND=features.x_ND * np.float32(1e-12))
    assert probe_arrays(small, truth).macro.value == pytest.approx(expected, abs=1e-3)
    assert not caplog.text
    constant = dataclasses.replace(features, x_ND=np.full_like(features.x_ND, 0.1))
    assert probe_arrays(constant, truth).macro.value == 0.5
    assert "no feature varies over the 500 training records" in caplog.text
