"""Scores [N, C] of records, computed a block of codes at a time: those of all codes may be larger than memory."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

BLOCK_BYTES = 16 << 20
"""What the scores of one block take, float32."""


def code_blocks(num_records: int, num_codes: int) -> Iterator[slice]:
    """Slices of so many codes that ``BLOCK_BYTES`` hold their scores, at least one."""
    width = max(1, BLOCK_BYTES // max(1, 4 * num_records))
    return (slice(start, min(start + width, num_codes)) for start in range(0, num_codes, width))


@dataclass(frozen=True)
class Scores:
    """Scores of N records for C codes, float32; larger means likelier."""

    shape: tuple[int, int]
    of_codes: Callable[[slice], np.ndarray]
    """Computes those of some columns."""

    @classmethod
    def of(cls, scores_NC: np.ndarray) -> "Scores":
        N, C = scores_NC.shape
        return cls((N, C), lambda columns: scores_NC[:, columns])

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """(which codes, their scores), a block at a time."""
        return ((columns, self.of_codes(columns)) for columns in code_blocks(*self.shape))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.of_codes(slice(0, self.shape[1])), dtype=dtype)
