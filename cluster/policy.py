"""What to do when the ranks of an attempt have ended: a pure function of what the nodes reported."""

import signal
from collections.abc import Sequence
from dataclasses import dataclass

from lamae.base.errors import EXIT_HUNG, EXIT_STOPPED, EXIT_USAGE
from lamae.base.signals import STOP_SIGNALS
from lamae.cluster.submission import NodeReport, RankEnd

DONE, REQUEUE, STOP = "done", "requeue", "stop"

LONGEST_BACKOFF_S = 3600

# How a rank ends by itself when a peer has vanished: that does not mean that its own node failed.
_SELF_INFLICTED = (-signal.SIGABRT,)
_STOPPED_UNHEARD = tuple(-number for number in STOP_SIGNALS)


@dataclass(frozen=True)
class Decision:
    """What became of an attempt."""

    action: str
    """``done``, ``requeue`` or ``stop``."""

    reason: str
    """For people: what ended the attempt, and why it is (not) tried again."""

    exit_code: int = 0
    """Exit code of the job when it is not requeued."""

    failing_node: str | None = None
    """Host at which the failure points."""

    is_failure: bool = False
    """Counts against ``max_restarts``."""

    delay_s: int = 0
    """How long to wait before the restart."""

    step: int | None = None
    """Step of the checkpoint published last, None where the job is no training run."""


def decide(
    reports: Sequence[NodeReport],
    *,
    hosts: Sequence[str],
    got_on: bool,
    step: int | None,
    is_cancelled: bool = False,
    keeps_work: bool = False,
    failures_before: int,
    max_restarts: int,
    backoff_s: int,
) -> Decision:
    """What to do after an attempt on ``hosts``, of which every node that could has reported.

    got_on: the attempt has published a checkpoint.
    step: of the last published one, None for jobs other than training.
    is_cancelled: somebody wants the job to end for good.
    keeps_work: a job other than training that goes on from what an ended attempt has written.
    failures_before: earlier attempts of this job that counted as failures.
    """
    ends = [(report.host, end) for report in reports for end in report.ranks]
    own = [(host, end) for host, end in ends if not end.killed_by_us]
    lost = sorted(set(hosts) - {report.host for report in reports if report.finished})

    usage = [host for host, end in own if end.code == EXIT_USAGE]
    if usage:
        reason = f"exit code 2 on {usage[0]}: the command or configuration can never work as written; see the log"
        return Decision(STOP, reason, EXIT_USAGE, step=step)
    bad = [(host, end) for host, end in own if end.code not in (0, EXIT_STOPPED, *_STOPPED_UNHEARD)]
    if any(end.code in _STOPPED_UNHEARD for _, end in own):  # the others may have failed because it left
        bad = [(host, end) for host, end in bad if (end.code or 0) < 0 and end.code not in _SELF_INFLICTED]
    if not bad and not lost and all(end.code == 0 for _, end in own):
        return Decision(DONE, "all ranks ended well", step=step)
    if is_cancelled:
        return Decision(STOP, "cancelled", 1, step=step)
    if not bad and not lost:
        if got_on:
            return Decision(REQUEUE, "stopped on request after saving", step=step)
        what = _describe_fruitless_stop(is_training=step is not None, keeps_work=keeps_work)
        return _restart(what, None, step, failures_before, max_restarts, backoff_s)

    failing_node, what = _cause(bad, lost)
    if not lost and not got_on and all((end.code or 0) > 0 and end.code != EXIT_HUNG for _, end in bad):
        reason = f"{what} without getting past the step it started from: an error of the code or data; see the log"
        return Decision(STOP, reason, bad[0][1].code or 1, is_failure=True, step=step)
    return _restart(what, failing_node, step, failures_before, max_restarts, backoff_s)


def _cause(bad: list[tuple[str, RankEnd]], lost: list[str]) -> tuple[str | None, str]:
    """The host a failure points at, if it points at one, and what happened."""
    if lost:
        return (lost[0] if len(lost) == 1 else None), f"no report from {', '.join(lost)}"
    killed = [(end.at, host, end) for host, end in bad if (end.code or 0) < 0 and end.code not in _SELF_INFLICTED]
    if killed:
        _, host, end = min(killed, key=lambda entry: entry[0])
        return host, f"rank {end.rank} on {host} was killed by {signal.Signals(-(end.code or 0)).name}"
    host, end = min(bad, key=lambda entry: entry[1].at)
    if end.code == EXIT_HUNG:
        return None, f"rank {end.rank} on {host} saw no step for too long and ended itself (exit code {EXIT_HUNG})"
    return None, f"rank {end.rank} on {host} ended with exit code {end.code}"


def _describe_fruitless_stop(*, is_training: bool, keeps_work: bool) -> str:
    if is_training:
        return "stopped on request without getting past the step it started from"
    if keeps_work:
        return "stopped on request before it was done; what it has written is kept"
    return "stopped on request before it was done; nothing was saved, it begins anew: give it a longer time_min"


def _restart(
    what: str, failing_node: str | None, step: int | None, failures_before: int, max_restarts: int, backoff_s: int
) -> Decision:
    if failures_before >= max_restarts:
        reason = f"{what}; restarted {failures_before} times already (max_restarts={max_restarts})"
        return Decision(STOP, reason, 1, failing_node, is_failure=True, step=step)
    delay_s = min(LONGEST_BACKOFF_S, backoff_s * 2**failures_before)
    reason = f"{what}; restart {failures_before + 1} of at most {max_restarts}"
    return Decision(REQUEUE, reason, 1, failing_node, is_failure=True, delay_s=delay_s, step=step)
