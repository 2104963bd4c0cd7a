"""Spikes, weights out of range, and a run that learns nothing any more."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lamae.base.rowfile import read_rows
from lamae.sharding.format import ShardSet
from lamae.train.monitor.health import SPIKE_MIN_HISTORY, Quarantine, SpikeDetector, unfit_weight
from lamae.train.ranks import distributed


def test_a_spike_is_far_above_the_recent_losses_in_their_own_spread() -> None:
    detector = SpikeDetector(threshold=8.0)
    noise = np.random.default_rng(0).normal(2.0, 0.1, size=200)
    assert not any(detector.spike(loss) for loss in noise)
    assert detector.spike(4.0) == pytest.approx(np.log(2.0) / 0.05, rel=0.3)
    assert not detector.spike(2.0 + 3 * 0.1)
    assert not detector.spike(0.5), "a fall is no spike"


@pytest.mark.parametrize("losses", ["long tail", "tiny spread", "falling"])
def test_what_training_is_like_is_no_spike(losses: str) -> None:
    detector = SpikeDetector(threshold=8.0)
    random = np.random.default_rng(0)
    series = {
        "long tail": np.exp(random.normal(0.0, 0.4, size=5000)),
        "tiny spread": 1 + 1e-4 * random.standard_t(df=2, size=5000),
        "falling": np.exp(-np.arange(2000) / 500) + 0.05 * random.random(2000),
    }[losses]
    assert not any(detector.spike(float(loss)) for loss in series)


def test_nothing_is_a_spike_before_there_is_anything_to_compare_with() -> None:
    detector = SpikeDetector(threshold=8.0)
    assert not any(detector.spike(10.0**step) for step in range(SPIKE_MIN_HISTORY))


def test_a_threshold_of_zero_never_warns() -> None:
    detector = SpikeDetector(threshold=0.0)
    losses = [*np.random.default_rng(0).normal(2.0, 0.1, size=100), 1e6]
    assert not any(detector.spike(loss) for loss in losses)


def test_a_loss_that_is_not_finite_does_not_blind_the_detector() -> None:
    detector = SpikeDetector(threshold=8.0)
    for loss in np.random.default_rng(0).normal(2.0, 0.1, size=100):
        detector.spike(float(loss))
        detector.spike(float("nan"))
    assert detector.spike(5.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e5])
def test_weights_out_of_range_are_named(value: float) -> None:
    model = nn.Linear(3, 2)
    assert not unfit_weight(model.named_parameters())
    with torch.no_grad():
        model.bias[1] = value
    assert unfit_weight(model.named_parameters()).startswith(f"parameter bias has an entry of size {value:g}; ")


def test_quarantine_names_records_at_fault_else_suspects_and_forgets_steps_taken_again(
    shards: Path, tmp_path: Path
) -> None:
    ranks = distributed.start(timeout_s=30, num_threads=1)
    shard_set = ShardSet.open(shards)
    rows, epochs = np.array([3, 9]), np.array([0, 1])
    quarantine = Quarantine(tmp_path, shard_set, ranks, resume_step=0)
    at_fault = quarantine.add(5, rows=rows, epochs=epochs, losses_B=torch.tensor([1.0, float("inf")]))
    suspects = quarantine.add(6, rows=rows, epochs=epochs, losses_B=torch.tensor([1.0, 2.0]))
    assert at_fault == [shard_set.keys[9]]
    assert suspects == [shard_set.keys[3], shard_set.keys[9]]
    told = read_rows(tmp_path / "quarantine.jsonl")
    assert [(row["step"], row["row"], row["epoch"], row["not_finite"]) for row in told] == [
        (5, 9, 1, "loss"),
        (6, 3, 0, "gradient"),
        (6, 9, 1, "gradient"),
    ]
    Quarantine(tmp_path, shard_set, ranks, resume_step=5)
    assert [row["step"] for row in read_rows(tmp_path / "quarantine.jsonl")] == [5]
