"""Schedules and batch arithmetic are pure functions."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamae.base.errors import UsageError
from lamae.train.config import OptimConfig
from lamae.train.runconfig import from_dict
from lamae.train.schedule import learning_rate, plan_batch, weight_decay, without_decay

OPTIM = OptimConfig(lr=1e-3, final_lr=1e-5, warmup_steps=10, weight_decay=0.1)


def test_learning_rate_warms_up_peaks_and_ends_at_its_final_value() -> None:
    rates = [learning_rate(step, OPTIM, steps=100) for step in range(100)]
    assert rates[0] == pytest.approx(1e-3 / 11)
    assert rates[10] == pytest.approx(1e-3) == max(rates)
    assert rates[-1] == pytest.approx(1e-5) == min(rates[10:])
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_learning_rate_halfway_down_the_cosine_is_the_mean_of_both_ends() -> None:
    assert learning_rate(10 + 45, OPTIM, steps=101) == pytest.approx((1e-3 + 1e-5) / 2)


@given(steps=st.integers(1, 50), warmup=st.integers(0, 80))
def test_learning_rate_never_leaves_its_range(steps: int, warmup: int) -> None:
    optim = OptimConfig(lr=1.0, final_lr=0.0, warmup_steps=warmup)
    assert all(0 <= learning_rate(step, optim, steps=steps) <= 1 for step in range(steps))


def test_a_longer_run_with_decay_end_changes_no_step_before_it_and_stays_at_the_final_rate() -> None:
    longer = replace(OPTIM, decay_end=100)
    rates = [learning_rate(step, longer, steps=1000) for step in range(1000)]
    assert rates[:100] == [learning_rate(step, OPTIM, steps=100) for step in range(100)]
    assert set(rates[99:]) == {1e-5}


def test_the_final_rate_is_kept_from_decay_end_on_however_long_the_warm_up() -> None:
    rates = [learning_rate(step, replace(OPTIM, decay_end=5), steps=20) for step in range(20)]
    assert rates[:5] == pytest.approx([1e-3 * (step + 1) / 6 for step in range(5)])
    assert set(rates[5:]) == {1e-5}


@given(steps=st.integers(1, 30), warmup=st.integers(0, 40), decay_end=st.none() | st.integers(1, 30))
def test_a_schedule_that_never_decays_is_named(steps: int, warmup: int, decay_end: int | None) -> None:
    optim = replace(OPTIM, warmup_steps=warmup, decay_end=decay_end and min(decay_end, steps))
    end = optim.decay_end or steps
    decays = learning_rate(end - 1, optim, steps=steps) == pytest.approx(optim.final_lr)
    sentence = without_decay(optim, steps=steps)
    assert bool(sentence) != decays
    assert not sentence or f"optim.warmup_steps={warmup} leaves no step of " in sentence


def test_a_second_decay_starts_from_the_rate_there_or_another_and_ends_at_the_final_one() -> None:
    anew = replace(OPTIM, decay_end=100, restart_from=60)
    rates = [learning_rate(step, anew, steps=200) for step in range(200)]
    assert rates[:61] == pytest.approx([learning_rate(step, OPTIM, steps=100) for step in range(61)])
    assert rates[60:] == sorted(rates[60:], reverse=True)
    assert rates[-1] == pytest.approx(1e-5)
    assert learning_rate(60, replace(anew, restart_lr=5e-4), steps=200) == 5e-4


@pytest.mark.parametrize(
    ("optim", "named"),
    [
        ({"decay_end": 300}, "optim.decay_end=300 lies beyond train.steps=200"),
        ({"decay_end": 100, "restart_from": 200}, "optim.restart_from=200 must lie before the end"),
        ({"restart_from": 100}, "optim.restart_from=100 needs optim.decay_end"),
        ({"decay_end": 100, "restart_lr": 1e-4}, "optim.restart_lr=0.0001 needs optim.restart_from"),
        ({"decay_end": 100, "restart_from": 100, "restart_lr": 1e-9}, "optim.restart_lr=1e-09 must not be below"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(optim: dict, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        from_dict({"run": {"dir": "r"}, "data": {"path": "d"}, "train": {"steps": 200}, "optim": optim})


def test_weight_decay_is_constant_unless_a_final_value_is_given() -> None:
    assert {weight_decay(step, OPTIM, steps=50) for step in range(50)} == {0.1}
    moving = OptimConfig(weight_decay=0.04, final_weight_decay=0.4)
    assert weight_decay(0, moving, steps=50) == pytest.approx(0.04)
    assert weight_decay(49, moving, steps=50) == pytest.approx(0.4)


@given(st.integers(1, 6), st.integers(1, 40), st.integers(1, 50))
def test_plan_covers_the_global_batch_with_the_fewest_micro_batches(world: int, per_rank: int, limit: int) -> None:
    plan = plan_batch(world * per_rank, micro_batch_size=limit, world_size=world)
    assert plan.world_size * plan.accumulation * plan.micro == world * per_rank
    assert plan.micro <= limit
    fewer = [n for n in range(1, plan.accumulation) if per_rank % n == 0]
    assert all(per_rank // n > limit for n in fewer)


@pytest.mark.parametrize(("global_batch", "world"), [(10, 4), (2, 3)])
def test_a_batch_that_cannot_be_shared_out_is_refused_with_one_that_can(global_batch: int, world: int) -> None:
    with pytest.raises(UsageError, match=r"train.global_batch_size=\d+ cannot be shared out equally") as caught:
        plan_batch(global_batch, micro_batch_size=8, world_size=world)
    suggested = int(str(caught.value).rsplit("=", 1)[1])
    assert suggested % world == 0
