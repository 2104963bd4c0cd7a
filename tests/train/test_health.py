"""Spikes, weights out of range, and a run that learns nothing any more."""

import numpy as np
import pytest
import torch
from torch import nn

from lamae.train.health import SPIKE_MIN_HISTORY, SpikeDetector, check_weights
from sharding.errors import LamaeError


def test_a_spike_is_far_above_the_recent_losses_in_their_own_spread() -> None:
    detector = SpikeDetector(threshold=8.0)
    noise = np.random.default_rng(0).normal(2.0, 0.1, size=200)
    assert not any(detector.is_spike(loss) for loss in noise)
    assert detector.is_spike(2.0 + 12 * 0.1)
    assert not detector.is_spike(2.0 + 3 * 0.1)
    assert not detector.is_spike(0.5), "a fall is no spike"


def test_nothing_is_a_spike_before_there_is_anything_to_compare_with() -> None:
    detector = SpikeDetector(threshold=8.0)
    assert not any(detector.is_spike(10.0**step) for step in range(SPIKE_MIN_HISTORY))


def test_a_threshold_of_zero_never_warns() -> None:
    detector = SpikeDetector(threshold=0.0)
    losses = [*np.random.default_rng(0).normal(2.0, 0.1, size=100), 1e6]
    assert not any(detector.is_spike(loss) for loss in losses)


def test_a_loss_that_is_not_finite_does_not_blind_the_detector() -> None:
    detector = SpikeDetector(threshold=8.0)
    for loss in np.random.default_rng(0).normal(2.0, 0.1, size=100):
        detector.is_spike(float(loss))
        detector.is_spike(float("nan"))
    assert detector.is_spike(5.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e5])
def test_weights_out_of_range_are_refused_by_name(value: float) -> None:
    model = nn.Linear(3, 2)
    check_weights(model)
    with torch.no_grad():
        model.bias[1] = value
    with pytest.raises(LamaeError, match=r"parameter bias starts with an entry of size"):
        check_weights(model)
