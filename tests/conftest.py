"""Fixtures that several houses share."""

import os
from pathlib import Path

import pytest

DATA_HINT = "real recordings not found: put them at ../shared/data or set LAMAE_TEST_DATA"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real 12-lead recordings; absent on a user's machine (skip), never in CI (failure)."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get("LAMAE_TEST_DATA", default))
    if not (path / "manifest.csv").is_file():
        if os.environ.get("CI"):
            pytest.fail(DATA_HINT)
        pytest.skip(DATA_HINT)
    return path
