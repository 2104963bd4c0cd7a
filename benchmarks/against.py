"""A benchmark of this tree beside the same one of another revision, in turns.

The other revision is unpacked into a temporary folder and its own command line measures its own code there, each time
in a process of its own; so do we. A round is one run of each, in an order drawn anew, and gives the ratio of every
measurement that both results have. Floors (``memcpy``, ``plain_write``) run the same code on both sides: how far their
ratios are from 1 shows how steady the machine was.
"""

import io
import os
import random
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lamae.base.errors import LamaeError, UsageError
from lamae.base.progress import Progress, ignore
from lamae.benchmarks.result import BENCHMARKS, describe_result, read_result
from lamae.benchmarks.timing import Ratio, ratio_entries, spread

ROOT = Path(__file__).resolve().parents[1]
HERE, THERE = "here", "there"


def run_against(
    revision: str, name: str, arguments: Sequence[str] = (), *, rounds: int, progress: Progress = ignore
) -> dict[str, Any]:
    """``lamae bench NAME ARGUMENTS`` here and at a git revision: a result whose ratios are ours over theirs.

    Raises UsageError where there is no such revision or benchmark, LamaeError where one of the runs fails.
    """
    if name not in BENCHMARKS:
        raise UsageError(f"no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    commit = _git("rev-parse", "--verify", f"{revision}^{{commit}}").decode().strip()
    draw = random.Random(0)
    results: dict[str, list[dict[str, Any]]] = {HERE: [], THERE: []}
    with tempfile.TemporaryDirectory(prefix="lamae-against-") as scratch:
        there = Path(scratch) / "tree"
        with tarfile.open(fileobj=io.BytesIO(_git("archive", commit))) as tar:
            tar.extractall(there, filter="tar")
        trees = {HERE: ROOT, THERE: there}
        for number in range(rounds):
            for position, side in enumerate(draw.sample(list(trees), k=2)):
                progress(f"{name} {side}", 2 * number + position, 2 * rounds)
                results[side].append(_measure(trees[side], name, arguments, Path(scratch) / "result.json"))
        progress(name, 2 * rounds, 2 * rounds)
    rates = {side: _rates(results[side]) for side in results}
    return {
        **describe_result(f"{name} against {commit[:7]}", quick=results[HERE][0]["quick"]),
        "wall_s": round(sum(result["wall_s"] for side in results.values() for result in side), 1),
        "settings": {**results[HERE][0].get("settings", {}), "rounds": rounds, "against": commit},
        "measurements": {
            f"{measurement} {side}": spread(values) for side in results for measurement, values in rates[side].items()
        },
        **ratio_entries(
            {
                measurement: Ratio(tuple(a / b for a, b in zip(ours, rates[THERE][measurement], strict=True)))
                for measurement, ours in rates[HERE].items()
                if measurement in rates[THERE]
            }
        ),
    }


def _measure(tree: Path, name: str, arguments: Sequence[str], json: Path) -> dict[str, Any]:
    """One run of a benchmark by the code in ``tree``."""
    command = [sys.executable, "-m", "lamae", "bench", name, *arguments, "--json", str(json)]
    done = subprocess.run(command, cwd=tree, env=os.environ | {"PYTHONPATH": str(tree)}, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise LamaeError(f"{' '.join(command[2:])}, of the code in {tree}, failed: {' '.join(last)}")
    return read_result(json)


def _rates(results: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """The median rate of each measurement that every round has."""
    names = set.intersection(*(set(result["measurements"]) for result in results))
    return {
        name: [result["measurements"][name]["per_s"] for result in results]
        for name in results[0]["measurements"]
        if name in names and "per_s" in results[0]["measurements"][name]
    }


def _git(*arguments: str) -> bytes:
    try:
        return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, check=True).stdout
    except OSError as error:
        raise UsageError(f"git is needed to fetch the other revision: {error.strerror}") from None
    except subprocess.CalledProcessError as error:
        raise UsageError(f"{ROOT}: git {arguments[0]} says: {error.stderr.decode(errors='replace').strip()}") from None
