"""Ranks for tests: Python processes that form a job on this machine, started once and used by many tests.

Starting a rank costs seconds of imports, so a ``RankPool`` keeps its ranks and calls functions on them.
"""

import importlib
import os
import pickle
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from lamae.launch import free_port

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 200


def rank_environment(rank: int, world_size: int, port: int) -> dict[str, str]:
    """The environment torchrun would give a rank."""
    return os.environ | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }


class RankPool:
    """``world_size`` processes that call functions of importable modules, all ranks the same one at a time."""

    def __init__(self, world_size: int, folder: Path) -> None:
        self.world_size = world_size
        self._folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self._calls = 0

    def call(self, module: str, function: str, **arguments: Any) -> list[Any]:
        """``module.function(**arguments)`` on every rank; the results in rank order.

        Raises AssertionError with the traceback where a rank raised, died or hung; the next call gets new ranks.
        """
        if not self._processes:
            self._start()
        self._calls += 1
        call = self._folder / f"call-{self._calls}.pickle"
        call.write_bytes(pickle.dumps((module, function, arguments)))
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.write(f"{call}\n".encode())
            process.stdin.flush()
        outcomes = [self._await(call, rank) for rank in range(self.world_size)]
        problems = [f"rank {rank}: {problem}" for rank, (_, problem) in enumerate(outcomes) if problem]
        if problems:
            self.close()
            raise AssertionError("\n".join(problems))
        return [value for value, _ in outcomes]

    def _start(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        port = free_port()
        for rank in range(self.world_size):
            with (self._folder / f"rank-{rank}.log").open("ab") as output:
                self._processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "tests.distributed.launch"],
                        cwd=ROOT,
                        env=rank_environment(rank, self.world_size, port),
                        stdin=subprocess.PIPE,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                    )
                )

    def _await(self, call: Path, rank: int) -> tuple[Any, str]:
        result = _result_path(call, rank)
        deadline = time.monotonic() + TIMEOUT_S
        while not result.exists():
            log = self._folder / f"rank-{rank}.log"
            if self._processes[rank].poll() is not None:
                return None, f"died with {self._processes[rank].returncode}:\n{log.read_text()[-2000:]}"
            if time.monotonic() > deadline:
                return None, f"no result after {TIMEOUT_S} s:\n{log.read_text()[-2000:]}"
            time.sleep(0.01)
        value, problem = pickle.loads(result.read_bytes())
        return value, problem

    def close(self) -> None:
        """End the ranks."""
        for process in self._processes:
            process.kill()
            process.communicate()
        self._processes = []


def _result_path(call: Path, rank: int) -> Path:
    return call.with_name(f"{call.stem}-rank-{rank}.pickle")


def _serve() -> None:
    """A rank: carry out the calls named on standard input until it ends."""
    rank = int(os.environ["RANK"])
    for line in sys.stdin:
        call = Path(line.strip())
        module, function, arguments = pickle.loads(call.read_bytes())
        try:
            outcome = (getattr(importlib.import_module(module), function)(**arguments), "")
        except Exception:
            outcome = (None, traceback.format_exc())
        result = _result_path(call, rank)
        unfinished = result.with_suffix(".writing")
        unfinished.write_bytes(pickle.dumps(outcome))
        unfinished.rename(result)


if __name__ == "__main__":
    _serve()
