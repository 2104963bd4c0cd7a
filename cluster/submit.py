"""``lamae submit``: put a verb on a cluster, or on this machine, through submitit."""

import dataclasses
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit
from submitit.slurm.slurm import _make_sbatch_string  # the text of a batch script on a machine without Slurm

from cluster import registry, slurm
from cluster.job import NodeJob
from cluster.profile import Profile
from cluster.snapshot import copy_code
from cluster.submission import (
    CODE_NAME,
    CONFIG_NAME,
    JOB_ID_NAME,
    LOGS_NAME,
    OTHER_JOBS_NAME,
    RUN_JOBS_NAME,
    Submission,
    make_folder,
)
from lamae import config as run_config
from sharding.errors import UsageError

TRAIN = "train"
VERBS = (TRAIN, "shard", "labels", "embed", "probe", "finetune", "compare", "export", "verify", "bench", "synth")


@dataclass
class Submitted:
    """A job that was submitted, or would be."""

    folder: Path
    job_id: str | None
    script: str | None
    """The batch script; None for a local job."""

    plan: str
    """One line for people: what runs where."""


def submit(
    verb: str, arguments: Sequence[str], *, profile: Profile, folder: Path | None = None, dry_run: bool = False
) -> Submitted:
    """Submit ``lamae VERB ARGUMENTS``; with ``dry_run`` nothing is submitted or written.

    folder: where jobs other than training keep their files (default ``lamae-jobs`` here); training keeps them in the
    run directory. Raises UsageError for a verb or configuration that can never work.
    """
    if verb not in VERBS:
        raise UsageError(f"{verb}: cannot be submitted; the verbs are {', '.join(VERBS)}")
    config = None
    if verb == TRAIN:
        config = resolve_training(arguments, profile=profile)
        root = Path(config.run.dir) / RUN_JOBS_NAME
    else:
        root = (folder or Path(OTHER_JOBS_NAME)).absolute()
        if profile.node_range()[0] > 1 or profile.num_local_ranks > 1:
            profile = dataclasses.replace(profile, nodes="1", ranks_per_node=1)
    target = root / "NNN" if dry_run else make_folder(root, suffix="" if verb == TRAIN else f"-{verb}")
    argv = ["-m", "lamae", verb, *(arguments if config is None else [str(target / CONFIG_NAME)])]
    submission = Submission(
        verb=verb,
        argv=argv,
        kind=profile.kind,
        ranks_per_node=profile.num_local_ranks,
        max_restarts=profile.max_restarts,
        backoff_s=profile.backoff_s,
        exclude_culprits=profile.exclude_culprits,
        run_dir=None if config is None else config.run.dir,
        submitted_at=time.time(),
    )
    low, high = profile.node_range()
    nodes = f"{low} node{'s' * (low > 1)}" if low == high else f"{low} to {high} nodes"
    plan = f"{shlex.join(['python', *argv])} on {nodes}, {profile.num_local_ranks} rank(s) each"
    if dry_run:
        return Submitted(target, None, script_text(target, profile) if profile.kind == "slurm" else None, plan)
    if profile.kind == "slurm" and not slurm.available():
        target.rmdir()
        raise UsageError("sbatch not found: submit from a login node of the cluster, or use configs/cluster/local.yaml")

    copy_code(target / CODE_NAME)
    if config is not None:
        (target / CONFIG_NAME).write_text(run_config.to_yaml(config))
    submission.write(target)
    job_id = _send(target, profile, [NodeJob(str(target))])
    (target / JOB_ID_NAME).write_text(f"{job_id}\n")
    registry.add(target)
    script = None
    if profile.kind == "slurm":
        script = (target / LOGS_NAME / f"{job_id}_submission.sh").read_text()
    return Submitted(target, job_id, script, plan)


def resolve_training(arguments: Sequence[str], *, profile: Profile) -> run_config.RunConfig:
    """The configuration of ``lamae train ARGUMENTS``, paths absolute; refused where some world size cannot train it."""
    if not arguments:
        raise UsageError("submit train: which configuration? for example configs/pretrain/tiny.yaml run.dir=runs/a")
    config = run_config.load(arguments[0], arguments[1:])
    config.run.dir = str(Path(config.run.dir).absolute())
    config.data.path = str(Path(config.data.path).absolute())
    low, high = profile.node_range()
    worlds = [nodes * profile.num_local_ranks for nodes in range(low, high + 1)]
    refuse_uneven_worlds(worlds, global_batch_size=config.train.global_batch_size)
    return config


