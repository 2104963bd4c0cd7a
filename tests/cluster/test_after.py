"""How a job is put back in the queue: when, without which node, and how where the site does not requeue."""

import pytest

from lamae.base.errors import LamaeError
from lamae.cluster import after, slurm
from lamae.cluster.policy import REQUEUE, Decision
from lamae.cluster.profile import Profile
from lamae.cluster.submission import Submission

SAVED = Decision(REQUEUE, "saved")


class Told(list):
    """What the scheduler was told, and the job it holds."""

    job: dict[str, str]
    folder: object


@pytest.fixture
def scheduler(monkeypatch, tmp_path):
    """Stands in for Slurm with nodes n1 to n3 in one partition; gives the list of what it was told."""
    told = Told()
    told.folder = tmp_path
    told.job = {"Partition": "gpu", "NumNodes": "2", "ExcNodeList": "(null)", "Requeue": "1", "JobState": "RUNNING"}
    monkeypatch.setattr(slurm, "job_fields", lambda job_id: told.job)
    monkeypatch.setattr(slurm, "expand_nodes", lambda text: [] if text in ("", "(null)") else text.split(","))
    monkeypatch.setattr(slurm, "usable_nodes", lambda partition: {"n1", "n2", "n3"})
    monkeypatch.setattr(slurm, "requeue", lambda job_id: told.append(("requeue", job_id)))
    monkeypatch.setattr(slurm, "update", lambda job_id, fields: told.append(("update", *fields.items())))

    def send(folder, profile, jobs):
        told.append(("sbatch", profile.exclude, profile.slurm))
        return "8"

    monkeypatch.setattr(after, "send", send)
    (tmp_path / "job_id").write_text("7\n")
    return told


def put_back(scheduler, decision, *, array=(), **profile):
    submission = Submission("train", ["-c", ""], Profile(**profile), array=list(array))
    after.put_back("7", scheduler.folder, submission, decision)
    return (scheduler.folder / "job_id").read_text().strip()


def test_a_saved_run_goes_back_as_it_was(scheduler):
    assert put_back(scheduler, SAVED) == "7"
    assert scheduler == [("requeue", "7")]


def test_a_failure_waits_and_avoids_the_failing_node(scheduler):
    put_back(scheduler, Decision(REQUEUE, "killed", failing_node="n2", delay_s=60))
    assert scheduler == [("requeue", "7"), ("update", ("ExcNodeList", "n2"), ("StartTime", "now+60"))]


def test_the_failing_node_is_kept_where_too_few_nodes_would_be_left(scheduler):
    scheduler.job["ExcNodeList"] = "n1"
    put_back(scheduler, Decision(REQUEUE, "killed", failing_node="n2"))
    assert scheduler == [("requeue", "7")]


def test_the_job_is_put_back_although_the_controller_cannot_say_what_it_needs(scheduler):
    scheduler.job.clear()
    put_back(scheduler, Decision(REQUEUE, "killed", failing_node="n2", delay_s=60))
    assert scheduler == [("requeue", "7"), ("update", ("StartTime", "now+60"))]


def test_exclusions_add_up_and_can_be_switched_off(scheduler):
    scheduler.job |= {"ExcNodeList": "n1", "NumNodes": "1-2"}
    put_back(scheduler, Decision(REQUEUE, "killed", failing_node="n2"))
    assert scheduler == [("requeue", "7"), ("update", ("ExcNodeList", "n1,n2"))]
    put_back(scheduler, Decision(REQUEUE, "killed", failing_node="n3"), exclude_failing_nodes=False)
    assert scheduler[2:] == [("requeue", "7")]


def test_where_jobs_are_not_requeued_the_job_is_submitted_anew_when_the_old_one_has_left(scheduler):
    scheduler.job |= {"Requeue": "0", "ExcNodeList": "n3", "NumNodes": "1"}
    decision = Decision(REQUEUE, "killed", failing_node="n2", delay_s=60)
    assert put_back(scheduler, decision, slurm={"nice": 3}, exclude="n3") == "8"
    assert scheduler == [("sbatch", "n2,n3", {"nice": 3, "dependency": "afterany:7", "begin": "now+60"})]


def test_a_requeue_that_is_refused_becomes_a_new_job(scheduler, monkeypatch):
    def refuse(job_id):
        raise LamaeError("scontrol requeue 7: Requested operation is presently disabled")

    monkeypatch.setattr(slurm, "requeue", refuse)
    assert put_back(scheduler, SAVED) == "8"
    assert scheduler == [("sbatch", None, {"dependency": "afterany:7"})]


def test_what_slurm_has_put_back_itself_is_left_alone(scheduler, monkeypatch):
    def refuse(*_):
        scheduler.job["JobState"] = "PENDING"
        raise LamaeError("scontrol requeue 7: Job is pending execution")

    monkeypatch.setattr(slurm, "requeue", refuse)
    assert put_back(scheduler, SAVED) == "7"
    assert scheduler == []


def test_a_requeued_job_that_cannot_be_changed_is_requeued_all_the_same(scheduler, monkeypatch):
    def refuse(*_):
        raise LamaeError("scontrol update JobId=7 StartTime=now+60: Access/permission denied")

    monkeypatch.setattr(slurm, "update", refuse)
    assert put_back(scheduler, Decision(REQUEUE, "killed", delay_s=60)) == "7"
    assert scheduler == [("requeue", "7")]


def test_a_controller_that_does_not_answer_is_asked_again(scheduler, monkeypatch):
    told = iter([slurm.UnreachableError("no answer"), slurm.UnreachableError("no answer"), None])

    def requeue(job_id):
        if error := next(told):
            raise error
        scheduler.append(("requeue", job_id))

    monkeypatch.setattr(slurm, "requeue", requeue)
    monkeypatch.setattr(after, "PAUSES_S", (0, 0))
    after._retry(lambda: put_back(scheduler, SAVED))
    assert scheduler == [("requeue", "7")]


def test_a_task_of_an_array_is_not_submitted_anew(scheduler):
    scheduler.job["Requeue"] = "0"
    with pytest.raises(LamaeError, match="a task of an array"):
        put_back(scheduler, SAVED, array=[["-c", ""]])
    assert scheduler == []


def test_a_job_that_the_user_cancelled_is_left_alone(scheduler):
    scheduler.job |= {"JobState": "CANCELLED", "Requeue": "0"}
    with pytest.raises(LamaeError, match="cancelled"):
        put_back(scheduler, SAVED)
    assert scheduler == []
