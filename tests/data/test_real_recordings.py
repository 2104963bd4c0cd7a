"""Real recordings from their WFDB files to the model's signal, against wfdb, webdataset and scipy."""

import numpy as np
import pytest
import webdataset
import wfdb
from scipy.signal import resample_poly

from lamae.base.leads import canonical_columns
from lamae.data.config import DataConfig, SignalConfig
from lamae.data.loader import RingLoader
from lamae.data.transforms import SignalTransform
from lamae.sharding.format import ShardSet
from lamae.sharding.lowpass import low_pass
from lamae.sharding.pack import PackOptions, pack

NUM_RECORDS = 12


@pytest.fixture(scope="module")
def shard_set(real_data, tmp_path_factory) -> ShardSet:
    out = tmp_path_factory.mktemp("ptbxl") / "set"
    pack(real_data / "ptbxl_500hz_first500", out, options=PackOptions(limit=NUM_RECORDS, shard_size=5))
    return ShardSet.open(out)


@pytest.fixture(scope="module")
def recordings(real_data, shard_set) -> dict[str, wfdb.Record]:
    paths = {path.stem: path.with_suffix("") for path in (real_data / "ptbxl_500hz_first500").rglob("*.hea")}
    return {key: wfdb.rdrecord(str(paths[key]), physical=False) for key in shard_set.keys}


@pytest.fixture(scope="module")
def batches(shard_set):
    arguments = {"seed": 0, "global_batch_size": 4, "rank": 0, "world_size": 1, "num_batches": 3}
    rows = np.arange(shard_set.num_records)
    with RingLoader(shard_set, rows, config=DataConfig(path=""), **arguments) as loader:
        transform = SignalTransform(SignalConfig(rate_hz=100), source_rate_hz=500, num_samples=5000)
        return [
            (batch.row.tolist(), batch.adc.numpy().copy(), transform(batch, seed=0, train=True)) for batch in loader
        ]


def test_batches_hold_what_wfdb_reads(batches, recordings, shard_set):
    seen = set()
    for rows, adc, _ in batches:
        for row, samples in zip(rows, adc, strict=True):
            record = recordings[shard_set.keys[row]]
            np.testing.assert_array_equal(samples, record.d_signal[:, canonical_columns(record.sig_name)].T)
            seen.add(row)
    assert len(seen) == shard_set.num_records


def test_webdataset_reads_the_same_from_the_tars(batches, shard_set):
    urls = sorted(str(path) for path in (shard_set.root / "shards").glob("*.tar"))
    samples = {item["__key__"]: item["npy"] for item in webdataset.WebDataset(urls, shardshuffle=False).decode()}
    assert sorted(samples) == shard_set.keys
    for rows, adc, _ in batches:
        for row, ours in zip(rows, adc, strict=True):
            np.testing.assert_array_equal(ours, samples[shard_set.keys[row]])


def test_signal_is_the_resampled_millivolt_of_wfdb(batches, recordings, shard_set):
    config = SignalConfig()
    for rows, _, signal in batches:
        for row, x_LT, valid_LT in zip(rows, signal.x_BLT.numpy(), signal.valid_BLT.numpy(), strict=True):
            record = recordings[shard_set.keys[row]]
            mv = record.dac()[:, canonical_columns(record.sig_name)].T
            expected = resample_poly(mv, 1, 5, axis=-1, padtype="edge", window=low_pass(1, 5)).clip(
                -config.clip_mv, config.clip_mv
            )
            np.testing.assert_allclose(x_LT, expected / config.scale_mv, atol=1e-3)
            assert valid_LT.all()
