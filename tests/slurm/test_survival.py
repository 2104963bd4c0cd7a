"""Whatever the cluster does to a run, it ends where the uninterrupted run ends, having seen each record once.

Each test submits a run of two nodes to a real Slurm, does something to it in mid-flight, and compares the whole loss
curve with that of a run left alone: bit for bit where the number of ranks is the same.
"""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lamae.base.revision import describe_code
from lamae.cluster.submission import list_attempts, read_reports
from lamae.train.runconfig import load
from tests.slurm.minicluster import MiniCluster, wait_until
from tests.slurm.runs import END_S, LAMAE, STEPS, Run, Submit

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]

# One rank adds up what two ranks add up, in another order and in fp32.
ELASTIC_BOUND = 1e-4


def assert_same_run(run: Run, reference: Run) -> None:
    assert run.curve() == reference.curve()
    assert tensorboard_steps(run.dir) == list(range(1, STEPS + 1))


def tensorboard_steps(run_dir: Path) -> list[int]:
    events = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return [event.step for event in events.Scalars("loss/train")]


def test_a_run_left_alone_is_done(uninterrupted):
    assert [step for step, _, _ in uninterrupted.curve()] == list(range(1, STEPS + 1))
    assert tensorboard_steps(uninterrupted.dir) == list(range(1, STEPS + 1))
    assert uninterrupted.decisions() == [
        {**uninterrupted.decisions()[0], "action": "done", "exit_code": 0, "step": STEPS}
    ]


def test_a_run_knows_its_revision_and_the_notice_it_gets(uninterrupted: Run):
    manifest = json.loads((uninterrupted.dir / "manifest.json").read_text())
    assert manifest["code"] == describe_code()  # of the checkout, not of the copy that it ran from
    assert (uninterrupted.folder / "code" / "REVISION.json").is_file()
    assert load(uninterrupted.dir / "config.yaml").checkpoint.notice_s == 119


def test_time_limit(submit: Submit, slurm: MiniCluster, uninterrupted: Run):
    run = submit("time-limit")
    with run.paused_at(10):
        # Shorten the limit so that the signal that comes 119 s before it is due now; lift it for the restart.
        start = slurm.run(["squeue", "--noheader", f"--jobs={run.job_id}", "--format=%S"]).strip()
        elapsed_min = (time.time() - time.mktime(time.strptime(start, "%Y-%m-%dT%H:%M:%S"))) / 60
        slurm.run(["scontrol", "update", f"JobId={run.job_id}", f"TimeLimit={int(elapsed_min) + 2}"])
        run.wait_for_log("passing SIGUSR2 on")
    run.wait_for_restart()
    slurm.run(["scontrol", "update", f"JobId={run.job_id}", "TimeLimit=30"])
    run.wait_done()
    first = run.decisions()[0]
    assert (first["action"], first["is_failure"]) == ("requeue", False)
    assert_same_run(run, uninterrupted)


def test_requeue_by_an_administrator(submit: Submit, slurm: MiniCluster, uninterrupted: Run):
    run = submit("requeue")
    with run.paused_at(10):
        shown = slurm.run([*LAMAE, "jobs", str(run.dir)], env={"COLUMNS": "200"})
        slurm.run(["scontrol", "requeue", run.job_id])
        run.wait_for_restart()
    assert "running" in shown
    assert "n[1-2]" in shown
    run.wait_done()
    assert_same_run(run, uninterrupted)


def test_preemption_by_a_partition_of_higher_priority(submit: Submit, slurm: MiniCluster, uninterrupted: Run):
    run = submit("preemption")
    with run.paused_at(10):
        slurm.run(["sbatch", "--partition=high", "--nodes=3", "--exclusive", "--output=/dev/null", "--wrap=sleep 2"])
        run.wait_for_restart()
    run.wait_done()
    assert_same_run(run, uninterrupted)


@pytest.mark.parametrize("rank", [0, 1])
def test_one_rank_killed(rank: int, submit: Submit, uninterrupted: Run):
    run = submit(f"rank-{rank}-killed")
    run.wait_for_step(10)
    os.kill(run.rank_pid(rank), signal.SIGKILL)
    run.wait_done()
    first = run.decisions()[0]
    failing_node = f"n{rank + 1}"
    assert (first["action"], first["failing_node"], first["is_failure"]) == ("requeue", failing_node, True)
    assert failing_node not in hosts_of_last_attempt(run)
    assert_same_run(run, uninterrupted)


def test_the_program_that_watches_a_nodes_ranks_killed(submit: Submit, uninterrupted: Run):
    run = submit("watcher-killed")
    run.wait_for_step(10)
    os.kill(parent_of(run.rank_pid(1)), signal.SIGKILL)
    run.wait_done()
    first = run.decisions()[0]
    assert (first["action"], first["failing_node"], first["reason"][:17]) == ("requeue", "n2", "no report from n2")
    assert_same_run(run, uninterrupted)


def test_a_job_that_slurm_suspends_goes_on_when_it_is_resumed(submit: Submit, slurm: MiniCluster, uninterrupted: Run):
    """Suspended for longer than its watchdog would wait for a step."""
    run = submit("suspended", "monitor.hang_floor_s=10", "monitor.hang_factor=1")
    run.wait_for_step(10)
    slurm.run(["scontrol", "suspend", run.job_id])
    time.sleep(15)
    slurm.run(["scontrol", "resume", run.job_id])
    run.wait_done()
    assert [entry["action"] for entry in run.decisions()] == ["done"]
    assert_same_run(run, uninterrupted)


