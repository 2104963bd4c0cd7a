"""Utilisation is reported where it is known, stragglers are named."""

import logging
import time

import pytest
import torch

from lamae.train.rates import Rates, Stopwatch, peak_tflops
from tests.runs import tiny_config


@pytest.mark.parametrize(
    ("device", "precision", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989.0),
        ("NVIDIA A100-SXM4-40GB", "bf16", 312.0),
        ("NVIDIA A100-SXM4-40GB", "fp32", None),
        ("A device of tomorrow", "bf16", None),
    ],
)
def test_peaks_of_unknown_devices_are_not_guessed(device: str, precision: str, peak: float | None) -> None:
    assert peak_tflops(device, precision) == peak


class FourRanks:
    """Rank 0 of four; the others report what they are told to."""

    world_size, is_main, device = 4, True, torch.device("cpu")

    def __init__(self, others: list[tuple[float, float]]) -> None:
        self._others = others

    def gather(self, value: tuple[float, float]) -> list[tuple[float, float]]:
        return [value, *self._others]


def make_rates(others: list[tuple[float, float]], *overrides: str) -> Rates:
    config = tiny_config("set", "run", *overrides)  # type: ignore[arg-type]
    return Rates(config, num_samples=500, ranks=FourRanks(others))  # type: ignore[arg-type]


def test_a_rank_that_holds_the_others_up_is_named(caplog: pytest.LogCaptureFixture) -> None:
    rates = make_rates([(0.1, 0.0), (0.1, 0.2), (0.5, 0.0)])
    rates.forward._seconds = 0.1
    with caplog.at_level(logging.WARNING):
        values = rates.read(1, data_wait_s=0.0, step=7)
    assert "step 7: ranks hold the others up, forward in ms per step (median 100): 3: 500" in caplog.text
    assert "data wait in ms per step (median 0): 2: 200" in caplog.text
    assert values["ranks/slowest_forward_s"] == 0.5
    assert "mfu" not in values


def test_even_ranks_are_left_in_peace(caplog: pytest.LogCaptureFixture) -> None:
    rates = make_rates([(0.11, 0.0), (0.09, 0.001), (0.1, 0.0)])
    rates.forward._seconds = 0.1
    rates.read(1, data_wait_s=0.0, step=1)
    assert caplog.text == ""


def test_utilisation_is_arithmetic_over_peak() -> None:
    rates = make_rates([(0.0, 0.0)] * 3, "monitor.peak_tflops=0.5")
    values = rates.read(10, data_wait_s=0.0, step=10)
    assert values["mfu"] == pytest.approx(values["tflops_per_device"] / 0.5)
    assert values["tflops_per_device"] > 0
    assert values["patches_per_s"] == pytest.approx(values["records_per_s"] * 12 * 10)


def test_a_stopwatch_adds_up_and_starts_anew() -> None:
    watch = Stopwatch(torch.device("cpu"))
    for _ in range(2):
        with watch.running():
            time.sleep(0.02)
    assert 0.04 <= watch.read_s() < 1.0
    assert watch.read_s() == 0.0
