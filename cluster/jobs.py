"""``lamae jobs``: what became of submitted jobs, from their folders, squeue and, where there is one, accounting."""

import codecs
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lamae.base import files
from lamae.base.errors import LamaeError, UsageError
from lamae.base.rundirectory import RunDirectory
from lamae.cluster import policy, registry, slurm
from lamae.cluster.submission import (
    CANCELLED_NAME,
    DECISION_NAME,
    JOB_ID_NAME,
    LOGS_NAME,
    SUBMISSION_NAME,
    Submission,
    list_attempts,
)
from lamae.train import runconfig

LOG_TAIL_BYTES = 1 << 13

TIMES_GONE_IS_GONE = 3
"""Looks in a row, a second apart, after which a job that is nowhere to be found counts as gone."""

log = logging.getLogger(__name__)

RUNNING, PENDING = "running", "pending"
DONE, FAILED, CANCELLED, GONE = "done", "failed", "cancelled", "gone"


@dataclass(frozen=True)
class JobStatus:
    """One submitted job as of now."""

    folder: Path
    job_id: str
    verb: str
    state: str
    """``running``, ``pending``, ``done``, ``failed``, ``cancelled`` or ``gone`` (ended without a decision)."""

    detail: str
    """Why: the scheduler's reason or ours."""

    exit_code: int | None
    """Of an ended job."""

    nodes: str
    restarts: int
    step: int | None
    steps: int | None
    loss: float | None
    records_per_s: float | None
    eta_s: float | None
    last_line: str

    @property
    def ended(self) -> bool:
        return self.state in (DONE, FAILED, CANCELLED, GONE)


def find_jobs(run: Path | None) -> list[Path]:
    """Job folders of a run directory (or the job folder itself), or all that were submitted from here.

    Raises UsageError where ``run`` holds none.
    """
    if run is None:
        return [folder for folder in registry.folders() if _is_readable(folder)]
    if (run / SUBMISSION_NAME).is_file():
        return [run]
    if found := jobs_of_run(run) or jobs_in(run):
        return found
    raise UsageError(f"{run}: no job of 'lamae submit' in it")


def jobs_of_run(run: Path) -> list[Path]:
    """Job folders of a run, oldest first; a copied run directory does not have the jobs of the original."""

    def is_own(folder: Path) -> bool:
        of = Submission.read(folder).run_dir
        return of is None or not Path(of).is_dir() or Path(of).resolve() == run.resolve()

    return [folder for folder in jobs_in(RunDirectory(run).jobs) if is_own(folder)]


def _is_readable(folder: Path) -> bool:
    """Whether a folder once noted still holds a job that this version reads; says so where it does not."""
    try:
        Submission.read(folder)
    except UsageError as error:
        log.warning("%s", error)
        return False
    return True


def jobs_in(root: Path) -> list[Path]:
    """Job folders right below ``root``, oldest first."""
    return sorted(path.parent for path in root.glob(f"*/{SUBMISSION_NAME}"))


def read_statuses(folders: Sequence[Path]) -> list[JobStatus]:
    """The jobs of ``folders``; the scheduler is asked once for those that may still be there."""
    submissions = {folder: Submission.read(folder) for folder in folders}
    ids = {folder: _job_id(folder) for folder in folders}
    open_ids = [
        ids[folder]
        for folder, submission in submissions.items()
        if submission.profile.kind == "slurm" and ids[folder] and _final_decision(folder, submission) is None
    ]
    queued, ended = {}, {}
    if open_ids and slurm.available():
        queued = slurm.queue(open_ids)
        waiting = {name.split("_")[0] for name in queued}
        ended = slurm.last_states([job_id for job_id in open_ids if job_id not in waiting])
    return [_status(folder, submissions[folder], ids[folder], queued, ended) for folder in folders]


