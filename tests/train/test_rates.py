"""Utilisation is reported where it is known, stragglers are named."""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lamae.base.rowfile import read_rows
from lamae.train.clock import StepClock, StepTimes
from lamae.train.monitor.rates import Rates, peak_tflops
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
    """Rank 0 of four; the others are like it but for what they are told to spend on a forward pass or on waiting."""

    rank, world_size, is_main, device = 0, 4, True, torch.device("cpu")

    def __init__(self, forward_s: list[float], wait_s: list[float]) -> None:
        self._forward_s, self._wait_s = forward_s, wait_s

    def gather(self, value: tuple[float, StepTimes]) -> list[tuple[float, StepTimes]]:
        _, times = value
        return [
            (wait_s, replace(times, phase_s={**times.phase_s, "forward": forward_s}))
            for forward_s, wait_s in zip(self._forward_s, self._wait_s, strict=True)
        ]


@pytest.fixture
def read_rates(tmp_path: Path) -> Callable[..., list[dict[str, float]]]:
    """Rates of some intervals of one step of four ranks."""

    def read(
        forward_s: list[float], wait_s: list[float], *overrides: str, intervals: int = 1
    ) -> list[dict[str, float]]:
        clock = StepClock(torch.device("cpu"))
        rates = Rates(
            tiny_config("set", "run", *overrides),  # type: ignore[arg-type]
            num_samples=500,
            ranks=FourRanks(forward_s, wait_s),  # type: ignore[arg-type]
            clock=clock,
            run_dir=tmp_path,
            resume_step=0,
        )
        told = []
        for step, _ in enumerate(clock.steps(range(intervals), is_asked_for=lambda: True), start=1):
            with clock.phase("communication"):
                time.sleep(0.005)
            clock.end_step()
            told.append(rates.read(1, data_wait_s=0.0, step=step))
            rates.begin()
        return told

    return read


EVEN = [0.1, 0.11, 0.09, 0.1]


def test_a_rank_that_stays_slow_is_named_once_and_every_time_in_the_file(
    read_rates: Callable[..., list[dict[str, float]]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        values = read_rates([0.1, 0.1, 0.1, 0.5], [0.0, 0.0, 0.2, 0.0], intervals=6)
    assert [line.split(";")[0] for line in caplog.messages] == [
        "step 3: ranks hold the others up, forward in ms per step (median 100): 3: 500",
        "step 3: ranks hold the others up, data wait in ms per step (median 0): 2: 200",
    ]
    rows = read_rows(tmp_path / "stragglers.jsonl")
    assert [(row["step"], row["what"]) for row in rows] == [
        (s, w) for s in range(1, 7) for w in ("forward", "data wait")
    ]
    assert rows[0]["slow_ms"] == {"3": 500.0}
    assert values[0]["ranks/slowest_forward_s"] == 0.5
    assert "mfu" not in values[0]


def test_even_ranks_and_a_moment_of_weakness_are_left_in_peace(
    read_rates: Callable[..., list[dict[str, float]]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    read_rates(EVEN, [0.0, 0.001, 0.0, 0.0], intervals=5)
    assert not (tmp_path / "stragglers.jsonl").exists()
    read_rates([0.1, 0.1, 0.1, 0.5], [0.0] * 4, intervals=2)
    assert caplog.text == ""


def test_the_share_of_communication_is_told(read_rates: Callable[..., list[dict[str, float]]]) -> None:
    (values,) = read_rates(EVEN, [0.0] * 4)
    assert values["time/communication_s"] >= 0.005
    assert 0.5 < values["communication_share"] <= 1


def test_utilisation_is_arithmetic_over_peak(read_rates: Callable[..., list[dict[str, float]]]) -> None:
    (values,) = read_rates(EVEN, [0.0] * 4, "monitor.peak_tflops=0.5")
    assert values["mfu"] == pytest.approx(values["tflops_per_device"] / 0.5)
    assert values["tflops_per_device"] > 0
    assert values["patches_per_s"] == pytest.approx(values["records_per_s"] * 12 * 10)
