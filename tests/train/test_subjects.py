"""Hashes tell whether a subject was trained on, within a source, and nothing across sources."""

from pathlib import Path

import numpy as np

from lamae.sharding.format import ShardSet
from lamae.train.checkpoint.subjects import hash_subjects, row_subjects, subject_set, subject_set_hash
from tests.shardsets import random_adc, write_shard_set

FROZEN = ["0x4eccfc74dc64dafe", "0x5e92a8f3b69b1105"]


def test_no_two_subjects_of_a_source_share_a_hash() -> None:
    subjects = np.concatenate([np.arange(100_000), np.arange(10_000_000, 10_100_000), [-1, -2, 2**62]])
    assert len(np.unique(hash_subjects(subjects, source="a"))) == len(subjects)


def test_the_same_number_in_two_sources_is_two_subjects() -> None:
    subjects = np.arange(1000)
    overlap = np.intersect1d(hash_subjects(subjects, source="a"), hash_subjects(subjects, source="b"))
    assert len(overlap) == 0


def test_hashes_stay_what_they_are() -> None:
    """A change would let a probe test on subjects that a checkpoint was trained on."""
    assert [hex(value) for value in hash_subjects(np.array([10_000_032, 7]), source="mimic")] == FROZEN


def test_unknown_subjects_are_known_within_their_own_set_alone(tmp_path: Path) -> None:
    sets = [ShardSet.open(write_shard_set(tmp_path / str(seed), random_adc(6, 50, seed=seed))) for seed in (0, 1)]
    everyone = np.arange(6)
    first, second = (subject_set(shard_set, everyone) for shard_set in sets)
    assert len(first) == 6
    assert np.isin(row_subjects(sets[0], everyone[:2]), first).all()
    assert not np.isin(row_subjects(sets[1], everyone), first).any()
    assert subject_set_hash(first) != subject_set_hash(second)
