"""``lamae submit``: put a verb on a cluster, or on this machine, through submitit."""

import dataclasses
import logging
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lamae.base import settings
from lamae.base.errors import EXIT_USAGE, LamaeError, UsageError
from lamae.base.files import write_text
from lamae.base.rundirectory import RunDirectory
from lamae.cluster import jobs, registry, slurm
from lamae.cluster.executor import script_text, send
from lamae.cluster.job import NodeJob
from lamae.cluster.profile import Profile
from lamae.cluster.snapshot import copy_code
from lamae.cluster.submission import (
    CODE_NAME,
    CONFIG_NAME,
    JOB_ID_NAME,
    OTHER_JOBS_NAME,
    Submission,
    make_folder,
)
from lamae.train import runconfig

log = logging.getLogger(__name__)

TRAIN = "train"
SHARD = "shard"
# All but those about jobs themselves and the demonstration, which starts ranks of its own on one machine.
VERBS = (
    TRAIN, SHARD, "synth", "verify", "inspect", "card", "labels", "checkpoints", "embed", "import-embeddings",
    "probe", "finetune", "compare", "study", "export", "bench", "plan",
)  # fmt: skip
# What ranks do together; anything else is one process, on one node.
PARALLEL = ((TRAIN,), ("embed",), ("finetune",), ("bench", "scaling"))
# Verbs other than train that, started again, go on from what they have written.
RESUMING_VERBS = (SHARD, "embed", "finetune", "study")


@dataclass
class Submitted:
    """A job that was submitted, or would be."""

    folder: Path
    job_id: str | None
    script: str | None
    """The batch script of a dry run; None for a local job."""

    plan: str
    """One line for people: what runs where."""


def submit(
    verb: str, arguments: Sequence[str], *, profile: Profile, folder: Path | None = None, dry_run: bool = False
) -> list[Submitted]:
    """Submit ``lamae VERB ARGUMENTS``; with ``dry_run`` nothing is submitted or written.

    One job, or for ``shard`` on SLURM two: an array that packs and a job that merges what it packed. The last one is
    done when everything is.
    folder: where jobs other than training keep their files (default ``lamae-jobs`` here); training keeps them in the
    run directory. Raises UsageError for a verb or configuration that can never work.
    """
    if verb not in VERBS:
        raise UsageError(f"{verb}: cannot be submitted; the verbs that can are {', '.join(VERBS)}")
    if profile.kind == "slurm" and not dry_run and not slurm.available():
        raise UsageError("sbatch not found: submit from a login node of the cluster, or use --cluster local")
    if verb == TRAIN:
        return [_submit_training(arguments, profile=profile, dry_run=dry_run)]
    if not any((verb, *arguments)[: len(words)] == words for words in PARALLEL):
        # One process has no use for more than one GPU.
        gpus = min(profile.gpus_per_node, 1)
        profile = dataclasses.replace(profile, nodes="1", ranks_per_node=1, gpus_per_node=gpus)
    root = (folder or Path(OTHER_JOBS_NAME)).absolute()
    if verb == SHARD and profile.kind == "slurm":
        return _submit_packing(arguments, profile=profile, root=root, dry_run=dry_run)
    argv = ["-m", "lamae", verb, *arguments]
    return [_submit(_submission(verb, argv, profile), profile, root=root, suffix=f"-{verb}", dry_run=dry_run)]


def _submit_training(arguments: Sequence[str], *, profile: Profile, dry_run: bool) -> Submitted:
    config = resolve_training(arguments, profile=profile)
    submission = _submission(TRAIN, ["-m", "lamae", TRAIN, CONFIG_NAME], profile)
    submission.run_dir = config.run.dir
    root = RunDirectory(Path(config.run.dir)).jobs
    for path in config.data.paths:
        if not Path(path).exists():
            log.warning("data.path=%s is not there as seen from here; do the nodes see it?", path)
    if not dry_run:
        _refuse_second_job(Path(config.run.dir))
    return _submit(submission, profile, root=root, dry_run=dry_run, config_yaml=settings.to_yaml(config))


def _refuse_second_job(run_dir: Path) -> None:
    """Raises UsageError where a job for this run waits or runs: two would write into the same directory."""
    for status in jobs.read_statuses(jobs.jobs_of_run(run_dir)):
        if not status.ended:
            raise UsageError(
                f"run.dir={run_dir}: job {status.job_id} for it is {status.state}; "
                f"wait for it, or end it with: lamae jobs {run_dir} --cancel"
            )


