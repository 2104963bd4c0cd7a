"""The code of a job as it was when the job was submitted: editing the checkout must not change a queued job."""

import importlib.util
import shutil
from pathlib import Path

PACKAGES = ("lamae", "sharding", "cluster", "configs", "benchmarks")


def copy_code(destination: Path) -> None:
    """Copy the packages this process would import into ``destination``, to be put first on the nodes' PYTHONPATH."""
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            continue
        source = Path(next(iter(spec.submodule_search_locations)))
        shutil.copytree(source, destination / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
