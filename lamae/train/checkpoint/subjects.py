"""Which subjects a model has seen, as hashes: enough to refuse them as test subjects, without carrying their ids."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from lamae.keyed import GOLDEN, mix, signed
from lamae.sharding.format import ShardSet

ANY_WFDB = "wfdb"
"""The source whose subject ids are its own: any directory of WFDB records."""


def hash_subjects(subjects: np.ndarray, *, source: str) -> np.ndarray:
    """uint64 hash of each subject id (int64), salted with the source's name: ids of different sources never meet.

    SplitMix64's finaliser: a bijection for a given source, so two subjects never share a hash.
    """
    salt = int.from_bytes(hashlib.sha256(source.encode()).digest()[:8], "little")
    salted = subjects.astype(np.int64).view(np.uint64) ^ np.uint64(salt)
    words = torch.from_numpy(salted.view(np.int64))
    return mix(words + signed(GOLDEN)).numpy().view(np.uint64)


def describe_set(shard_set: ShardSet, rows: np.ndarray, subjects: np.ndarray, *, name: str) -> dict[str, Any]:
    """What a checkpoint says of one of the sets it was trained on, ``rows`` being those read, ``subjects`` their
    ``subject_set`` and ``name`` the mixture's for it: no ids.
    """
    return {
        "name": name,
        "source": shard_set.manifest["source"],
        "index_hash": shard_set.index_hash,
        "num_records": len(rows),
        "num_subjects": len(subjects),
        "subject_hash": subject_set_hash(subjects),
    }


def trained_sets(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """The sets that a checkpoint was trained on; of older ones, which had one, with what is known of it."""
    old = {"name": "shard set", "source": manifest.get("source"), "index_hash": manifest["index_hash"]}
    return list(manifest.get("sets", [old]))


def are_comparable(shard_set: ShardSet, trained: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """bool [N]: where the hash of a record's subject can be compared with those of a checkpoint's ``trained`` sets.

    Everywhere in a set that is among them; elsewhere only where the subject has an id in a numbering that one of them
    has too. Of the others, an unknown hash does not prove that the subject is another.
    """
    subjects = shard_set.column("subject")
    if any(entry["index_hash"] == shard_set.index_hash for entry in trained):
        return np.ones(len(subjects), dtype=bool)
    numbering = _numbering(shard_set)
    return (subjects >= 0) & any(entry["source"] == numbering for entry in trained)


def _numbering(shard_set: ShardSet) -> str:
    """Whose subject ids these are: of a data set with a name, or of this shard set alone.

    Two collections of WFDB files that both count their patients from 1 have nothing in common.
    """
    source = str(shard_set.manifest["source"])
    return shard_set.index_hash if source == ANY_WFDB else source


def row_subjects(shard_set: ShardSet, rows: np.ndarray) -> np.ndarray:
    """uint64 hash of the subject of each row.

    A negative id stands for "the source does not say who": it means nothing outside its own shard set.
    """
    subjects = shard_set.column("subject")[rows]
    known = hash_subjects(subjects, source=_numbering(shard_set))
    unknown = hash_subjects(subjects, source=shard_set.index_hash)
    return np.where(subjects >= 0, known, unknown)


def subject_set(shard_set: ShardSet, rows: np.ndarray) -> np.ndarray:
    """Sorted hashes (uint64, each once) of the subjects that ``rows`` belong to."""
    return np.unique(row_subjects(shard_set, rows))


def subject_set_hash(hashes: np.ndarray) -> str:
    """sha256 over a sorted hash set: one name for "trained on exactly these subjects"."""
    return hashlib.sha256(np.ascontiguousarray(hashes, dtype="<u8").tobytes()).hexdigest()
