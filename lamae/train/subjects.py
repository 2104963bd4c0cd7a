"""Which subjects a model has seen, as hashes: enough to refuse them as test subjects, without carrying their ids."""

import hashlib

import numpy as np
import torch

from lamae.keyed import GOLDEN, mix, signed
from lamae.sharding.format import ShardSet


def hash_subjects(subjects: np.ndarray, *, source: str) -> np.ndarray:
    """uint64 hash of each subject id (int64), salted with the source's name: ids of different sources never meet.

    SplitMix64's finaliser: a bijection for a given source, so two subjects never share a hash.
    """
    salt = int.from_bytes(hashlib.sha256(source.encode()).digest()[:8], "little")
    salted = subjects.astype(np.int64).view(np.uint64) ^ np.uint64(salt)
    words = torch.from_numpy(salted.view(np.int64))
    return mix(words + signed(GOLDEN)).numpy().view(np.uint64)


def are_comparable(shard_set: ShardSet, *, source: str | None, index_hash: str) -> np.ndarray:
    """bool [N]: where the hash of a record's subject can be held against hashes from the shard set of ``index_hash``.

    Everywhere in that very shard set; elsewhere only where the subject has an id and ``source``, the source of that
    shard set, is this one's too. Of the others, an unknown hash does not prove that the subject is another.
    """
    subjects = shard_set.column("subject")
    if shard_set.index_hash == index_hash:
        return np.ones(len(subjects), dtype=bool)
    return (subjects >= 0) & (source == shard_set.manifest["source"])


def row_subjects(shard_set: ShardSet, rows: np.ndarray) -> np.ndarray:
    """uint64 hash of the subject of each row.

    A negative id stands for "the source does not say who": it means nothing outside its own shard set.
    """
    subjects = shard_set.column("subject")[rows]
    known = hash_subjects(subjects, source=str(shard_set.manifest["source"]))
    unknown = hash_subjects(subjects, source=shard_set.index_hash)
    return np.where(subjects >= 0, known, unknown)


def subject_set(shard_set: ShardSet, rows: np.ndarray) -> np.ndarray:
    """Sorted hashes (uint64, each once) of the subjects that ``rows`` belong to."""
    return np.unique(row_subjects(shard_set, rows))


def subject_set_hash(hashes: np.ndarray) -> str:
    """sha256 over a sorted hash set: one name for "trained on exactly these subjects"."""
    return hashlib.sha256(np.ascontiguousarray(hashes, dtype="<u8").tobytes()).hexdigest()
