"""A small shard set and a tiny model "from a checkpoint", so that evaluation is tested without training."""

import numpy as np
import pytest
import torch

from lamae.base.leads import LIMB_FROM_I_II
from lamae.data.transforms import SignalTransform
from lamae.evaluate import pretrained
from lamae.model import build_model
from lamae.sharding.format import ShardSet
from lamae.train import runconfig
from lamae.train.checkpoint.format import LoadedModel
from lamae.train.checkpoint.subjects import describe_set, subject_set
from tests.shardsets import write_shard_set

NUM_RECORDS, NUM_SAMPLES, RATE_HZ = 60, 500, 100.0


def waves(num_records: int, num_samples: int, *, seed: int = 0) -> np.ndarray:
    """int16 [N, 12, T]: every lead a mixture of two slow oscillations; odd records oscillate twice as fast."""
    rng = np.random.default_rng(seed)
    times = np.arange(num_samples) / RATE_HZ
    adc = []
    for record in range(num_records):
        phase = rng.uniform(0, 2 * np.pi, size=2)
        rate = 1 + record % 2
        sources = np.stack([np.sin(2 * np.pi * rate * times + phase[0]), np.cos(2 * np.pi * rate * times + phase[1])])
        chest = np.column_stack([np.linspace(1, -1, 6), np.linspace(0.2, 1, 6)])
        adc.append(200 * np.concatenate([LIMB_FROM_I_II @ sources, chest @ sources]))
    return np.array(adc).round().astype(np.int16)


@pytest.fixture(scope="module")
def shard_set(tmp_path_factory):
    """60 records of 30 subjects: 15 subjects in train, 5 in val, 10 in test; one lead of record 3 is missing."""
    lead_mask = np.ones((NUM_RECORDS, 12), dtype=bool)
    lead_mask[3, 8] = False
    path = write_shard_set(
        tmp_path_factory.mktemp("evaluate") / "shards",
        waves(NUM_RECORDS, NUM_SAMPLES),
        subjects=[1000 + record // 2 for record in range(NUM_RECORDS)],
        splits=["train"] * 30 + ["val"] * 10 + ["test"] * 20,
        lead_mask=lead_mask,
        rate_hz=RATE_HZ,
    )
    return ShardSet.open(path)


def make_loaded(shard_set: ShardSet, *, kind: str = "lamae", trained_on: str = "train") -> LoadedModel:
    config = runconfig.from_dict(
        {
            "run": {"dir": "unused"},
            "data": {"path": str(shard_set.root)},
            "signal": {"rate_hz": int(RATE_HZ)},
            "model": {
                "kind": kind, "patch_size": 50, "width": 16, "heads": 2, "depth": 1, "latent_depth": 1,
                "decoder_width": 16, "decoder_heads": 2,
            },
        }
    )  # fmt: skip
    transform = SignalTransform(config.signal, source_rate_hz=RATE_HZ, num_samples=shard_set.num_samples)
    torch.manual_seed(1)
    model = build_model(config.model, config.mask, num_samples=transform.num_samples).eval()
    hashes = subject_set(shard_set, shard_set.rows_of_split(trained_on))
    return LoadedModel(
        model=model,
        config=config,
        path=shard_set.root,
        step=7,
        samples_consumed=700,
        num_samples=transform.num_samples,
        subject_hashes=hashes,
        subject_hash="subjects",
        sets=[describe_set(shard_set, shard_set.rows_of_split(trained_on), hashes, name="set")],
    )


@pytest.fixture
def loaded(shard_set, monkeypatch):
    """What every path is loaded as in this test."""
    loaded = make_loaded(shard_set)
    monkeypatch.setattr(pretrained, "load_model", lambda run, device="cpu": loaded)
    return loaded
