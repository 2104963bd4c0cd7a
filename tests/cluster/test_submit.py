"""What ``lamae submit`` would send, without a scheduler."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from lamae.base.errors import LamaeError, UsageError
from lamae.cluster import profile, slurm, snapshot
from lamae.cluster import submit as submit_module
from lamae.cluster.submission import Submission
from lamae.cluster.submit import VERBS, refuse_uneven_worlds, resolve_training, submit

CPU = "configs/cluster/cpu-partition.yaml"
GPU = "configs/cluster/generic-gpu.yaml"
SHIPPED_RUNS = sorted(str(path) for path in Path("configs/pretrain").glob("*.yaml"))
SHIPPED_PROFILES = sorted(str(path) for path in Path("configs/cluster").glob("*.yaml"))


def train_arguments(tmp_path):
    paths = [f"run.dir={tmp_path / 'run'}", f"data.path={tmp_path / 'shards'}"]
    return ["configs/pretrain/tiny.yaml", *paths, "train.global_batch_size=128", "train.micro_batch_size=64"]


def test_a_dry_run_shows_the_batch_script_and_writes_nothing(tmp_path):
    chosen = profile.load(CPU, ["nodes=1-2", "account=ecg", "setup=[module load python]", "slurm={nice: 7}"])
    [submitted] = submit("train", train_arguments(tmp_path), profile=chosen, dry_run=True)
    lines = submitted.script.splitlines()
    wanted = ["nodes=1-2", "account=ecg", "nice=7", "cpus-per-task=16", "mem=64GB", "requeue"]
    assert {f"#SBATCH --{option}" for option in wanted} <= set(lines)
    assert "#SBATCH --signal=USR2@120" in lines
    assert "module load python" in lines
    srun = next(line for line in lines if line.startswith("srun"))
    assert "--cpus-per-task=16" in srun
    assert "--ntasks-per-node=1" in srun
    assert not any("ntasks" in line for line in lines if line.startswith("#SBATCH"))  # it would undo a range of nodes
    assert lines.index(srun) < next(i for i, line in enumerate(lines) if "cluster.after" in line)
    assert list(tmp_path.iterdir()) == []


def test_a_world_that_cannot_share_the_batch_is_refused_with_the_nearest_that_can(tmp_path):
    chosen = profile.load(CPU, ["nodes=2-3"])
    with pytest.raises(UsageError, match=r"128 cannot be shared by 3 ranks.* are 2 or 4"):
        submit("train", train_arguments(tmp_path), profile=chosen, dry_run=True)
    refuse_uneven_worlds([1, 2, 4], global_batch_size=128)


@pytest.mark.parametrize("path", SHIPPED_PROFILES)
@pytest.mark.parametrize("run", SHIPPED_RUNS)
def test_every_shipped_configuration_can_be_submitted_with_every_shipped_profile(tmp_path, run, path):
    arguments = [run, f"run.dir={tmp_path / 'run'}", f"data.path={tmp_path / 'shards'}"]
    [submitted] = submit("train", arguments, profile=profile.load(path), dry_run=True)
    assert submitted.plan


def test_a_run_knows_how_much_notice_the_profile_asks_for(tmp_path):
    def notice_s(path, *overrides):
        return resolve_training(
            [*train_arguments(tmp_path), *overrides], profile=profile.load(path)
        ).checkpoint.notice_s

    assert notice_s(CPU) == 120
    assert notice_s(GPU) == 300
    assert notice_s(CPU, "checkpoint.notice_s=60") == 60
    assert notice_s("configs/cluster/local.yaml") == 0  # nobody gives notice


def test_paths_of_a_submitted_run_do_not_depend_on_where_it_starts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [*train_arguments(tmp_path), "data.path=shards", "monitor.probe_labels=labels.zarr"]
    config = resolve_training(words, profile=profile.load(CPU))
    assert (config.data.path, config.monitor.probe_labels) == (str(tmp_path / "shards"), str(tmp_path / "labels.zarr"))


def test_further_options_of_sbatch_may_replace_or_leave_out_ours(tmp_path):
    def options(slurm_options):
        chosen = profile.load(CPU, [f"slurm={slurm_options}"])
        [submitted] = submit("train", train_arguments(tmp_path), profile=chosen, dry_run=True)
        return {line.removeprefix("#SBATCH --") for line in submitted.script.splitlines()}

    assert {"requeue", "reservation=ecg", "exclusive"} <= options("{reservation: ecg, exclusive: true}")
    for refusing in ("{no-requeue: true}", "{no_requeue: true}"):
        assert "no-requeue" in options(refusing)
        assert "requeue" not in options(refusing)
    assert not any("requeue" in option for option in options("{requeue: false}"))


@pytest.mark.parametrize(("verb", "first"), [("embed", "x"), ("finetune", "x"), ("bench", "scaling")])
def test_verbs_whose_ranks_share_the_work_get_the_whole_profile(verb, first):
    [submitted] = submit(verb, [first], profile=profile.load(GPU), dry_run=True)
    assert {"#SBATCH --nodes=2", "#SBATCH --gpus-per-node=4"} <= set(submitted.script.splitlines())
    assert submitted.plan.endswith("on 2 nodes, 4 process(es) and 4 GPUs per node")


@pytest.mark.parametrize("verb", ["probe", "export", "bench"])
def test_a_job_of_one_process_asks_for_one_gpu(verb):
    [submitted] = submit(verb, ["x"], profile=profile.load(GPU), dry_run=True)
    assert "#SBATCH --gpus-per-node=1" in submitted.script.splitlines()
    assert submitted.plan.endswith("on 1 node, 1 process(es) and 1 GPU per node")
    [submitted] = submit(verb, ["x"], profile=profile.load(CPU), dry_run=True)
    assert "gpus-per-node" not in submitted.script
    assert "no GPU per node" in submitted.plan


def test_the_configuration_is_checked_at_submission(tmp_path):
    with pytest.raises(UsageError, match=r"train\.setps; did you mean train\.steps"):
        submit("train", [*train_arguments(tmp_path), "train.setps=3"], profile=profile.load(CPU), dry_run=True)
    with pytest.raises(UsageError, match="cannot be submitted"):
        submit("jobs", [], profile=profile.load(CPU), dry_run=True)


def test_every_verb_can_be_submitted_but_those_about_jobs_and_the_demonstration():
    from lamae.cli.app import app

    verbs = typer.main.get_command(app).commands
    assert sorted([*VERBS, "submit", "jobs", "doctor", "demo"]) == sorted(verbs)


def test_without_slurm_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="sbatch not found"):
        submit("train", train_arguments(tmp_path), profile=profile.load(CPU))
    assert list(tmp_path.iterdir()) == []


def test_packing_is_an_array_and_a_merge_that_waits_for_it():
    chosen = profile.load(CPU, ["array_tasks=3"])
    array, merge = submit("shard", ["mimic", "out", "--shard-size", "64"], profile=chosen, dry_run=True)
    assert "#SBATCH --array=0-2%3" in array.script.splitlines()
    assert "python -m lamae shard mimic out --shard-size 64 --parts 0/3" in array.plan
    assert "#SBATCH --nodes=1" in array.script.splitlines()
    assert {"#SBATCH --dependency=afterok:JOB", "#SBATCH --kill-on-invalid-dep=yes"} <= set(merge.script.splitlines())
    assert "--parts" not in merge.plan


@pytest.fixture
def fake_slurm(tmp_path, monkeypatch):
    """Stands in for Slurm; ``sbatch`` is a shell script's text, which keeps the batch scripts it gets."""

    def install(sbatch: str = "echo Submitted batch job 7", scontrol: str = "exit 1") -> Path:
        tools = tmp_path / "bin"
        tools.mkdir()
        keep = f'for word in "$@"; do file=$word; done; cp "$file" {tmp_path}/$$.sh'
        texts = {"sbatch": f"{keep}\n{sbatch}", "scontrol": scontrol, "srun": "exit 0", "squeue": "exit 0"}
        for name, text in texts.items():
            (tools / name).write_text(f"#!/bin/sh\n{text}\n")
            (tools / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
        return tmp_path

    return install


def test_an_array_has_no_more_tasks_than_the_cluster_lets_it(fake_slurm, monkeypatch, caplog):
    scripts = fake_slurm(scontrol="echo 'MaxArraySize            = 4'")
    monkeypatch.setattr(submit_module, "_plan_packing", lambda verb: None)
    with caplog.at_level("INFO"):
        array, _ = submit(
            "shard", ["mimic", "out"], profile=profile.load(CPU, ["array_tasks=16"]), folder=scripts / "j"
        )
    assert "array_tasks=16: 4 here, the cluster's MaxArraySize" in caplog.text
    assert [argv[-1] for argv in Submission.read(array.folder).array] == ["0/4", "1/4", "2/4", "3/4"]
    assert any("#SBATCH --array=0-3%4" in path.read_text() for path in scripts.glob("*.sh"))


def test_an_array_that_sbatch_refuses_names_the_key(fake_slurm, monkeypatch):
    scripts = fake_slurm(
        sbatch="echo 'sbatch: error: Batch job submission failed: Invalid job array specification' >&2; exit 1"
    )
    monkeypatch.setattr(submit_module, "_plan_packing", lambda verb: None)
    with pytest.raises(LamaeError, match=r"Invalid job array specification; 3 tasks may be too many.*array_tasks=N"):
        submit("shard", ["mimic", "out"], profile=profile.load(CPU, ["array_tasks=3"]), folder=scripts / "j")


def test_where_the_merge_is_refused_the_array_is_cancelled(fake_slurm, monkeypatch):
    scripts = fake_slurm(
        sbatch='grep -q afterok "$file" || { echo Submitted batch job 7; exit 0; }\n'
        "echo 'sbatch: error: Job dependency problem' >&2; exit 1"
    )
    monkeypatch.setattr(submit_module, "_plan_packing", lambda verb: None)
    cancelled = []
    monkeypatch.setattr(slurm, "cancel", cancelled.append)
    with pytest.raises(LamaeError, match=r"Job dependency problem; so the array 7, which was to pack, was cancelled"):
        submit("shard", ["mimic", "out"], profile=profile.load(CPU, ["array_tasks=3"]), folder=scripts / "j")
    assert cancelled == ["7"]


@pytest.mark.parametrize(("given", "expected"), [("{}", []), ("{wckey: ecg}", ["#SBATCH --wckey=ecg"])])
def test_a_wckey_is_asked_for_only_where_the_profile_does(fake_slurm, given, expected):
    """submitit has one of its own, and sites that check wckeys refuse it."""
    scripts = fake_slurm()
    chosen = profile.load(CPU, [f"slurm={given}"])
    [shown] = submit("probe", ["x"], profile=chosen, dry_run=True)
    submit("probe", ["x"], profile=chosen, folder=scripts / "j")
    [sent] = scripts.glob("*.sh")
    for text in (shown.script, sent.read_text()):
        assert [line for line in text.splitlines() if line.startswith("#SBATCH --wckey")] == expected


def test_a_plan_that_dies_without_a_word_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(slurm, "available", lambda: True)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], -9, stderr=""))
    with pytest.raises(LamaeError, match="shard --plan-only ended with -9"):
        submit("shard", ["mimic", "out"], profile=profile.load(CPU), folder=tmp_path)


