"""``lamae doctor``: how gradients are compared, and how measurements are evaluated."""

import os
import subprocess
import sys

import pytest

from lamae.cluster import doctor

GOOD = {
    "world_size": 2,
    "device": "cpu",
    "parity_error": 1e-6,
    "clock_spread_s": 0.01,
    "bus_gb_per_s": 1.0,
    "latency_us": 100.0,
    "nodes": [
        {
            "host": "n1",
            "devices": [],
            "rename_replaces": True,
            "write_mb_per_s": 500.0,
            "free_gb": 100.0,
            "records_per_s": 5000.0,
        }
    ],
}


def results(findings):
    return {finding.check: finding.result for finding in findings}


def test_a_good_installation_passes_every_check():
    assert set(results(doctor.check_results(GOOD)).values()) == {doctor.PASS}


@pytest.mark.parametrize(
    ("change", "check", "result"),
    [
        ({"parity_error": 0.01}, "gradients against plain torch", doctor.FAIL),
        ({"parity_error": float("nan")}, "gradients against plain torch", doctor.FAIL),
        ({"clock_spread_s": 5.0}, "clocks", doctor.WARN),
        ({"nodes": [{**GOOD["nodes"][0], "rename_replaces": False}]}, "n1: rename replaces", doctor.FAIL),
        ({"nodes": [{**GOOD["nodes"][0], "write_mb_per_s": 5.0}]}, "n1: durable write", doctor.WARN),
        ({"nodes": [{**GOOD["nodes"][0], "free_gb": 1.0}]}, "n1: free space", doctor.WARN),
        ({"nodes": [{**GOOD["nodes"][0], "records_per_s": 10.0}]}, "n1: loader", doctor.WARN),
    ],
)
def test_each_shortcoming_is_seen_and_answered(change, check, result):
    [finding] = [finding for finding in doctor.check_results({**GOOD, **change}) if finding.check == check]
    assert finding.result == result
    assert finding.advice


# One rank compares its gradients as they are, then doubled, as a wrong division by the world size would leave them.
PARITY = """
from lamae.cluster import examination
from lamae.train.ranks import distributed
from lamae.train.engine import Engine

ranks = distributed.start(timeout_s=60, num_threads=1)
print(examination._measure_parity(ranks))
backward = Engine._backward
Engine._backward = lambda engine, loss: backward(engine, 2 * loss)
print(examination._measure_parity(ranks))
"""


def test_gradients_of_a_wrong_scale_are_seen_although_clipping_hides_them():
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    done = subprocess.run([sys.executable, "-c", PARITY], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    honest, doubled = (float(line) for line in done.stdout.splitlines()[-2:])
    assert honest <= doctor.PARITY_BOUND < doubled
