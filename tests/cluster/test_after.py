"""How a job is put back in the queue: when, and without which node."""

import pytest

from cluster import after, slurm
from cluster.policy import REQUEUE, Decision


class Told(list):
    """What the scheduler was told, and the job it holds."""

    job: dict[str, str]


@pytest.fixture
def scheduler(monkeypatch):
    """Stands in for Slurm with nodes n1 to n3 in one partition; gives the list of what it was told."""
    told = Told()
    job = {"Partition": "gpu", "NumNodes": "2", "ExcNodeList": "(null)"}
    monkeypatch.setattr(slurm, "job_fields", lambda job_id: job)
    monkeypatch.setattr(slurm, "expand_nodes", lambda text: [] if text == "(null)" else text.split(","))
    monkeypatch.setattr(slurm, "usable_nodes", lambda partition: {"n1", "n2", "n3"})
    monkeypatch.setattr(slurm, "requeue", lambda job_id: told.append(("requeue", job_id)))
    monkeypatch.setattr(slurm, "update", lambda job_id, fields: told.append(("update", *fields.items())))
    told.job = job
    return told


def test_a_saved_run_goes_back_as_it_was(scheduler):
    after.requeue("7", Decision(REQUEUE, "saved"), exclude_culprit=True)
    assert scheduler == [("requeue", "7")]


def test_a_failure_waits_and_avoids_the_culprit(scheduler):
    after.requeue("7", Decision(REQUEUE, "killed", culprit="n2", delay_s=60), exclude_culprit=True)
    assert scheduler == [("requeue", "7"), ("update", ("ExcNodeList", "n2"), ("StartTime", "now+60"))]


def test_the_culprit_is_kept_where_too_few_nodes_would_be_left(scheduler):
    scheduler.job["ExcNodeList"] = "n1"
    after.requeue("7", Decision(REQUEUE, "killed", culprit="n2"), exclude_culprit=True)
    assert scheduler == [("requeue", "7")]


def test_the_job_is_put_back_although_the_controller_cannot_say_what_it_needs(scheduler):
    scheduler.job.clear()
    after.requeue("7", Decision(REQUEUE, "killed", culprit="n2", delay_s=60), exclude_culprit=True)
    assert scheduler == [("requeue", "7"), ("update", ("StartTime", "now+60"))]


def test_exclusions_add_up_and_can_be_switched_off(scheduler):
    scheduler.job |= {"ExcNodeList": "n1", "NumNodes": "1-2"}
    after.requeue("7", Decision(REQUEUE, "killed", culprit="n2"), exclude_culprit=True)
    assert scheduler == [("requeue", "7"), ("update", ("ExcNodeList", "n1,n2"))]
    after.requeue("8", Decision(REQUEUE, "killed", culprit="n3"), exclude_culprit=False)
    assert scheduler[-1] == ("requeue", "8")