def _submit_packing(arguments: Sequence[str], *, profile: Profile, root: Path, dry_run: bool) -> list[Submitted]:
    """Plan here, pack in an array, merge in a job that waits for the whole array; the same bytes as packed in one."""
    verb = ["-m", "lamae", SHARD, *arguments]
    if not dry_run:
        _plan_packing(verb)
    count = _num_tasks(profile)
    packing = _submission(SHARD, [], profile)
    packing.array = [[*verb, "--parts", f"{part}/{count}"] for part in range(count)]
    first = _submit(packing, profile, root=root, suffix="-shard", dry_run=dry_run)
    after_all = {"dependency": f"afterok:{first.job_id or 'JOB'}", "kill-on-invalid-dep": "yes"}
    merging = _submission(SHARD, verb, profile)
    merge_profile = dataclasses.replace(profile, slurm={**profile.slurm, **after_all})
    try:
        return [first, _submit(merging, merge_profile, root=root, suffix="-merge", dry_run=dry_run)]
    except LamaeError as error:
        if first.job_id is None:
            raise
        slurm.cancel(first.job_id)
        raise type(error)(f"{error}; so the array {first.job_id}, which was to pack, was cancelled") from None


def _plan_packing(verb: list[str]) -> None:
    planned = subprocess.run([sys.executable, *verb, "--plan-only"], stderr=subprocess.PIPE, text=True)
    if planned.returncode != 0:
        error = UsageError if planned.returncode == EXIT_USAGE else LamaeError
        said = planned.stderr.strip().splitlines() or [f"shard --plan-only ended with {planned.returncode}"]
        raise error(said[-1].removeprefix("lamae: "))


def _num_tasks(profile: Profile) -> int:
    """``array_tasks``, or as many as this cluster lets an array have."""
    most = slurm.max_array_size() if slurm.available() else None
    if most is None or profile.array_tasks <= most:
        return profile.array_tasks
    log.info("array_tasks=%d: %d here, the cluster's MaxArraySize", profile.array_tasks, max(most, 1))
    return max(most, 1)


def _submission(verb: str, argv: list[str], profile: Profile) -> Submission:
    return Submission(
        verb=verb,
        argv=argv,
        profile=profile,
        keeps_work=verb in RESUMING_VERBS,
        submitted_at=time.time(),
    )


def _submit(
    submission: Submission,
    profile: Profile,
    *,
    root: Path,
    dry_run: bool,
    suffix: str = "",
    config_yaml: str | None = None,
) -> Submitted:
    """Make the job's folder with the code and configuration as they are now, and hand the job over."""
    folder = root / f"NNN{suffix}" if dry_run else make_folder(root, suffix=suffix)
    if config_yaml is not None:
        submission.argv = [str(folder / CONFIG_NAME) if word == CONFIG_NAME else word for word in submission.argv]
    plan = _describe(submission, profile)
    if dry_run:
        script = script_text(folder, profile, num_tasks=len(submission.array)) if profile.kind == "slurm" else None
        return Submitted(folder, None, script, plan)
    copy_code(folder / CODE_NAME)
    if config_yaml is not None:
        (folder / CONFIG_NAME).write_text(config_yaml)
    submission.write(folder)
    tasks = range(len(submission.array))
    try:
        job_id = send(folder, profile, [NodeJob(str(folder), task) for task in tasks] or [NodeJob(str(folder))])
    except LamaeError:
        shutil.rmtree(folder)
        raise
    write_text(folder / JOB_ID_NAME, f"{job_id}\n")
    registry.add(folder)
    return Submitted(folder, job_id, None, plan)


def _describe(submission: Submission, profile: Profile) -> str:
    low, high = profile.node_range()
    nodes = f"{low} node{'s' * (low > 1)}" if low == high else f"{low} to {high} nodes"
    if submission.array:
        words = submission.array[0]
        nodes = f"an array of {len(submission.array)} tasks, {nodes} each"
    else:
        words = submission.argv
    gpus = profile.gpus_per_node
    on_each = f"{profile.num_local_ranks} process(es) and {gpus or 'no'} GPU{'s' * (gpus > 1)} per node"
    return f"{shlex.join(['python', *words])} on {nodes}, {on_each}"


def resolve_training(arguments: Sequence[str], *, profile: Profile) -> runconfig.RunConfig:
    """The configuration of ``lamae train ARGUMENTS``; refused where some world size cannot train it.

    Paths are made absolute, and ``checkpoint.notice_s``, unless given, is the notice that the profile asks Slurm for.
    """
    if not arguments:
        raise UsageError("submit train: which configuration? for example tiny run.dir=runs/a")
    config = runconfig.load(arguments[0], arguments[1:])
    config.run.dir = str(Path(config.run.dir).absolute())
    paths = [str(Path(path).absolute()) for path in config.data.paths]
    config.data.path = paths if isinstance(config.data.path, list) else paths[0]
    if config.monitor.probe_labels:
        config.monitor.probe_labels = str(Path(config.monitor.probe_labels).absolute())
    if profile.kind == "slurm" and not config.checkpoint.notice_s:
        config.checkpoint.notice_s = float(profile.save_before_end_s)
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
