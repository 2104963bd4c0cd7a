"""The code of a job as it was when the job was submitted: editing the checkout must not change a queued job."""

import importlib.util
import shutil
from pathlib import Path

from cluster.submission import write_json
from lamae.train.revision import REVISION_NAME, describe_code

PACKAGES = ("lamae", "sharding", "cluster", "configs", "benchmarks")


def copy_code(destination: Path) -> None:
    """Copy the packages this process would import into ``destination``, to be put first on the nodes' PYTHONPATH.

    Git does not know the copy: which revision it is of is noted beside it, for the manifests of runs.
    """
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            continue
        source = Path(next(iter(spec.submodule_search_locations)))
        shutil.copytree(source, destination / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    write_json(destination / REVISION_NAME, describe_code())
