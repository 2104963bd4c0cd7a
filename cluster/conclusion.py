"""What follows an attempt whose ranks have ended: gather what is known, decide, and leave the decision on disk."""

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path

from lamae.base import files
from lamae.cluster.policy import Decision, decide
from lamae.cluster.submission import (
    CANCELLED_NAME,
    DECISION_NAME,
    RENDEZVOUS_NAME,
    Submission,
    last_published,
    list_attempts,
    read_reports,
)

log = logging.getLogger(__name__)


def conclude(folder: Path, submission: Submission, attempt: Path, *, hosts: Sequence[str]) -> Decision:
    """Decide what follows an attempt on ``hosts``, and leave the decision in its folder."""
    earlier = (files.try_read_json(path / DECISION_NAME) for path in _attempts_alike(folder, submission, attempt))
    failures = sum(bool(values and values["is_failure"]) for values in earlier)
    before = (files.try_read_json(attempt / RENDEZVOUS_NAME) or {}).get("published_before")
    published = last_published(submission.run_dir)
    decision = decide(
        read_reports(attempt),
        hosts=hosts,
        got_on=before is not None and published is not None and published > tuple(before),
        step=published[1] if published else None,
        is_cancelled=(folder / CANCELLED_NAME).exists(),
        keeps_work=submission.keeps_work,
        failures_before=failures,
        max_restarts=submission.profile.max_restarts,
        backoff_s=submission.profile.backoff_s,
    )
    record(decision, attempt)
    return decision


def record(decision: Decision, attempt: Path) -> None:
    """Leave the decision in the attempt's folder, in place of any before it."""
    files.write_json(attempt / DECISION_NAME, dataclasses.asdict(decision))
    log.info("%s: %s", decision.action, decision.reason)


def _attempts_alike(folder: Path, submission: Submission, attempt: Path) -> list[Path]:
    """The other attempts of the job, also under a number it had before; of an array, those of the same task."""
    others = [path for path in list_attempts(folder) if path != attempt]
    if not submission.array:
        return others
    return [path for path in others if path.name.rsplit("-", 1)[0] == attempt.name.rsplit("-", 1)[0]]
