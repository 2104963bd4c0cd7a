"""The few questions and commands we put to Slurm. Accounting (sacct) may be absent; nothing here needs it."""

import re
import shutil
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from lamae.base.errors import LamaeError

COMMAND_TIMEOUT_S = 60
USABLE_STATES = ("idle", "mixed", "allocated", "completing", "planned")


class UnreachableError(LamaeError):
    """The controller does not answer: it may be restarting."""


@dataclass(frozen=True)
class QueueEntry:
    """A job that the scheduler still knows as waiting or running."""

    state: str
    reason: str
    nodes: str


def available() -> bool:
    return shutil.which("sbatch") is not None


def job_fields(job_id: str) -> dict[str, str]:
    """``scontrol show job`` as a mapping; empty where the controller no longer knows the job."""
    done = _run("scontrol", "--oneliner", "show", "job", job_id)
    return dict(re.findall(r"(\S+?)=(\S*)", done.stdout)) if done.returncode == 0 else {}


def queue(job_ids: Collection[str]) -> dict[str, QueueEntry]:
    """Jobs of ``job_ids`` that wait or run, by id; array tasks as ``JOB_TASK``.

    Raises LamaeError where the controller cannot be asked: no answer is not "no job".
    """
    entries = {}
    for job_id in job_ids:  # one by one: squeue refuses a list in which one id has been forgotten
        done = _run("squeue", "--noheader", "--array", f"--jobs={job_id}", "--format=%i|%T|%r|%N")
        if done.returncode != 0 and "Invalid job id" not in done.stderr:
            raise LamaeError(f"squeue: {done.stderr.strip() or f'exit code {done.returncode}'}; try again later")
        for line in done.stdout.splitlines():
            found, state, reason, nodes = line.split("|")
            entries[found] = QueueEntry(state, reason, nodes)
    return entries


def accounted_states(job_ids: Collection[str]) -> dict[str, str]:
    """Last states known to accounting, by job id; empty on clusters without it."""
    if not job_ids or shutil.which("sacct") is None:
        return {}
    command = ["sacct", "--noheader", "--parsable2", "--allocations", "--format=JobID,State"]
    done = _run(*command, f"--jobs={','.join(job_ids)}")
    if done.returncode != 0:
        return {}
    pairs = (line.split("|") for line in done.stdout.splitlines() if line.count("|") == 1)
    return {job_id: state.split()[0] for job_id, state in pairs if state}


def last_states(job_ids: Collection[str]) -> dict[str, str]:
    """What became of jobs that have left the queue: from accounting, else while the controller remembers them."""
    states = {name.split("_")[0]: state for name, state in accounted_states(job_ids).items()}
    for job_id in job_ids:
        if job_id not in states and (state := job_fields(job_id).get("JobState")):
            states[job_id] = state
    return states


def max_array_size() -> int | None:
    """How many tasks an array may have (their numbers stay below MaxArraySize); None where scontrol does not say."""
    try:
        found = re.search(r"^MaxArraySize\s*=\s*(\d+)", _run("scontrol", "show", "config").stdout, re.MULTILINE)
    except LamaeError:
        return None
    return int(found[1]) if found else None


def requeue(job_id: str) -> None:
    """Put a running job back in the queue. Its processes, the caller among them, get SIGTERM."""
    _checked("scontrol", "requeue", job_id)


def update(job_id: str, fields: Mapping[str, str]) -> None:
    _checked("scontrol", "update", f"JobId={job_id}", *(f"{name}={value}" for name, value in fields.items()))


def cancel(job_id: str) -> None:
    _checked("scancel", job_id)


def usable_nodes(partition: str) -> set[str]:
    """Nodes of a partition that run jobs or could."""
    done = _run("sinfo", "--noheader", "--Node", f"--partition={partition}", "--format=%N|%T")
    pairs = (line.split("|") for line in done.stdout.splitlines() if "|" in line)
    return {node for node, state in pairs if state.strip() in USABLE_STATES}


def expand_nodes(expression: str) -> list[str]:
    """``n[1-3],m7`` as a list of names; empty for Slurm's ways of saying none."""
    if expression in ("", "(null)", "None"):
        return []
    return _checked("scontrol", "show", "hostnames", expression).split()


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S)
    except FileNotFoundError:
        raise LamaeError(f"{command[0]} not found: this machine knows no Slurm; submit from a login node") from None
    except subprocess.TimeoutExpired:
        raise UnreachableError(
            f"{command[0]} did not answer within {COMMAND_TIMEOUT_S} s; the controller may be down"
        ) from None
    if done.returncode != 0 and "Unable to contact slurm controller" in done.stderr:
        raise UnreachableError(f"{command[0]}: {done.stderr.strip()}; try again later")
    return done


def _checked(*command: str) -> str:
    done = _run(*command)
    if done.returncode != 0:
        raise LamaeError(f"{' '.join(command)}: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return done.stdout
