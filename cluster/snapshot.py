"""The code of a job as it was when the job was submitted: editing the checkout must not change a queued job."""

import shutil
from pathlib import Path

import lamae
from lamae.base import files
from lamae.base.revision import REVISION_NAME, describe_code


def copy_code(destination: Path) -> None:
    """Copy the package this process would import into ``destination``, to be put first on the nodes' PYTHONPATH.

    Git does not know the copy: which revision it is of is noted beside it, for the manifests of runs.
    """
    source = Path(lamae.__file__).parent  # a checkout's links become folders of the copy
    shutil.copytree(source, destination / "lamae", ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    files.write_json(destination / REVISION_NAME, describe_code())
