"""A source for tests of packing."""

import pytest

from tests.sharding.wfdbtree import write_mimic_tree


@pytest.fixture
def mimic(tmp_path):
    root = tmp_path / "mimic"
    write_mimic_tree(root)
    return root
