"""Phases of a step are disjoint, sum to the step, and are timed inside steps alone."""

import time

import pytest
import torch

from lamae.train.clock import PHASES, StepClock, TimedBackend

CPU = torch.device("cpu")
NAP_S = 0.02


class Sleepy:
    """A back end whose collectives take a nap; one of them is waited for later."""

    name = "sleepy"

    def all_reduce(self, tensor: torch.Tensor) -> None:
        time.sleep(NAP_S)

    def all_gather(self, tensor: torch.Tensor) -> "Sleepy":
        return self

    def wait(self) -> bool:
        time.sleep(NAP_S)
        return True


def test_phases_are_disjoint_and_sum_to_the_step() -> None:
    clock = StepClock(CPU)
    backend = TimedBackend(Sleepy(), clock)
    before = clock.read()
    for _ in clock.steps(range(2), is_asked_for=lambda: True):
        with clock.phase("backward"):
            time.sleep(NAP_S)
            backend.all_reduce(torch.zeros(1))
            assert backend.all_gather(torch.zeros(1)).wait()
        time.sleep(NAP_S)
        clock.end_step()
        time.sleep(5 * NAP_S)  # between steps: nobody's
    times = clock.read().since(before)
    assert times is not None
    assert times.phase_s["communication"] == pytest.approx(2 * NAP_S, rel=0.5)
    assert times.phase_s["backward"] == pytest.approx(NAP_S, rel=0.5)
    assert times.phase_s["other"] == pytest.approx(NAP_S, rel=0.5)
    assert sum(times.phase_s.values()) == pytest.approx(times.step_s)
    assert times.step_s < 6 * NAP_S
    assert backend.name == "sleepy"


def test_waiting_for_a_batch_belongs_to_the_step() -> None:
    def slow_batches() -> "list[int]":
        for number in range(2):
            time.sleep(NAP_S)
            yield number

    clock = StepClock(CPU)
    before = clock.read()
    assert [batch for batch in clock.steps(slow_batches(), is_asked_for=lambda: True) if clock.end_step() is None] == [
        0,
        1,
    ]
    times = clock.read().since(before)
    assert times is not None
    assert times.phase_s["data_wait"] == pytest.approx(NAP_S, rel=0.5)


def test_outside_of_steps_nothing_is_timed() -> None:
    clock = StepClock(CPU)
    before = clock.read()
    with clock.phase("forward"):
        time.sleep(0.001)
    assert clock.read().since(before) is None
    assert set(clock.read().seconds) == {"step", *PHASES}
