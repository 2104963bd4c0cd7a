"""Several ranks started from one process: it does not leave before they have saved."""

import os
import pty
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lamae.base.place import LOOPBACK
from lamae.base.processes import free_port, train_locally
from lamae.train.checkpoint.format import list_checkpoints
from tests.runs import descendants, losses, suspend, tiny_config, wait_for_step, write_config, write_tiny_shards

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = """
import signal, sys
from pathlib import Path
from lamae.base.processes import train_locally
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have started these tests with it ignored
sys.exit(train_locally(sys.argv[1], [], num_processes=int(sys.argv[3]), log_path=Path(sys.argv[2])))
"""


def start(tmp_path: Path, *overrides: str, ranks: int = 2, prefix: tuple[str, ...] = ()) -> subprocess.Popen:
    """A run of many steps below ``tmp_path``, well on its way, in a session of its own."""
    config = tiny_config(write_tiny_shards(tmp_path / "set"), tmp_path / "run", "train.steps=100000", *overrides)
    path = write_config(config, tmp_path / "run.yaml")
    parent = subprocess.Popen(
        [*prefix, sys.executable, "-c", PROGRAM, str(path), str(tmp_path / "log"), str(ranks)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_for_step(parent, tmp_path / "run")
    return parent


def assert_ended_with_every_step_saved(parent: subprocess.Popen, run: Path) -> None:
    parent.wait(timeout=100)
    with pytest.raises(ProcessLookupError):  # nobody of the group is left behind
        os.killpg(parent.pid, 0)
    assert [info.step for info in list_checkpoints(run / "checkpoints")] == [max(losses(run))]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_whole_group_ends_it_with_every_step_saved(number: signal.Signals, tmp_path: Path) -> None:
    parent = start(tmp_path)
    os.killpg(parent.pid, number)
    assert_ended_with_every_step_saved(parent, tmp_path / "run")
    assert parent.returncode == (-signal.SIGINT if number == signal.SIGINT else 128 + number)


IMPATIENT = ("monitor.hang_factor=1", "monitor.hang_floor_s=10")


def test_suspended_ranks_go_on_when_they_wake_and_save_when_their_launcher_is_hung_up(tmp_path: Path) -> None:
    parent = start(tmp_path, *IMPATIENT)
    suspend(descendants(parent.pid), 13)
    wait_for_step(parent, tmp_path / "run", max(losses(tmp_path / "run")) + 20)
    parent.send_signal(signal.SIGHUP)
    assert_ended_with_every_step_saved(parent, tmp_path / "run")
    assert not list((tmp_path / "run").glob("hang-*"))


def test_what_nohup_started_outlives_a_hang_up_and_a_suspension(tmp_path: Path) -> None:
    parent = start(tmp_path, *IMPATIENT, ranks=1, prefix=("nohup",))
    os.killpg(parent.pid, signal.SIGHUP)
    suspend(descendants(parent.pid), 13)
    wait_for_step(parent, tmp_path / "run", max(losses(tmp_path / "run")) + 20)
    os.killpg(parent.pid, signal.SIGTERM)
    assert_ended_with_every_step_saved(parent, tmp_path / "run")


def test_a_closed_terminal_saves_what_was_trained_in_it(tmp_path: Path) -> None:
    """The hang-up comes with a standard error that cannot be written any more."""
    run = tmp_path / "run"
    config = tiny_config(write_tiny_shards(tmp_path / "set"), run, "train.steps=100000")
    path = write_config(config, tmp_path / "run.yaml")
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ["PYTHONPATH"] = str(ROOT)
        os.execv(sys.executable, [sys.executable, "-m", "lamae", "train", str(path)])
    while max(losses(run), default=0) < 5:
        os.read(terminal, 1 << 16)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 75
    assert [info.step for info in list_checkpoints(run / "checkpoints")] == [max(losses(run))]


def test_what_all_ranks_refuse_is_said_once(tmp_path: Path) -> None:
    config = str(write_config(tiny_config(tmp_path / "nowhere", tmp_path / "run"), tmp_path / "run.yaml"))
    log = tmp_path / "log"
    assert train_locally(config, [], num_processes=2, log_path=log) == 2
    assert log.read_text().count("nowhere: no such directory") == 1


def test_a_free_port_is_none_that_an_outgoing_connection_may_get():
    least, most = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    ports = {free_port() for _ in range(50)}
    assert len(ports) > 1
    assert not [port for port in ports if least <= port <= most]


def test_a_free_port_is_none_that_somebody_listens_on(monkeypatch):
    with socket.socket() as listener:
        listener.bind((LOOPBACK, 0))
        listener.listen()
        taken = listener.getsockname()[1]
        monkeypatch.setattr(random.SystemRandom, "sample", lambda self, ports, k: [taken])
        assert free_port() != taken
