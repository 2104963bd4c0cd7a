"""A shard set of random samples for tests of the loader."""

import numpy as np
import pytest

from lamae.sharding.format import ShardSet
from tests.data.loading import NUM_RECORDS, NUM_SAMPLES
from tests.shardsets import random_adc, write_shard_set


@pytest.fixture(scope="module")
def adc() -> np.ndarray:
    return random_adc(NUM_RECORDS, NUM_SAMPLES)


@pytest.fixture(scope="module")
def shard_set(adc, tmp_path_factory) -> ShardSet:
    return ShardSet.open(write_shard_set(tmp_path_factory.mktemp("loader") / "set", adc, shard_size=8))


@pytest.fixture
def own_set(tmp_path, adc) -> ShardSet:
    """The same for one test, which may damage it."""
    return ShardSet.open(write_shard_set(tmp_path / "set", adc, shard_size=8))
