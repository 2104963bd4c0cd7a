"""Several shard sets read as one: rows of all sets in a row, each record with its own set's rate and length."""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from itertools import count
from pathlib import Path

import numpy as np

from lamae.base.errors import UsageError
from lamae.sharding.format import ShardSet


class Mixture:
    """Row i of set s is row ``first_rows[s] + i`` here; a mixture of one set has that set's own rows.

    Raises UsageError where two of the sets are the same one.
    """

    def __init__(self, sets: Sequence[ShardSet]) -> None:
        self.sets = tuple(sets)
        self.first_rows = np.cumsum([0, *(shard_set.num_records for shard_set in self.sets)])
        """int64, one more than there are sets: where each set's rows begin, and the number of all."""
        seen: dict[str, Path] = {}
        for shard_set in self.sets:
            if (twin := seen.get(shard_set.index_hash)) is not None:
                raise UsageError(
                    f"data.path: {shard_set.root} and {twin} hold the same records; name each set once, and use "
                    "data.weights to read one more often"
                )
            seen[shard_set.index_hash] = shard_set.root

    @classmethod
    def of(cls, records: "ShardSet | Mixture") -> "Mixture":
        return records if isinstance(records, Mixture) else cls([records])

    @classmethod
    def open(cls, paths: Sequence[str]) -> "Mixture":
        """Open every set. Raises as ``ShardSet.open``."""
        for path in paths:
            if "," in path and not Path(path).exists():
                raise UsageError(f"{path}: no such directory; several shard sets are written data.path=[{path}]")
        return cls([ShardSet.open(path) for path in paths])

    @property
    def root(self) -> str:
        """The sets' directories, for messages."""
        return ", ".join(str(shard_set.root) for shard_set in self.sets)

    @cached_property
    def names(self) -> list[str]:
        """A short name for each set, no two the same: its directory's, numbered where two have that."""
        names = [shard_set.root.resolve().name for shard_set in self.sets]
        taken = set(names)
        for place, name in [(place, name) for place, name in enumerate(names) if names.count(name) > 1]:
            numbered = (f"{name}-{number}" for number in count(place + 1))
            names[place] = next(new for new in numbered if new not in taken)
            taken.add(names[place])
        return names

    @property
    def index_hash(self) -> str:
        """A set's own index hash, or one over those of several sets in their order."""
        hashes = [shard_set.index_hash for shard_set in self.sets]
        return hashes[0] if len(hashes) == 1 else hashlib.sha256(" ".join(hashes).encode()).hexdigest()

    @property
    def num_records(self) -> int:
        return int(self.first_rows[-1])

    @property
    def num_samples(self) -> int:
        """Samples per lead of the longest records: what a buffer for any record holds."""
        return max(shard_set.num_samples for shard_set in self.sets)

    @cached_property
    def keys(self) -> list[str]:
        """Record keys; with several sets each after its set's name and a colon."""
        if len(self.sets) == 1:
            return self.sets[0].keys
        named = zip(self.names, self.sets, strict=True)
        return [f"{name}:{key}" for name, shard_set in named for key in shard_set.keys]

    def column(self, name: str) -> np.ndarray:
        """An index column over all rows; see ``ShardSet.column``."""
        columns = [shard_set.column(name) for shard_set in self.sets]
        return columns[0] if len(columns) == 1 else np.concatenate(columns)

    def set_of(self, rows: np.ndarray) -> np.ndarray:
        """int64: which set each row belongs to."""
        return np.searchsorted(self.first_rows, rows, side="right") - 1

    def rows_of_split(self, split: str) -> np.ndarray:
        """int64 rows of a split, ascending: set after set."""
        return np.concatenate(
            [
                first + shard_set.rows_of_split(split)
                for first, shard_set in zip(self.first_rows, self.sets, strict=False)
            ]
        )