def test_a_hang(submit: Submit, uninterrupted: Run):
    """Noticed by the trainer's watchdog (exit code 76) or, where that sleeps between steps, by the node's program."""
    run = submit("hang", "monitor.hang_floor_s=20", "monitor.hang_factor=5", profile=("nodes=2", "stall_s=90"))
    run.wait_for_step(10)
    os.kill(run.rank_pid(1), signal.SIGSTOP)
    run.wait_done()
    first = run.decisions()[0]
    assert first["action"] == "requeue"
    watchdogs = run.dir / "hang-rank-00000.txt"
    if "exit code 76" in first["reason"]:
        stacks = watchdogs.read_text()
    else:
        stacks = (run.folder / "logs" / f"{run.job_id}_0_log.out").read_text()
        assert "no progress for 90 s" in stacks
        assert not watchdogs.exists()
    assert "lamae/train/loop.py" in stacks  # where rank 0 was waiting
    assert_same_run(run, uninterrupted)


def parent_of(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("PPid:")[1].split()[0])


def test_a_signal_to_one_rank(submit: Submit, uninterrupted: Run):
    run = submit("signal")
    run.wait_for_step(10)
    os.kill(run.rank_pid(1), signal.SIGUSR1)
    run.wait_for_restart()
    run.wait_done()
    assert_same_run(run, uninterrupted)


def test_a_site_that_does_not_requeue(submit: Submit, uninterrupted: Run):
    run = submit("no-requeue", profile=("nodes=2", "slurm={no-requeue: true}"))
    first_id = run.job_id
    run.wait_for_step(10)
    os.kill(run.rank_pid(1), signal.SIGKILL)
    run.wait_done()
    assert run.job_id != first_id
    assert [decision["action"] for decision in run.decisions()] == ["requeue", "done"]
    assert "n2" not in hosts_of_last_attempt(run)
    assert_same_run(run, uninterrupted)


def test_cancelled_and_submitted_again(submit: Submit, slurm: MiniCluster, uninterrupted: Run):
    run = submit("cancelled")
    with run.paused_at(10):
        slurm.run([*LAMAE, "jobs", str(run.dir), "--cancel"])
    slurm.wait_idle()
    assert "cancelled" in slurm.run([*LAMAE, "jobs", str(run.dir)], env={"COLUMNS": "200"})
    assert len(list_attempts(run.folder)) == 1
    again = submit("cancelled")
    again.wait_done()
    assert again.folder.name == "002"
    assert_same_run(again, uninterrupted)


def test_ranks_that_share_a_node_and_its_gpus(submit: Submit, slurm: MiniCluster, uninterrupted: Run):
    run = submit("gpus", "train.stop_at=3", profile=("nodes=1", "gpus_per_node=2"))
    run.wait_done()
    assert slurm.job(run.job_id)["TresPerNode"] == "gres:gpu:2"
    assert run.curve() == uninterrupted.curve()[:3]


@pytest.mark.parametrize("node", ["n1", "n2"])
def test_a_node_loses_power(node: str, submit: Submit, slurm: MiniCluster, uninterrupted: Run):
    run = submit(f"power-{node}")
    run.wait_for_step(10)
    slurm.power_off(node)
    try:
        run.wait_for_restart()
        wait_until(run.last_decision, "an end without the node", timeout_s=END_S, describe=run.describe)
        assert node not in hosts_of_last_attempt(run)
    finally:
        slurm.power_on(node)
    run.wait_done()
    assert_same_run(run, uninterrupted)


def test_a_node_loses_its_network(submit: Submit, slurm: MiniCluster, uninterrupted: Run):
    run = submit("network")
    run.wait_for_step(10)
    slurm.cut_off("n2")
    try:
        run.wait_for_restart()
        wait_until(run.last_decision, "an end without the node", timeout_s=END_S, describe=run.describe)
        assert hosts_of_last_attempt(run) == {"n1", "n3"}
    finally:
        slurm.reconnect("n2")
    run.wait_done()
    assert_same_run(run, uninterrupted)


def hosts_of_last_attempt(run: Run) -> set[str]:
    return {report.host for report in read_reports(list_attempts(run.folder)[-1])}


def test_fewer_nodes_after_a_restart_then_more(submit: Submit, slurm: MiniCluster, uninterrupted: Run):
    run = submit("elastic", profile=("nodes=1-2",))
    with run.paused_at(10):
        slurm.run(["scontrol", "update", "NodeName=n2,n3", "State=DRAIN", "Reason=test"])
        slurm.run(["scontrol", "requeue", run.job_id])
        run.wait_for_restart()
    try:
        run.wait_for_step(25)
    finally:
        slurm.run(["scontrol", "update", "NodeName=n2,n3", "State=RESUME"])
    slurm.run(["scontrol", "requeue", run.job_id])
    run.wait_for_restart(2)
    run.wait_done()
    assert [len(list(attempt.glob("node-*.json"))) for attempt in list_attempts(run.folder)] == [2, 1, 2]
    ours, reference = run.curve(), uninterrupted.curve()
    assert [row[:2] for row in ours] == [row[:2] for row in reference]
    assert [row[2] for row in ours] == pytest.approx([row[2] for row in reference], rel=ELASTIC_BOUND)
    assert tensorboard_steps(run.dir) == list(range(1, STEPS + 1))
