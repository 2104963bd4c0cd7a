"""Jobs of two and four ranks, started when first needed and shared by all tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.distributed.launch import RankPool
from tests.runs import write_tiny_shards


@pytest.fixture(scope="session")
def two_ranks() -> Iterator[RankPool]:
    with RankPool(2) as pool:
        yield pool


@pytest.fixture(scope="session")
def four_ranks() -> Iterator[RankPool]:
    with RankPool(4) as pool:
        yield pool


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_shards(tmp_path_factory.mktemp("shards") / "set")