def refuse_uneven_worlds(worlds: Sequence[int], *, global_batch_size: int) -> None:
    """Raises UsageError naming the nearest world sizes that divide the global batch."""
    for world in worlds:
        if global_batch_size % world == 0:
            continue
        divisors = [size for size in range(1, global_batch_size + 1) if global_batch_size % size == 0]
        below = max((size for size in divisors if size < world), default=None)
        above = min((size for size in divisors if size > world), default=None)
        near = " or ".join(str(size) for size in (below, above) if size is not None)
        raise UsageError(
            f"train.global_batch_size={global_batch_size} cannot be shared by {world} ranks; the nearest numbers of "
            f"ranks (nodes x ranks per node) that divide it are {near}"
        )


def executor_parameters(folder: Path, profile: Profile) -> dict[str, Any]:
    """What submitit's AutoExecutor is told: one task per node, which starts the node's ranks."""
    after = shlex.join([profile.python or sys.executable, "-m", "cluster.after", str(folder)])
    if profile.python:
        after = f"{profile.python} -m cluster.after {shlex.quote(str(folder))}"
    environment = job_environment(folder, profile)
    srun = ["--kill-on-bad-exit=1"]
    if profile.cpus_per_node:
        srun.append(f"--cpus-per-task={profile.cpus_per_node}")  # srun does not take it over from sbatch
    return {
        "name": f"lamae-{folder.parent.parent.name if folder.parent.name == RUN_JOBS_NAME else folder.name}",
        "timeout_min": profile.time_min,
        "tasks_per_node": 1,
        "cpus_per_task": profile.cpus_per_node or None,
        "gpus_per_node": profile.gpus_per_node or None,
        "mem_gb": profile.mem_gb or None,
        "stderr_to_stdout": True,
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
        "slurm_teardown": [after],
        # A range of nodes is beyond submitit's own parameter. Clusters may default to jobs that cannot be requeued.
        "slurm_additional_parameters": {"nodes": profile.nodes, "requeue": True, **profile.slurm},
    }


def script_text(folder: Path, profile: Profile) -> str:
    """The batch script as submitit would write it, without needing Slurm here."""
    parameters = {
        "timeout_min": "time",
        "tasks_per_node": "ntasks_per_node",
        "name": "job_name",
    }
    values: dict[str, Any] = {}
    for key, value in executor_parameters(folder, profile).items():
        if value is not None and not key.startswith("local_"):
            values[parameters.get(key, key.removeprefix("slurm_"))] = value
    if "mem_gb" in values:
        values["mem"] = f"{values.pop('mem_gb'):g}GB"
    logs = folder / LOGS_NAME
    python = profile.python or shlex.quote(sys.executable)
    command = f"{python} -u -m submitit.core._submit {shlex.quote(str(logs))}"
    return str(_make_sbatch_string(command=command, folder=logs, **values))


def job_environment(folder: Path, profile: Profile) -> dict[str, str]:
    """Environment of every process of the job."""
    return {
        **profile.environment,
        "PYTHONPATH": str(folder / CODE_NAME),
        "PYTHONSAFEPATH": "1",  # or the directory of submission would come before the snapshot
    }


def _send(folder: Path, profile: Profile, jobs: list[NodeJob]) -> str:
    """Hand the jobs to submitit; the scheduler's number of the job or array."""
    options = {f"{profile.kind}_python": profile.python} if profile.python else {}
    executor = submitit.AutoExecutor(folder / LOGS_NAME, cluster=profile.kind, **options)
    executor.update_parameters(**executor_parameters(folder, profile))
    with _without_outer_job(), _local_job_environment(folder, profile):
        sent = [executor.submit(jobs[0])] if len(jobs) == 1 else executor.submit_array(jobs)
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
    """What a local job inherits from this process: the environment, and deafness to the terminal's hang-up."""
    if profile.kind != "local":
        yield
        return
    before = dict(os.environ)
    handler = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.environ.update(job_environment(folder, profile))
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, handler)
        os.environ.clear()
        os.environ.update(before)