def cancel(status: JobStatus) -> None:
    """End a job for good; what it has saved stays."""
    try:
        (status.folder / CANCELLED_NAME).touch()
    except OSError as error:
        raise LamaeError(f"{status.folder}: {error.strerror}; whose job is it?") from None
    if Submission.read(status.folder).profile.kind == "slurm":
        slurm.cancel(status.job_id)
    elif local_alive(status.folder, status.job_id):
        os.kill(int(status.job_id), 15)


def state_of(
    *,
    queued: Sequence[slurm.QueueEntry],
    decision: dict[str, Any] | None,
    ended: str | None,
    alive: bool = False,
    cancelled: bool = False,
) -> tuple[str, str, int | None]:
    """State, detail and exit code of a job from what is known of it.

    queued: its entries in the queue; decision: the last one taken, if the last attempt has one; ended: Slurm's word for
    a job that has left the queue; alive: whether a local job's process is there; cancelled: whether we were asked to
    end it.
    """
    suspended = [entry for entry in queued if entry.state in ("SUSPENDED", "STOPPED")]
    running = [entry for entry in queued if entry.state in ("RUNNING", "COMPLETING")] or suspended
    if decision is not None and decision["action"] == policy.DONE:
        return DONE, "", 0
    if decision is not None and decision["action"] == policy.STOP:
        if cancelled:
            return CANCELLED, "", 1
        return FAILED, decision["reason"], decision["exit_code"]
    if running or alive:
        held = "suspended: it goes on when it is resumed" if running == suspended and running else ""
        return RUNNING, held or (decision["reason"] if decision else ""), None
    if queued:
        why = f"{decision['reason']}; " if decision else ""
        return PENDING, why + queued[0].reason, None
    if cancelled or ended == "CANCELLED":
        return CANCELLED, "", 1
    why = f"Slurm ended it ({ended.lower()})" if ended else "neither in the queue nor ended by itself"
    return GONE, f"{why}: see its log; the same command submitted again goes on from what was saved", 1


def _status(
    folder: Path,
    submission: Submission,
    job_id: str,
    queued: dict[str, slurm.QueueEntry],
    ended: dict[str, str],
) -> JobStatus:
    own = [entry for name, entry in queued.items() if name == job_id or name.startswith(f"{job_id}_")]
    attempts = list_attempts(folder)
    state, detail, exit_code = state_of(
        queued=own,
        decision=_final_decision(folder, submission) or (None if submission.array else _last_decision(attempts)),
        ended=ended.get(job_id),
        alive=submission.profile.kind == "local" and local_alive(folder, job_id),
        cancelled=(folder / CANCELLED_NAME).exists(),
    )
    step, steps, loss, rate, eta = _progress(submission)
    return JobStatus(
        folder=folder,
        job_id=job_id,
        verb=submission.verb,
        state=state,
        detail=detail,
        exit_code=exit_code,
        nodes=",".join(entry.nodes for entry in own if entry.nodes),
        restarts=_count_restarts(submission, attempts),
        step=step,
        steps=steps,
        loss=loss,
        records_per_s=rate,
        eta_s=eta if state == RUNNING else None,
        last_line=last_log_line(folder, job_id),
    )


def _job_id(folder: Path) -> str:
    try:
        return (folder / JOB_ID_NAME).read_text().strip()
    except OSError:
        return ""


def _count_restarts(submission: Submission, attempts: Sequence[Path]) -> int:
    """Of the job, or of the task of an array that was restarted most; Slurm does not count jobs submitted anew."""
    if submission.array:
        return max((int(path.name.rsplit("-", 1)[1]) for path in attempts), default=0)
    return max(0, len(attempts) - 1)


def _last_decision(attempts: Sequence[Path]) -> dict[str, Any] | None:
    return files.try_read_json(attempts[-1] / DECISION_NAME) if attempts else None


def _final_decision(folder: Path, submission: Submission) -> dict[str, Any] | None:
    """The decision that ended the job, of an array the worst one once every task has one; None while it goes on."""
    last_of_task: dict[str, dict[str, Any] | None] = {}
    for attempt in list_attempts(folder):
        last_of_task[attempt.name.rsplit("-", 1)[0]] = files.try_read_json(attempt / DECISION_NAME)
    decisions = [decision for decision in last_of_task.values() if decision and decision["action"] != policy.REQUEUE]
    if not decisions or len(decisions) < max(1, len(submission.array)):
        return None
    return max(decisions, key=lambda decision: decision["action"] == policy.STOP)