def test_a_job_that_sbatch_refuses_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text("#!/bin/sh\necho 'sbatch: error: invalid partition specified: cpu' >&2; exit 1\n")
    sbatch.chmod(0o755)
    for name in ("srun", "squeue"):
        (sbatch.parent / name).symlink_to(sbatch)
    monkeypatch.setenv("PATH", f"{sbatch.parent}:/usr/bin:/bin")
    for _ in range(2):  # also when tried again
        with pytest.raises(LamaeError, match=r"^sbatch refused the job: invalid partition specified: cpu$"):
            submit("train", train_arguments(tmp_path), profile=profile.load(CPU))
        assert list((tmp_path / "run" / "jobs").iterdir()) == []


def test_a_run_has_one_job_at_a_time(tmp_path, monkeypatch):
    folder = tmp_path / "run" / "jobs" / "001"
    Submission("train", ["-c", ""], profile.Profile(), run_dir=str(tmp_path / "run")).write(folder)
    (folder / "job_id").write_text("12")
    monkeypatch.setattr(slurm, "available", lambda: True)
    monkeypatch.setattr(slurm, "accounted_states", lambda ids: {})
    monkeypatch.setattr(slurm, "queue", lambda ids: {"12": slurm.QueueEntry("PENDING", "Resources", "")})
    with pytest.raises(UsageError, match="job 12 for it is pending"):
        submit("train", train_arguments(tmp_path), profile=profile.load(CPU))
    assert [path.name for path in folder.parent.iterdir()] == ["001"]


def test_a_job_imports_the_snapshot_and_not_the_checkout(tmp_path):
    snapshot.copy_code(tmp_path / "code")
    environment = {"PYTHONPATH": str(tmp_path / "code"), "PYTHONSAFEPATH": "1"}
    code = "import lamae.console, lamae.cluster.job as job; print(lamae.console.__file__, job.__file__)"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert all(path.startswith(str(tmp_path / "code")) for path in done.stdout.split())
    assert (tmp_path / "code" / "lamae" / "configs" / "pretrain" / "tiny.yaml").is_file()


def test_a_job_knows_the_revision_it_was_submitted_from(tmp_path, monkeypatch):
    checkout = {"revision": "0123abcd", "diff_sha256": "ef", "diff": "+ changed"}
    monkeypatch.setattr(snapshot, "describe_code", lambda: checkout)
    snapshot.copy_code(tmp_path / "code")
    code = "import json; from lamae.base.revision import describe_code; print(json.dumps(describe_code()))"
    environment = {"PYTHONPATH": str(tmp_path / "code"), "PYTHONSAFEPATH": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == checkout
