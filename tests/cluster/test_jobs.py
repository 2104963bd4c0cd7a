"""``lamae jobs``: what is said of jobs, with a scheduler that is asked and one that has forgotten."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lamae.base import files
from lamae.base.errors import LamaeError, UsageError
from lamae.cluster import jobs, registry
from lamae.cluster.profile import Profile
from lamae.cluster.submission import Submission, attempt_folder


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """Stands in for Slurm's commands: ``tools(squeue=text)``; a command that is not given fails."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def install(error: str = "slurm_load_jobs error: Invalid job id specified", **outputs: str | None) -> None:
        for name in ("sbatch", "squeue", "sacct", "scancel", "scontrol"):
            text = outputs.get(name)
            body = f"sys.stdout.write({text!r})" if text is not None else f"sys.exit({error!r})"
            (folder / name).write_text(f"#!{sys.executable}\nimport sys\n{body}\n")
            (folder / name).chmod(0o755)

    return install


def make_job(run: Path, *, decisions: tuple[str | None, ...] = (), array: int = 0) -> Path:
    """A submitted training job 12 with one attempt per entry of ``decisions`` (None: the attempt has none)."""
    folder = run / "jobs" / "001"
    tasks = [["-c", ""]] * array
    Submission("train", ["-c", ""], Profile(), run_dir=str(run), array=tasks).write(folder)
    (folder / "job_id").write_text("12\n")
    for number, action in enumerate(decisions):
        attempt = attempt_folder(folder, job_id=f"12_{number}" if array else "12", restart=0 if array else number)
        attempt.mkdir(parents=True)
        if action is not None:
            values = {"action": action, "reason": f"because {number}", "exit_code": 1 if action == "stop" else 0}
            files.write_json(attempt / "decision.json", values)
    return folder


def status(run: Path) -> jobs.JobStatus:
    [found] = jobs.read_statuses(jobs.find_jobs(run))
    return found


@pytest.mark.parametrize(
    ("decisions", "squeue", "sacct", "state", "detail"),
    [
        ((None,), "12|RUNNING|None|n[1-2]\n", None, jobs.RUNNING, ""),
        ((), "12|PENDING|Resources|\n", None, jobs.PENDING, "Resources"),
        ((None,), "12|SUSPENDED|None|n[1-2]\n", None, jobs.RUNNING, "suspended: it goes on when it is resumed"),
        (("requeue",), "12|PENDING|BeginTime|\n", None, jobs.PENDING, "because 0; BeginTime"),
        (("requeue", None), "12|RUNNING|None|n1\n", None, jobs.RUNNING, ""),
        (("requeue", "done"), None, None, jobs.DONE, ""),
        (("requeue", "stop"), None, None, jobs.FAILED, "because 1"),
        ((None,), None, "12|CANCELLED by 0\n", jobs.CANCELLED, ""),
        ((None,), None, "12|NODE_FAIL\n", jobs.GONE, "Slurm ended it (node_fail): see its log; the same command"),
        ((None,), None, None, jobs.GONE, "neither in the queue"),
    ],
)
def test_states(tmp_path, tools, decisions, squeue, sacct, state, detail):
    make_job(tmp_path / "run", decisions=decisions)
    tools(squeue=squeue, sacct=sacct)
    found = status(tmp_path / "run")
    assert (found.state, found.restarts) == (state, max(0, len(decisions) - 1))
    assert found.detail.startswith(detail) if detail else found.detail == ""


def test_a_cancelled_job_is_told_from_one_that_vanished(tmp_path, tools):
    folder = make_job(tmp_path / "run", decisions=(None,))
    tools(squeue="12|RUNNING|None|n1\n", scancel="")
    jobs.cancel(status(tmp_path / "run"))
    assert (folder / "cancelled").exists()
    assert status(tmp_path / "run").state == jobs.RUNNING
    tools(squeue=None)
    assert status(tmp_path / "run").state == jobs.CANCELLED


def test_without_accounting_the_controller_is_asked_how_a_job_ended(tmp_path, tools):
    make_job(tmp_path / "run", decisions=(None,))
    tools(scontrol="JobId=12 JobName=a JobState=TIMEOUT Reason=TimeLimit\n")
    assert (status(tmp_path / "run").state, status(tmp_path / "run").detail[:23]) == (
        jobs.GONE,
        "Slurm ended it (timeout",
    )


def test_a_job_that_was_submitted_anew_is_one_job(tmp_path, tools):
    folder = make_job(tmp_path / "run", decisions=("requeue",))
    attempt_folder(folder, job_id="13", restart=0).mkdir(parents=True)
    (folder / "job_id").write_text("13\n")
    (folder / "logs").mkdir()
    (folder / "logs" / "12_0_log.out").write_text("one\n")
    tools(squeue="13|RUNNING|None|n1\n")
    found = status(tmp_path / "run")
    assert (found.job_id, found.state, found.restarts) == ("13", jobs.RUNNING, 1)


