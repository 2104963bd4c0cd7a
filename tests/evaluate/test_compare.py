"""What a comparison keeps never stands in for something else, and records that show nothing count as average."""

import dataclasses

import numpy as np
import pytest

from lamae.base.progress import ignore
from lamae.evaluate import compare as comparing
from lamae.evaluate import pretrained, store
from lamae.evaluate.compare import compare
from lamae.evaluate.embeddings.embed import read_embeddings
from lamae.evaluate.labels.store import read_labels
from lamae.evaluate.probe.fit import probe_arrays
from lamae.model.config import MaskConfig
from lamae.sharding.format import SPLITS


def write_labels(path, shard_set, *, split):
    store.write(
        path,
        kind="labels",
        columns={
            "label": (np.arange(60)[:, None] % 2).astype(np.uint8),
            "labelled": np.ones(60, dtype=bool),
            "split": np.array([SPLITS.index(name) for name in split], dtype=np.uint8),
        },
        attributes={
            "index_sha256": shard_set.index_hash,
            "codes": ["FAST"],
            "descriptions": {},
            "protocol": "waves",
        },
    )
    return path


@pytest.fixture
def run(loaded, shard_set, tmp_path):
    """Compares the tiny model with random weights under some labels, keeping embeddings in some folder."""

    def run(labels, work, *, subset=(0, 1), masks=None):
        return compare(
            {"model": tmp_path / "run"},
            shard_set,
            labels,
            work,
            fractions=(1.0,),
            num_seeds=1,
            subsets={"few": subset},
            masks=masks or {},
            transductive=True,
        )

    return run


def test_missing_leads_and_many_records(run, shard_set, tmp_path, monkeypatch):
    monkeypatch.setattr(comparing, "MAX_RECONSTRUCTED", 12)
    labels = write_labels(tmp_path / "a.zarr", shard_set, split=["test"] * 20 + ["val"] * 10 + ["train"] * 30)
    result = run(labels, tmp_path / "work", subset=(8,), masks={"grid": MaskConfig()})
    assert len(result.reconstruction["grid"]["model"].subject_M) == 12, "of 20"

    # Record 3 has no V3: it is scored as the average training record.
    whole = read_embeddings(next((tmp_path / "work").glob(f"model-{16 * '?'}-{8 * '?'}.zarr")))
    whole.x_ND[3] = whole.x_ND[30:].mean(0)
    average = probe_arrays(whole, read_labels(labels), transductive=True)
    few = result.robustness["model"]["few"]
    np.testing.assert_allclose(few.probability_NC[3], average.probability_NC[3], atol=1e-6)
    assert not np.isclose(few.probability_NC[2], few.probability_NC[3])


def test_random_weights_of_a_run_that_reads_signals_otherwise_are_embedded_anew(
    loaded, shard_set, tmp_path, monkeypatch
):
    embedded = []
    for scaling in ("global", "lead_zscore"):
        signal = dataclasses.replace(loaded.config.signal, scaling=scaling)
        config = dataclasses.replace(loaded.config, signal=signal)
        of = dataclasses.replace(loaded, config=config)
        monkeypatch.setattr(pretrained, "load_model", lambda run, device="cpu", of=of: of)
        embedder = comparing._Embedder(shard_set, tmp_path / "work", "cpu", ignore)
        embedded.append(read_embeddings(embedder.path("random weights", tmp_path / "run", random_weights=True)).x_ND)
    assert not np.allclose(*embedded)


def test_other_labels_test_other_records_on_their_own_embeddings(run, shard_set, tmp_path):
    first = write_labels(tmp_path / "a.zarr", shard_set, split=["train"] * 30 + ["val"] * 10 + ["test"] * 20)
    second = write_labels(tmp_path / "b.zarr", shard_set, split=["test"] * 20 + ["val"] * 10 + ["train"] * 30)
    run(first, tmp_path / "shared")
    reused = run(second, tmp_path / "shared").robustness["model"]["few"]
    fresh = run(second, tmp_path / "fresh").robustness["model"]["few"]
    np.testing.assert_array_equal(reused.test_rows, np.arange(20))
    np.testing.assert_array_equal(reused.probability_NC, fresh.probability_NC)
    kept = {path.name: read_embeddings(path).embedded_N for path in (tmp_path / "shared").glob("model-*-I-II-*")}
    assert sorted(np.flatnonzero(embedded).min() for embedded in kept.values()) == [0, 40]
