"""Who a process is, from what launchers say."""

import dataclasses
import os
import subprocess
import sys

import pytest
import torch

from lamae.base.errors import LamaeError, UsageError
from lamae.base.place import Place, find_place, prints_error
from lamae.train.ranks import distributed
from lamae.train.ranks.flags import FlagExchange, StopSignals

MASTER = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29400"}
SRUN = {
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "8",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
}


@pytest.mark.parametrize(
    ("environ", "place"),
    [
        ({}, Place(0, 0, 1, 1, "127.0.0.1", 0)),
        (
            {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", **MASTER},
            Place(3, 1, 4, 2, "10.0.0.1", 29400),
        ),
        (SRUN | MASTER, Place(5, 1, 8, 4, "10.0.0.1", 29400)),
        # A batch script's own variables, without srun: one rank, not the first of eight that never come.
        ({"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "8"}, Place(0, 0, 1, 1, "127.0.0.1", 0)),
    ],
    ids=["alone", "torchrun", "srun", "batch-script"],
)
def test_a_process_finds_its_place(environ: dict[str, str], place: Place) -> None:
    assert find_place(environ) == place


def test_a_launcher_that_names_no_meeting_point_is_refused() -> None:
    with pytest.raises(UsageError, match=r"8 ranks, but MASTER_ADDR and MASTER_PORT are not set"):
        find_place(SRUN)


def test_alone_a_process_leaves_the_environment_to_its_children() -> None:
    program = (
        "import os; from lamae.train.ranks import distributed\n"
        "ranks = distributed.start(timeout_s=30, num_threads=1)\n"
        "assert ranks.gather(1) == [1] and ranks.share('x') == 'x' and ranks.is_main\n"
        "print([name for name in ('RANK', 'WORLD_SIZE', 'MASTER_PORT') if name in os.environ])"
    )
    environ = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    done = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_rank_0_refuses_is_refused() -> None:
    ranks = distributed.start(timeout_s=30, num_threads=1)

    def refuse() -> int:
        raise LamaeError("no")

    with pytest.raises(LamaeError, match="no"):
        ranks.decide(refuse)
    assert ranks.decide(lambda: 3) == 3


def test_what_rank_0_refuses_is_its_to_print(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = distributed.start(timeout_s=30, num_threads=1)
    other = dataclasses.replace(alone, rank=1, world_size=2)
    monkeypatch.setattr(distributed.Ranks, "share", lambda self, value: LamaeError("no"))
    with pytest.raises(LamaeError, match="no") as caught:
        other.decide(lambda: 3)
    assert not prints_error(caught.value, {"RANK": "1", "LOCAL_RANK": "0"})


def test_flags_are_read_one_exchange_later() -> None:
    flags = FlagExchange(distributed.start(timeout_s=30, num_threads=1), num_flags=2)
    assert flags.exchange([1, 0]) is None
    assert flags.exchange([0, 7]) == [1, 0]
    assert flags.exchange([0, 0]) == [0, 7]
    flags.close()


def test_stop_signals_are_remembered_and_handlers_given_back() -> None:
    import signal

    before = signal.getsignal(signal.SIGUSR1)
    with StopSignals() as signals:
        assert signals.received == 0
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == signal.SIGUSR1
    assert signal.getsignal(signal.SIGUSR1) is before


def test_threads_are_set_and_shared_out() -> None:
    distributed.start(timeout_s=30, num_threads=2)
    assert torch.get_num_threads() == 2
    distributed.start(timeout_s=30, num_threads=1)
    assert torch.get_num_threads() == 1