def _progress(
    submission: Submission,
) -> tuple[int | None, int | None, float | None, float | None, float | None]:
    """Step, steps of the run, loss, records per second and seconds left, as far as the run has recorded."""
    if submission.run_dir is None:
        return None, None, None, None, None
    run = RunDirectory(Path(submission.run_dir))
    row, published = run.last_metrics(with_key="loss"), run.newest_step()
    step = row.get("step", published if published != -1 else None)
    try:
        config = runconfig.load(run.config)
    except LamaeError:  # not started yet
        return step, None, row.get("loss"), row.get("records_per_s"), None
    rate, eta = row.get("records_per_s"), None
    if rate:
        eta = (config.train.steps - row["step"]) * config.train.global_batch_size / rate
    return step, config.train.steps, row.get("loss"), rate, eta


def log_path(folder: Path, job_id: str) -> Path:
    """The log of the job's first node, where rank 0 and the batch script write; of an array, that of its first task."""
    of_array = folder / LOGS_NAME / f"{job_id}_0_0_log.out"
    return of_array if of_array.exists() else folder / LOGS_NAME / f"{job_id}_0_log.out"


def last_log_line(folder: Path, job_id: str) -> str:
    lines = [line for line in _tail(log_path(folder, job_id), LOG_TAIL_BYTES) if line.strip()]
    return lines[-1].strip() if lines else ""


def _tail(path: Path, num_bytes: int) -> list[str]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - num_bytes))
            return file.read().decode(errors="replace").splitlines()
    except OSError:
        return []


def local_alive(folder: Path, job_id: str) -> bool:
    """Whether a local job's controller runs; its number may by now belong to another process, another job's even."""
    try:
        return bytes(folder / LOGS_NAME) in Path(f"/proc/{int(job_id)}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return False


def _status_if_known(folder: Path) -> JobStatus | None:
    """None while the scheduler cannot be asked: the controller may be restarting."""
    try:
        return read_statuses([folder])[0]
    except LamaeError as error:
        log.warning("%s", error)
        return None


def follow(
    folder: Path, *, write: Callable[[str], object], poll_s: float = 1.0, ask_scheduler_every_s: float = 15.0
) -> JobStatus:
    """Pass the log of the job's first node on to ``write`` as it grows, until the job has ended; how it ended."""
    log_file = _GrowingFile(log_path(folder, _job_id(folder)))
    next_question, times_gone = 0.0, 0
    submission = Submission.read(folder)
    while True:
        decided = _final_decision(folder, submission) is not None
        status = None
        if decided or times_gone or time.monotonic() >= next_question:
            next_question = time.monotonic() + ask_scheduler_every_s
            status = _status_if_known(folder)
        newest = log_path(folder, _job_id(folder))
        write(log_file.read_on())
        if newest != log_file.path:  # a job that was submitted anew goes on in a log of its own
            log_file = _GrowingFile(newest)
            write(log_file.read_on())
        if status is not None:
            # Once may be the instant between two states: a job that is being started, or put back in the queue.
            times_gone = times_gone + 1 if status.state == GONE else 0
            if status.ended and times_gone in (0, TIMES_GONE_IS_GONE):
                return status
        time.sleep(poll_s)


@dataclass
class _GrowingFile:
    """A file that another process writes to, read piece by piece."""

    path: Path
    position: int = 0
    decoder: codecs.IncrementalDecoder = field(default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace"))
    """Holds the beginning of a character that was not all there yet."""

    def read_on(self) -> str:
        """What has been added since the last call."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.position)
                text = file.read()
        except OSError:  # not there yet
            return ""
        self.position += len(text)
        return self.decoder.decode(text)
