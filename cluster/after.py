"""What the batch script runs on the first node when all ranks of an attempt have ended: decide, and act on it.

It is reached only when the ranks ended by themselves: when Slurm ends a job (preemption, requeue, cancellation, the
loss of the first node) it ends the batch script too, and puts the job back in the queue itself where that is due.
"""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path

from lamae.base.errors import LamaeError
from lamae.base.files import write_text
from lamae.cluster import policy, slurm
from lamae.cluster.conclusion import conclude, record
from lamae.cluster.executor import send
from lamae.cluster.job import NodeJob
from lamae.cluster.node import find_node
from lamae.cluster.policy import Decision
from lamae.cluster.submission import JOB_ID_NAME, Submission, attempt_folder
from lamae.console import set_up_logging

PAUSES_S = (5, 10, 20, 40, 80, 160, 320)
"""Between attempts to reach a controller that does not answer."""

log = logging.getLogger(__name__)


def put_back(job_id: str, folder: Path, submission: Submission, decision: Decision) -> None:
    """Put the job back in the queue, later and without the failing node where the decision says so.

    Where this site forbids that it is submitted anew, to start when this one has left. Raises LamaeError where neither
    works.
    """
    fields = slurm.job_fields(job_id)
    if fields.get("JobState") == "CANCELLED":
        raise LamaeError("the job was cancelled")
    known = slurm.expand_nodes(fields.get("ExcNodeList", ""))
    excluded = {*known, *_node_to_avoid(decision, fields, known, wanted=submission.profile.exclude_failing_nodes)}
    changes = {}
    if len(excluded) > len(known):
        changes["ExcNodeList"] = ",".join(sorted(excluded))
    if decision.delay_s:
        changes["StartTime"] = f"now+{decision.delay_s}"
    if fields.get("Requeue") != "0" and _requeue(job_id, changes):
        return
    new_id = _submit_anew(job_id, folder, submission, excluded, decision.delay_s)
    log.info("this site does not requeue job %s: it goes on as job %s", job_id, new_id)


def _requeue(job_id: str, changes: Mapping[str, str]) -> bool:
    """Whether the job is back in the queue; with the changes where Slurm takes them."""
    try:
        slurm.requeue(job_id)
    except slurm.UnreachableError:
        raise
    except LamaeError as refused:
        log.warning("%s", refused)
        return slurm.job_fields(job_id).get("JobState") == "PENDING"  # Slurm was quicker
    if changes:
        try:
            slurm.update(job_id, changes)
        except LamaeError as refused:
            log.warning("%s", refused)
    return True


def _node_to_avoid(
    decision: Decision, fields: Mapping[str, str], excluded: Collection[str], *, wanted: bool
) -> list[str]:
    """The host that the failure points at, where the job's partition has enough usable nodes without it."""
    host = decision.failing_node
    if host is None or not wanted:
        return []
    if "Partition" not in fields or "NumNodes" not in fields:
        log.warning("%s is suspect but kept: scontrol does not say what the job needs", host)
        return []
    usable = slurm.usable_nodes(fields["Partition"]) - {host, *excluded}
    if len(usable) < int(fields["NumNodes"].split("-")[0]):
        log.warning("%s is suspect but kept: without it too few nodes are usable", host)
        return []
    log.info("restarting without %s", host)
    return [host]


def _submit_anew(job_id: str, folder: Path, submission: Submission, excluded: Collection[str], delay_s: int) -> str:
    """Submit the same folder as a job of its own, whose number takes the place of the old one."""
    if submission.array:
        raise LamaeError("this site does not requeue, and a task of an array cannot be submitted alone")
    timing: dict[str, object] = {"dependency": f"afterany:{job_id}"}
    if delay_s:
        timing["begin"] = f"now+{delay_s}"
    profile = replace(
        submission.profile,
        exclude=",".join(sorted(excluded)) or None,
        slurm={**submission.profile.slurm, **timing},
    )
    new_id = send(folder, profile, [NodeJob(str(folder))])
    write_text(folder / JOB_ID_NAME, f"{new_id}\n")
    return new_id


def _retry(action: Callable[[], None]) -> None:
    """Do it, patiently where the controller does not answer. Raises the last UnreachableError."""
    for pause_s in PAUSES_S:
        try:
            return action()
        except slurm.UnreachableError as error:
            log.warning("%s; again in %d s", error, pause_s)
            time.sleep(pause_s)
    return action()


def main() -> None:
    """``python -m lamae.cluster.after FOLDER``, in the batch script."""
    set_up_logging()
    # Requeueing the job ends everything in it, this process too; it has a few changes to make first.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    folder = Path(sys.argv[1])
    submission = Submission.read(folder)
    node = find_node(os.environ)
    attempt = attempt_folder(folder, job_id=node.job_id, restart=node.restart)
    try:
        hosts = slurm.expand_nodes(os.environ["SLURM_JOB_NODELIST"])
        decision = conclude(folder, submission, attempt, hosts=hosts)
        if decision.action == policy.REQUEUE:
            try:
                _retry(lambda: put_back(os.environ["SLURM_JOB_ID"], folder, submission, decision))
            except LamaeError as error:
                reason = f"{decision.reason}, but the job cannot be put back: {error}; submit the same command again"
                decision = replace(decision, action=policy.STOP, reason=reason, exit_code=decision.exit_code or 1)
                record(decision, attempt)
    except LamaeError as error:
        log.error("%s", error)
        sys.exit(1)
    sys.exit(decision.exit_code)


if __name__ == "__main__":
    main()
