"""A shard set and a model small enough to train for some steps in a second."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lamae.train.runconfig import RunConfig
from tests.runs import tiny_config, write_tiny_shards


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_shards(tmp_path_factory.mktemp("shards") / "set")


@pytest.fixture
def make_config(shards: Path, tmp_path: Path) -> Callable[..., RunConfig]:
    """``make_config("name", "train.steps=3")``: a configuration whose run directory is ``tmp_path / "name"``."""

    def make(name: str, *overrides: str) -> RunConfig:
        return tiny_config(shards, tmp_path / name, *overrides)

    return make
