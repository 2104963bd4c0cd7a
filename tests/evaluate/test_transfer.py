"""Across hospitals: fitted on one set's patients, tested on another's, never on the same ones."""

import dataclasses

import numpy as np
import pytest

from lamae.base.errors import UsageError
from lamae.evaluate import store
from lamae.evaluate.embeddings.embed import PRETRAINED, read_embeddings, write_records
from lamae.evaluate.probe import transfer
from lamae.evaluate.probe.fit import difference, probe_arrays
from lamae.evaluate.probe.transfer import join_embeddings_of, join_labels_of, left_out_of_both
from lamae.sharding.format import ShardSet
from tests.evaluate.test_probe import simulate, write_stores
from tests.shardsets import random_adc, write_shard_set


def hospitals():
    """Two sets whose code SEEN lies in the same direction; each has a code of its own, and another order of codes."""
    here, truth = simulate(seed=0)
    there, other = simulate(300, seed=1)
    here = dataclasses.replace(here, made_by="one model")
    there = dataclasses.replace(there, index_hash="j", name="there", made_by="one model")
    truth = dataclasses.replace(truth, codes=["SEEN", "FAINT", "HERE"], descriptions={"SEEN": "seen"})
    other = dataclasses.replace(other, codes=["SEEN", "THERE", "FAINT"], index_hash="j")
    other.label_NC[:] = other.label_NC[:, [0, 2, 1]]
    return here, truth, there, other


def test_what_is_learned_in_one_hospital_is_tested_in_the_other():
    here, truth, there, other = hospitals()
    features, joined = join_embeddings_of(here, there), join_labels_of(truth, other)
    result = probe_arrays(features, joined)
    assert result.codes == ["SEEN", "FAINT"]
    assert result.by_code()["SEEN"].low > 0.8
    assert (result.num_train, result.num_val) == (500, 150)
    np.testing.assert_array_equal(result.test_rows, 1000 + other.rows("test"))
    np.testing.assert_array_equal(result.y_NC[:, 0], other.label_NC[other.rows("test"), 0])
    assert result.num_test_subjects == len(np.unique(there.subject_N[other.rows("test")]))
    assert left_out_of_both(truth, other) == {
        "HERE": "not among the codes of the set tested on",
        "THERE": "not among the codes of the set fitted on",
    }
    everyone = probe_arrays(features, join_labels_of(truth, other, test_split="all"), transductive=True)
    assert len(everyone.test_rows) == 600
    assert difference(result, result).macro.value == 0
    with pytest.raises(UsageError, match="not tested on the same records"):
        difference(result, everyone)


@pytest.mark.parametrize("method", ["logistic", "knn"])
def test_large_stores_of_two_hospitals_are_joined_on_disk_as_in_memory(tmp_path, monkeypatch, method):
    here, truth, there, other = hospitals()
    for place, features, labels in (("here", here, truth), ("there", there, other)):
        (tmp_path / place).mkdir()
        write_stores(tmp_path / place, features, labels)
    pairs = [(tmp_path / "here" / "e.zarr", tmp_path / "there" / "e.zarr")]
    options = {
        "labels": tmp_path / "here" / "l.zarr",
        "readout": "record",
        "test_labels": tmp_path / "there" / "l.zarr",
        "test_split": "all",
    }
    (joined,), labels, _ = transfer.read(pairs, **options)
    expected = probe_arrays(joined, labels, method=method, transductive=True)
    monkeypatch.setattr(store, "LARGE_BYTES", 0)
    (on_disk,), labels, _ = transfer.read(pairs, **options)
    assert [part.shape for part in on_disk.x_ND.parts] == [(1000, 20), (600, 20)]
    result = probe_arrays(on_disk, labels, method=method, transductive=True)
    np.testing.assert_allclose(result.probability_NC, expected.probability_NC, atol=1e-4)
    np.testing.assert_allclose(result.auroc_C, expected.auroc_C, atol=1e-4)


def test_patients_seen_in_pretraining_are_refused_there_too():
    here, truth, there, other = hospitals()  # whose train records were pretrained on
    seen = len(np.unique(there.subject_N[there.pretrained_N == PRETRAINED]))
    features, everyone = join_embeddings_of(here, there), join_labels_of(truth, other, test_split="all")
    with pytest.raises(UsageError, match=f"features on there: {seen} of 300 test subjects were in the model's pretr"):
        probe_arrays(features, everyone)
    assert probe_arrays(features, everyone, transductive=True).contamination.startswith(f"transductive: {seen} of 300")


def test_two_sets_of_one_source_may_share_patients_and_that_is_said(caplog):
    here, _, there, _ = hospitals()
    for sources in (("mimic", "ptbxl"), ("wfdb", "wfdb"), ("", "")):
        one, other = (dataclasses.replace(x, source=source) for x, source in zip((here, there), sources, strict=True))
        join_embeddings_of(one, other)
    assert not caplog.messages
    join_embeddings_of(dataclasses.replace(here, source="mimic"), dataclasses.replace(there, source="mimic"))
    assert "are both of mimic, and nothing here tells whether a patient is in both" in caplog.text


def test_two_packs_of_ones_own_recordings_are_known_by_their_keys(tmp_path, caplog):
    made = {}
    for name, keys in {"a": ["r1", "r2", "r3"], "b": ["r2", "r3", "r9"], "c": ["r7", "r8", "r9"]}.items():
        shards = ShardSet.open(
            write_shard_set(tmp_path / name, random_adc(3, 50, seed=ord(name)), keys=keys, source="wfdb")
        )
        flags = {"embedded_N": np.ones(3, dtype=bool), "pretrained_N": np.zeros(3, dtype=np.uint8)}
        out = tmp_path / f"{name}.zarr"
        write_records(out, shards, np.eye(3, dtype=np.float32), **flags, attributes={"made_by": "one model"})
        made[name] = read_embeddings(out)
    join_embeddings_of(made["a"], made["c"])
    assert not caplog.messages
    join_embeddings_of(made["a"], made["b"])
    assert "a.zarr and b.zarr have the keys of 2 records in common, and may hold the same patients" in caplog.text


def test_sets_that_have_nothing_in_common_are_refused():
    here, truth, there, other = hospitals()
    with pytest.raises(UsageError, match=r"no code in common \(A, B, C and SEEN, THERE, FAINT\)"):
        join_labels_of(dataclasses.replace(truth, codes=["A", "B", "C"]), other)
    with pytest.raises(UsageError, match="features and there are of different models"):
        join_embeddings_of(here, dataclasses.replace(there, made_by="another"))
    unnamed = [dataclasses.replace(features, made_by="") for features in (here, there)]
    with pytest.raises(UsageError, match="nothing says that one model made features and there; import both with --mod"):
        join_embeddings_of(*unnamed)
    with pytest.raises(UsageError, match="20 and 19 dimensions"):
        join_embeddings_of(here, dataclasses.replace(there, x_ND=there.x_ND[:, 1:]))
