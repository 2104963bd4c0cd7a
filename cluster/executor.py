"""From a profile to submitit: what the scheduler is asked for, and the batch script it gets."""

import io
import os
import re
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError
from submitit.slurm.slurm import _make_sbatch_string  # the text of a batch script on a machine without Slurm

from lamae.base.errors import LamaeError
from lamae.base.rundirectory import RunDirectory
from lamae.cluster.job import NodeJob
from lamae.cluster.profile import Profile
from lamae.cluster.submission import CODE_NAME, LOGS_NAME


def executor_parameters(folder: Path, profile: Profile) -> dict[str, Any]:
    """The parameters of submitit's AutoExecutor: one task per node, which starts the node's ranks.

    folder: the job's; named after the run where it is inside one.
    """
    python = profile.python or shlex.quote(sys.executable)
    environment = job_environment(folder, profile)
    # One task per node is said here and not to sbatch: a range of nodes with a number of tasks gets the fewest nodes.
    srun = ["--ntasks-per-node=1", "--kill-on-bad-exit=1"]
    if profile.cpus_per_node:
        srun.append(f"--cpus-per-task={profile.cpus_per_node}")  # srun does not take it over from sbatch
    run = folder.parent.parent
    return {
        "name": f"lamae-{run.name if folder.parent == RunDirectory(run).jobs else folder.name}",
        "timeout_min": profile.time_min,
        "cpus_per_task": profile.cpus_per_node or None,
        "gpus_per_node": profile.gpus_per_node or None,
        "mem_gb": profile.mem_gb or None,
        "stderr_to_stdout": True,
        "slurm_array_parallelism": profile.array_tasks,  # all at once; how many really is the cluster's to say
        "slurm_partition": profile.partition,
        "slurm_account": profile.account,
        "slurm_qos": profile.qos,
        "slurm_constraint": profile.constraint,
        "slurm_exclude": profile.exclude,
        "slurm_signal_delay_s": profile.save_before_end_s,
        "slurm_srun_args": srun,
        "slurm_setup": [
            *(f"export {name}={shlex.quote(value)}" for name, value in environment.items()),
            *profile.setup,
        ],
        "slurm_teardown": [f"{python} -m lamae.cluster.after {shlex.quote(str(folder))}"],
        "slurm_additional_parameters": _further_options(profile),
    }


def _further_options(profile: Profile) -> dict[str, Any]:
    """Options of sbatch that submitit has no parameter for. A range of nodes is beyond its own for nodes."""
    options = {name.replace("_", "-"): value for name, value in profile.slurm.items()}
    # Clusters may default to jobs that cannot be requeued.
    options = {"nodes": profile.nodes, "requeue": "no-requeue" not in options, **options}
    return {name: value for name, value in options.items() if value is not False}


def script_text(folder: Path, profile: Profile, *, num_tasks: int = 0) -> str:
    """The batch script as submitit would write it, without needing Slurm here; of an array where it has tasks."""
    parameters = {"timeout_min": "time", "name": "job_name"}
    values: dict[str, Any] = {"wckey": None}  # submitit 1.5.4 would give "submitit", which sites that check it refuse
    for key, value in executor_parameters(folder, profile).items():
        if value is not None:
            values[parameters.get(key, key.removeprefix("slurm_"))] = value
    if "mem_gb" in values:
        values["mem"] = f"{values.pop('mem_gb'):g}GB"
    logs = folder / LOGS_NAME
    python = profile.python or shlex.quote(sys.executable)
    command = f"{python} -u -m submitit.core._submit {shlex.quote(str(logs))}"
    return str(_make_sbatch_string(command=command, folder=logs, map_count=num_tasks or None, **values))


def job_environment(folder: Path, profile: Profile) -> dict[str, str]:
    """Environment of every process of the job."""
    return {
        **profile.environment,
        "PYTHONPATH": str(folder / CODE_NAME),
        "PYTHONSAFEPATH": "1",  # or the directory of submission would come before the snapshot
    }


def send(folder: Path, profile: Profile, jobs: Sequence[NodeJob]) -> str:
    """Hand one job, or several as an array, to submitit; the scheduler's number of the job or array.

    Raises LamaeError with what sbatch says where it refuses the job.
    """
    options = {f"{profile.kind}_python": profile.python} if profile.python else {}
    executor = submitit.AutoExecutor(folder / LOGS_NAME, cluster=profile.kind, **options)
    executor.update_parameters(**executor_parameters(folder, profile))
    if profile.kind == "slurm":
        executor._executor.parameters["wckey"] = None  # AutoExecutor takes None for not set
    try:
        # submitit prints what sbatch says besides raising it.
        with _without_outer_job(), _local_job_environment(folder, profile), redirect_stderr(io.StringIO()):
            sent = [executor.submit(jobs[0])] if len(jobs) == 1 else executor.submit_array(jobs)
    except (FailedJobError, FailedSubmissionError) as error:
        said = [re.sub(r"^sbatch: (error|fatal): ", "", line) for line in str(error).splitlines()]
        why = "; ".join(said) or "it did not say why"
        hint = "; is this a host of the cluster? --cluster local needs none" if "resolve_ctls" in why else ""
        if len(jobs) > 1 and re.search("array|MaxSubmit", why):
            hint = f"; {len(jobs)} tasks may be too many here: --set array_tasks=N"
        raise LamaeError(f"sbatch refused the job: {why}{hint}") from None
    return str(sent[0].job_id).split("_")[0]


@contextmanager
def _without_outer_job() -> Iterator[None]:
    """Submit as from a login node, also from within another job; where Slurm's configuration lies stays known."""
    kept = {name: os.environ[name] for name in ("SLURM_CONF", "SLURM_CLUSTERS") if name in os.environ}
    with submitit.helpers.clean_env():
        os.environ.update(kept)
        yield


@contextmanager
def _local_job_environment(folder: Path, profile: Profile) -> Iterator[None]:
    """What a local job inherits from this process: the environment, SIGHUP ignored, and no pipe, so that readers of
    ``submit``'s output do not wait for the job."""
    if profile.kind != "local":
        yield
        return
    before = dict(os.environ)
    handler = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.environ.update(job_environment(folder, profile))
    kept = [os.dup(stream) for stream in (0, 1, 2)]
    with open(os.devnull, "r+") as nowhere:
        for stream in (0, 1, 2):
            os.dup2(nowhere.fileno(), stream)
    try:
        yield
    finally:
        for stream, before_it in enumerate(kept):
            os.dup2(before_it, stream)
            os.close(before_it)
        signal.signal(signal.SIGHUP, handler)
        os.environ.clear()
        os.environ.update(before)
