"""Starts the ranks of a job on this machine, each a Python process that runs a function of a test module."""

import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lamae.train.distributed import free_port

ROOT = Path(__file__).resolve().parents[2]


def rank_environment(rank: int, world_size: int, port: int) -> dict[str, str]:
    """The environment torchrun would give a rank, without torchrun's seconds."""
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


def start_ranks(world_size: int, arguments: Sequence[str], **options: Any) -> list["subprocess.Popen[bytes]"]:
    """Start ``python ARGUMENTS`` once per rank; the caller waits."""
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=rank_environment(rank, world_size, port),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            **options,
        )
        for rank in range(world_size)
    ]


def wait_ranks(processes: Sequence["subprocess.Popen[bytes]"], *, timeout_s: float = 200) -> list[tuple[int, str]]:
    """(exit code, output) of each rank; no rank outlives this call."""
    try:
        return [
            (process.wait(), output.decode(errors="replace"))
            for process in processes
            for output, _ in [process.communicate(timeout=timeout_s)]
        ]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()


def run_ranks(world_size: int, module: str, function: str, folder: Path, **arguments: Any) -> list[Any]:
    """Call ``module.function(**arguments)`` on every rank and give the results in rank order.

    Raises AssertionError with the output of the ranks that failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    call = folder / "call.pickle"
    call.write_bytes(pickle.dumps((module, function, arguments)))
    finished = wait_ranks(start_ranks(world_size, ["-m", "tests.distributed.launch", str(call)]))
    failed = [f"rank {rank} exited with {code}:\n{out}" for rank, (code, out) in enumerate(finished) if code]
    assert not failed, "\n".join(failed)
    return [pickle.loads((folder / f"result-{rank}.pickle").read_bytes()) for rank in range(world_size)]


def _main(call: Path) -> None:
    import importlib

    module, function, arguments = pickle.loads(call.read_bytes())
    result = getattr(importlib.import_module(module), function)(**arguments)
    (call.parent / f"result-{os.environ['RANK']}.pickle").write_bytes(pickle.dumps(result))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
