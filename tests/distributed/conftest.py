"""Jobs of two and four ranks, started when first needed and shared by all tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.distributed.launch import RankPool
from tests.runs import write_tiny_shards


def make_pool(world_size: int, folder: Path) -> Iterator[RankPool]:
    pool = RankPool(world_size, folder)
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankPool]:
    yield from make_pool(2, tmp_path_factory.mktemp("two-ranks"))


@pytest.fixture(scope="session")
def four_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankPool]:
    yield from make_pool(4, tmp_path_factory.mktemp("four-ranks"))


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_shards(tmp_path_factory.mktemp("shards") / "set")
