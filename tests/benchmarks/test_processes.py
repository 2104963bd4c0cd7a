"""Benchmarks as processes: under a launcher their ranks are the launcher's, and nothing outlives who asked for it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lamae.base.errors import LamaeError, UsageError
from lamae.benchmarks import rankstep, scaling
from lamae.benchmarks.ranks import RankPool
from lamae.cli import app as cli

ROOT = Path(__file__).parents[2]


def test_scaling_under_torchrun_is_that_of_its_ranks(tmp_path):
    out = tmp_path / "scaling.json"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1"]
    words = ["bench", "scaling", "--quick", "--zero", "1", "--mode", "weak,strong", "--json", str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "200"}
    done = subprocess.run(
        [*launcher, "-m", "lamae", *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("weak_1_2_zero1") == 1  # one rank speaks
    result = json.loads(out.read_text())
    assert (result["settings"]["processes"], result["settings"]["nodes"]) == ([1, 2], 1)
    assert result["settings"]["interface"] == "lo"
    together = result["measurements"]["zero1_2_processes_8_records"]
    assert together["sent_bytes_per_rank"]["collectives"] == pytest.approx(
        together["sent_bytes_per_rank"]["computed"], rel=0.01
    )
    assert together["phase_s"]["communication"] > 0


def test_a_killed_benchmark_takes_its_processes_and_folders_along(tmp_path):
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-m", "lamae", "bench", "all", "--quick"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    until = time.monotonic() + 60
    while not list(tmp_path.glob("lamae-bench-*/source")) and time.monotonic() < until:
        time.sleep(0.05)
    assert list(tmp_path.glob("lamae-bench-*/source"))
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)  # returns once everything that it started has let go of the pipe too
    assert list(tmp_path.glob("lamae-bench-*")) == []


OWNER = """
import time
from lamae.benchmarks.ranks import RankPool
from tests.benchmarks.test_processes import work_on

if __name__ == "__main__":
    with RankPool(1, pin=False) as pool:
        print("started", flush=True)
        pool.call(work_on)
"""


def work_on(_session):
    time.sleep(300)


def test_a_killed_owner_takes_ranks_along_that_are_at_work():
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", OWNER], cwd=ROOT, env=environment, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"started\n"
    time.sleep(1)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)


def end_abruptly(_session):
    os._exit(3)


def refuse_on_one(session):
    rankstep.join(session)
    if session["ranks"].rank == 1:
        raise ValueError("no such thing")
    session["ranks"].barrier()


def double(_session, *, number):
    return 2 * number


@pytest.mark.parametrize(
    ("function", "told"), [(refuse_on_one, "rank . of 2: "), (end_abruptly, "rank . of 2: the process ended with 3")]
)
def test_a_rank_that_fails_or_dies_is_told_soon_and_ends_the_job(function, told):
    with RankPool(2, pin=False, use_gpus=False) as pool:
        assert pool.call(double, number=4) == [8, 8]
        began = time.monotonic()
        with pytest.raises(LamaeError, match=told):
            pool.call(function)
        assert time.monotonic() - began < 60  # and not only when the other's patience ends
        with pytest.raises(LamaeError, match="the 2 ranks of this job have ended"):
            pool.call(double, number=4)


def test_a_late_answer_is_nobodys():
    with RankPool(1, pin=False, use_gpus=False, timeout_s=3) as pool:
        with pytest.raises(LamaeError, match="rank 0 of 1: no answer in time"):
            pool.call(work_on)
        with pytest.raises(LamaeError, match="have ended"):
            pool.call(double, number=4)


def test_a_steps_phases_sum_to_the_step():
    with RankPool(1, pin=False, use_gpus=False) as pool:
        settings = ["train.global_batch_size=4", "train.micro_batch_size=4"]
        pool.call(rankstep.open_steps, config="configs/pretrain/tiny.yaml", overrides=settings)
        [cost] = pool.call(rankstep.time_steps, num_steps=3)
    assert sum(cost.phase_s.values()) == pytest.approx(cost.seconds, rel=0.03)
    assert cost.phase_s["forward"] > 0
    assert cost.phase_s["backward"] > 0


class FakeRanks:
    """Four processes on two machines, of which each sees some GPUs."""

    world_size, local_world_size, rank, local_rank = 4, 2, 0, 0

    def __init__(self, *gpus):
        self._gpus = gpus

    def gather(self, _value):
        return [(rank - rank % 2, list(gpus)) for rank, gpus in enumerate(self._gpus)]


@pytest.mark.parametrize(
    ("gpus", "use_gpus"),
    [
        (["ab", "ab", "cd", "cd"], True),  # every process sees all of its machine
        (["a", "b", "c", "d"], True),  # each its own
        (["a", "a", "c", "c"], False),  # both the same
        (["ab", "ab", "", ""], False),
        (["", "", "", ""], False),
    ],
)
def test_ranks_compute_on_gpus_where_each_has_one(gpus, use_gpus):
    hardware = scaling._Hardware.find(FakeRanks(*gpus), most=4)
    assert (hardware.use_gpus, hardware.num_nodes) == (use_gpus, 2)
    assert bool(hardware.notes) == (not use_gpus and any(gpus) and min(map(len, gpus)) > 0)


def test_only_scaling_is_of_several_processes(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1")
    for benchmark in ("loader", "all"):
        monkeypatch.setattr(sys, "argv", ["lamae", "bench", benchmark, "--quick"])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        assert caught.value.code == 2
        assert f"bench {benchmark} is of one process" in capsys.readouterr().err


def test_an_override_that_cannot_work_is_refused_before_ranks_start():
    with pytest.raises(UsageError, match="unknown key modell"):
        scaling.run(quick=True, overrides=["modell.width=3"])
    with pytest.raises(UsageError, match="huge"):
        scaling.run(quick=True, size="huge")
