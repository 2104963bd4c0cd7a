"""What an installation leaves where, and what Python then finds from which directory."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_packages_of_a_checkout_are_one_package_with_its_configurations():
    declared = subprocess.run(
        [sys.executable, "-c", "from setuptools import find_packages; print(*find_packages(include=['lamae*']))"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert {name.split(".")[0] for name in declared} == {"lamae"}
    assert {"lamae.sharding", "lamae.cluster", "lamae.benchmarks", "lamae.kernels"} <= set(declared)
    for name in ("sharding", "cluster", "benchmarks", "configs"):
        assert (ROOT / "lamae" / name).resolve() == ROOT / name


def test_a_strangers_packages_of_the_same_names_are_not_met(tmp_path):
    for name in ("sharding", "cluster", "benchmarks", "configs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('a stranger')\n")
    code = (
        "import lamae.cluster.job, lamae.sharding.format, lamae.benchmarks.result; from lamae.train import runconfig; "
    )
    code += "print(runconfig.load('tiny', ['run.dir=r', 'data.path=d']).train.steps)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 0
