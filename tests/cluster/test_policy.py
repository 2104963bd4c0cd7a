"""What follows an attempt, by what its nodes reported."""

import pytest

from lamae.base import errors
from lamae.cluster.policy import DONE, REQUEUE, STOP, decide
from lamae.cluster.submission import NodeReport, RankEnd

HOSTS = ("n1", "n2")


def reports(*codes: int | None, finished: bool = True, killed_by_us: int | None = None) -> list[NodeReport]:
    """One rank per node, ending a second apart in the order given."""
    return [
        NodeReport(i, HOSTS[i], [RankEnd(i, code, at=100.0 + i, killed_by_us=i == killed_by_us)], finished=finished)
        for i, code in enumerate(codes)
    ]


def outcome(
    reports,
    *,
    before=10,
    after=20,
    failures=0,
    max_restarts=3,
    backoff_s=30,
    keeps_work=False,
    is_cancelled=False,
    hosts=HOSTS,
):
    return decide(
        reports,
        hosts=hosts,
        got_on=before is not None and after > before,
        step=after,
        is_cancelled=is_cancelled,
        keeps_work=keeps_work,
        failures_before=failures,
        max_restarts=max_restarts,
        backoff_s=backoff_s,
    )


def test_all_ranks_ended_well_is_done():
    assert outcome(reports(0, 0)).action == DONE


def test_a_stop_after_saving_is_requeued_and_costs_nothing():
    decision = outcome(reports(75, 75), failures=3)
    assert (decision.action, decision.is_failure, decision.delay_s) == (REQUEUE, False, 0)


@pytest.mark.parametrize("codes", [(75, 75), (-9, 75), (75, None)])
def test_a_cancelled_job_is_never_put_back(codes):
    decision = outcome(reports(*codes), is_cancelled=True)
    assert (decision.action, decision.reason) == (STOP, "cancelled")
    assert outcome(reports(0, 0), is_cancelled=True).action == DONE  # it was quicker


@pytest.mark.parametrize("codes", [(-10, -15), (-12, 1), (75, -12), (-10, -6)])
def test_a_stop_before_ranks_can_listen_is_a_stop_whatever_it_does_to_the_others(codes):
    decision = outcome(reports(*codes), after=10)
    assert (decision.action, decision.failing_node) == (REQUEUE, None)
    assert "stopped on request" in decision.reason
    assert outcome(reports(-10, -9), after=10).failing_node == "n2"


def test_stops_that_never_get_further_are_bounded():
    assert outcome(reports(75, 75), after=10).is_failure
    assert outcome(reports(75, 75), after=10, failures=3).action == STOP


@pytest.mark.parametrize(("keeps_work", "words"), [(False, "nothing was saved"), (True, "is kept")])
def test_stops_of_a_job_without_checkpoints_are_bounded_and_say_what_is_lost(keeps_work, words):
    first = outcome(reports(75), before=None, after=None, keeps_work=keeps_work, hosts=HOSTS[:1])
    assert (first.action, first.is_failure, first.delay_s) == (REQUEUE, True, 30)
    assert words in first.reason
    last = outcome(reports(75), before=None, after=None, keeps_work=keeps_work, failures=3, hosts=HOSTS[:1])
    assert (last.action, last.exit_code) == (STOP, 1)


@pytest.mark.parametrize("codes", [(2, 0), (0, 2), (2, -9), (75, 2)])
def test_a_usage_error_on_any_rank_is_never_retried(codes):
    decision = outcome(reports(*codes))
    assert (decision.action, decision.exit_code) == (STOP, 2)


def test_a_killed_rank_names_its_node_although_the_other_failed_first():
    decision = outcome(reports(1, -9))
    assert (decision.action, decision.failing_node, decision.is_failure) == (REQUEUE, "n2", True)
    assert "SIGKILL" in decision.reason


def test_a_rank_we_killed_is_not_the_cause():
    assert outcome(reports(-9, -11, killed_by_us=0)).failing_node == "n2"


def test_an_abort_points_at_nobody():
    decision = outcome(reports(-6, -6), after=10)
    assert (decision.action, decision.failing_node) == (REQUEUE, None)


def test_a_node_without_a_last_report_is_the_cause():
    lost = [*reports(1, 0)[:1], NodeReport(1, "n2", [RankEnd(1, None)])]
    assert outcome(lost).failing_node == "n2"
    assert outcome(reports(1)).failing_node == "n2"


def test_an_exception_is_retried_only_if_the_run_got_further():
    assert outcome(reports(1, 1), after=20).action == REQUEUE
    stopped = outcome(reports(1, 1), after=10)
    assert (stopped.action, stopped.exit_code) == (STOP, 1)
    assert outcome(reports(1, 0), before=None, after=None).action == STOP  # no checkpoints to go by


def test_a_hang_is_retried_before_any_checkpoint_too_and_points_at_nobody():
    decision = outcome(reports(76, 1), after=10)  # the second lost its connection when the first had left
    assert (decision.action, decision.is_failure, decision.failing_node, decision.delay_s) == (REQUEUE, True, None, 30)
    assert "no step for too long" in decision.reason
    assert outcome(reports(76, 76), after=10, failures=3).action == STOP


def test_exit_codes_are_those_that_scripts_know():
    codes = (errors.EXIT_DONE, errors.EXIT_FAILED, errors.EXIT_USAGE, errors.EXIT_STOPPED, errors.EXIT_HUNG)
    assert codes == (0, 1, 2, 75, 76)


def test_failures_are_bounded_and_back_off():
    delays = [outcome(reports(0, -9), failures=n).delay_s for n in range(3)]
    assert delays == [30, 60, 120]
    assert outcome(reports(0, -9), failures=3).action == STOP
    assert outcome(reports(0, -9), failures=30, max_restarts=99).delay_s == 3600
