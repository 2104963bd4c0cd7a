"""What the batch script runs on the first node when all ranks of an attempt have ended: decide, and act on it.

It is reached only when the ranks ended of themselves: when Slurm ends a job (preemption, requeue, cancellation, the
loss of the first node) it ends the batch script too, and puts the job back in the queue itself where that is due.
"""

import dataclasses
import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster import policy, slurm
from cluster.place import find_node
from cluster.policy import Decision, decide
from cluster.submission import (
    DECISION_NAME,
    RENDEZVOUS_NAME,
    Submission,
    attempt_folder,
    list_attempts,
    newest_step,
    read_json,
    read_reports,
    write_json,
)
from lamae.console import set_up_logging
from sharding.errors import LamaeError

log = logging.getLogger(__name__)


def conclude(folder: Path, submission: Submission, attempt: Path, *, hosts: Sequence[str]) -> Decision:
    """Decide what follows an attempt, and leave the decision in its folder."""
    earlier = (read_json(path / DECISION_NAME) for path in attempts_of_job(folder, attempt) if path != attempt)
    failures = sum(bool(values and values["is_failure"]) for values in earlier)
    start = read_json(attempt / RENDEZVOUS_NAME) or {}
    decision = decide(
        read_reports(attempt),
        hosts=hosts,
        step_before=start.get("step_before"),
        step_after=newest_step(submission.run_dir),
        keeps_work=submission.keeps_work,
        failures_before=failures,
        max_restarts=submission.max_restarts,
        backoff_s=submission.backoff_s,
    )
    write_json(attempt / DECISION_NAME, dataclasses.asdict(decision))
    log.info("%s: %s", decision.action, decision.reason)
    return decision


def attempts_of_job(folder: Path, attempt: Path) -> list[Path]:
    """The attempts of the same job (the same task of an array), oldest first."""
    job_id = attempt.name.rsplit("-", 1)[0]
    return [path for path in list_attempts(folder) if path.name.rsplit("-", 1)[0] == job_id]


def requeue(job_id: str, decision: Decision, *, exclude_culprit: bool) -> None:
    """Put the job back in the queue, later and without the culprit's node where the decision says so."""
    fields = slurm.job_fields(job_id)
    changes = {}
    if decision.culprit and exclude_culprit:
        excluded = slurm.expand_nodes(fields.get("ExcNodeList", ""))
        if "Partition" not in fields or "NumNodes" not in fields:
            log.warning("%s is suspect but kept: scontrol does not say what the job needs", decision.culprit)
        elif _is_dispensable(decision.culprit, fields, excluded):
            changes["ExcNodeList"] = ",".join(sorted({*excluded, decision.culprit}))
            log.info("restarting without %s", decision.culprit)
        else:
            log.warning("%s is suspect but kept: without it too few nodes are usable", decision.culprit)
    if decision.delay_s:
        changes["StartTime"] = f"now+{decision.delay_s}"
    slurm.requeue(job_id)
    if changes:
        slurm.update(job_id, changes)


def _is_dispensable(host: str, fields: Mapping[str, str], excluded: Sequence[str]) -> bool:
    """Whether the job's partition has enough usable nodes without ``host`` and those excluded already."""
    usable = slurm.usable_nodes(fields["Partition"]) - {host, *excluded}
    return len(usable) >= int(fields["NumNodes"].split("-")[0])


def main() -> None:
    """``python -m cluster.after FOLDER``, in the batch script."""
    set_up_logging()
    # Requeueing the job tells everything in it to end, this process too; it has a few changes to make first.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    folder = Path(sys.argv[1])
    submission = Submission.read(folder)
    place = find_node(os.environ)
    attempt = attempt_folder(folder, job_id=place.job_id, restart=place.restart)
    try:
        hosts = slurm.expand_nodes(os.environ["SLURM_JOB_NODELIST"])
        decision = conclude(folder, submission, attempt, hosts=hosts)
        if decision.action == policy.REQUEUE:
            requeue(os.environ["SLURM_JOB_ID"], decision, exclude_culprit=submission.exclude_culprits)
    except LamaeError as error:
        log.error("%s", error)
        sys.exit(1)
    sys.exit(decision.exit_code)


if __name__ == "__main__":
    main()