def test_an_array_is_done_when_every_task_is(tmp_path, tools):
    make_job(tmp_path / "half", decisions=("done", "done"), array=3)
    make_job(tmp_path / "whole", decisions=("done", "done", "done"), array=3)
    make_job(tmp_path / "bad", decisions=("done", "stop", "done"), array=3)
    tools(squeue="12_2|RUNNING|None|n1\n")
    assert status(tmp_path / "half").state == jobs.RUNNING
    assert status(tmp_path / "whole").state == jobs.DONE
    assert (status(tmp_path / "bad").state, status(tmp_path / "bad").exit_code) == (jobs.FAILED, 1)


def test_a_job_that_has_not_begun_has_no_step(tmp_path, tools):
    make_job(tmp_path / "run")
    tools(squeue="12|PENDING|Resources|\n")
    assert (status(tmp_path / "run").step, status(tmp_path / "run").loss) == (None, None)


def test_progress_comes_from_the_run_directory(tmp_path, tools):
    run = tmp_path / "run"
    folder = make_job(run, decisions=(None,))
    rows = [{"step": 30, "loss": 0.5, "records_per_s": 40.0}, {"step": 40, "val_loss": 0.4}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 50, "lo')
    (run / "config.yaml").write_text("run: {dir: x}\ndata: {path: y}\ntrain: {steps: 100, global_batch_size: 8}\n")
    (folder / "logs").mkdir()
    (folder / "logs" / "12_0_log.out").write_text("first\nstep 30/100\n\n")
    tools(squeue="12|RUNNING|None|n1\n")
    found = status(run)
    assert (found.step, found.steps, found.loss, found.records_per_s) == (30, 100, 0.5, 40.0)
    assert found.eta_s == pytest.approx((100 - 30) * 8 / 40)
    assert (found.last_line, found.nodes) == ("step 30/100", "n1")


def test_following_passes_the_log_on_and_ends_with_the_job(tmp_path, tools):
    folder = make_job(tmp_path / "run", decisions=("done",))
    (folder / "logs").mkdir()
    (folder / "logs" / "12_0_log.out").write_text("one\ntwo\n")
    tools()
    heard: list[str] = []
    assert jobs.follow(folder, write=heard.append).state == jobs.DONE
    assert "".join(heard) == "one\ntwo\n"


def test_following_goes_on_in_the_log_of_a_job_submitted_anew(tmp_path, tools):
    folder = make_job(tmp_path / "run", decisions=("requeue",))
    (folder / "logs").mkdir()
    (folder / "logs" / "12_0_log.out").write_text("one\n")
    tools(squeue="12|RUNNING|None|n1\n")
    heard: list[str] = []

    def write(text):
        heard.append(text)
        if text == "one\n":
            (folder / "logs" / "12_0_log.out").write_text("one\nleft\n")
            (folder / "logs" / "13_0_log.out").write_text("two\n")
            (folder / "job_id").write_text("13\n")
            values = {"action": "done", "reason": "", "exit_code": 0}
            files.write_json(attempt_folder(folder, job_id="13", restart=0) / "decision.json", values)

    assert jobs.follow(folder, write=write, poll_s=0.01).state == jobs.DONE
    assert "".join(heard) == "one\nleft\ntwo\n"


def test_a_controller_that_does_not_answer_is_not_taken_for_the_end(tmp_path, tools):
    make_job(tmp_path / "run", decisions=(None,))
    tools(squeue=None, error="slurm_load_jobs error: Unable to contact slurm controller")
    with pytest.raises(LamaeError, match="Unable to contact"):
        status(tmp_path / "run")


def test_a_directory_without_jobs_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no job of 'lamae submit'"):
        jobs.find_jobs(tmp_path)


def test_jobs_forgets_what_is_gone_and_passes_over_what_it_cannot_read(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert jobs.find_jobs(None) == []
    job = make_job(tmp_path / "run")
    other = make_job(tmp_path / "other")
    (other / "submission.json").write_text('{"verb": "of another version"}')
    (tmp_path / "emptied").mkdir()
    for folder in (job, tmp_path / "gone", tmp_path / "emptied", other, job):
        registry.add(folder)
    assert jobs.find_jobs(None) == [job]


def test_a_copied_run_does_not_have_the_jobs_of_the_original(tmp_path):
    make_job(tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    with pytest.raises(UsageError, match="no job of 'lamae submit'"):
        jobs.find_jobs(tmp_path / "copy")
    assert len(jobs.find_jobs(tmp_path / "run")) == 1


def test_another_process_with_a_jobs_number_is_not_that_job(tmp_path):
    code = "import time; print(flush=True); time.sleep(60)"
    for folder, alive in ((tmp_path / "job", True), (tmp_path / "another", False)):
        command = [sys.executable, "-c", code, "submitit.local._local", str(folder / "logs")]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            assert jobs.local_alive(tmp_path / "job", str(process.pid)) is alive
            process.kill()
