"""Codes of many records: kept compactly, counted, chosen, laid out as columns."""

from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np
from scipy.sparse import csr_array

_CODES_AT_ONCE = 1 << 20


class CodeLists:
    """Which codes each of many records has, None where nothing is known of it; two or four bytes a code."""

    def __init__(self, records: Iterable[Collection[str] | None] = ()) -> None:
        self._number: dict[str, int] = {}
        self._codes, self._ends, self._known = array("H"), array("q", [0]), bytearray()
        for codes in records:
            self.append(codes)

    def append(self, codes: Collection[str] | None) -> None:
        """The next record's; a code is counted once however often it is named."""
        number = self._number
        found = [number.setdefault(code, len(number)) for code in set(codes or ())]
        if len(number) > 1 << 16 and self._codes.typecode == "H":
            self._codes = array("i", self._codes)
        self._codes.extend(found)
        self._ends.append(len(self._codes))
        self._known.append(codes is not None)

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[frozenset[str] | None]:
        names = list(self._number)
        for known, start, end in zip(self._known, self._ends, self._ends[1:], strict=False):
            yield frozenset(names[code] for code in self._codes[start:end]) if known else None

    def counts(self) -> list[tuple[str, int]]:
        """Codes with their number of records, the most frequent first, ties by name."""
        counts = np.zeros(len(self._number), dtype=np.int64)
        codes = np.asarray(self._codes)
        for start in range(0, len(codes), _CODES_AT_ONCE):  # bincount takes all to int64
            counts += np.bincount(codes[start : start + _CODES_AT_ONCE], minlength=len(counts))
        return sorted(zip(self._number, counts.tolist(), strict=True), key=lambda item: (-item[1], item[0]))

    def columns(self, vocabulary: Sequence[str], row_M: np.ndarray, num_rows: int) -> tuple[csr_array, np.ndarray]:
        """(uint8 [num_rows, C], 1 where the record in that row has code k; bool [num_rows], where anything is known).

        ``row_M`` is the row of each record, below 0 where it has none.
        """
        C, num_codes = len(vocabulary), len(self._codes)
        column = np.full(len(self._number), C, dtype=np.int32)  # C: of no column
        column[[self._number[code] for code in vocabulary]] = np.arange(C)
        record_N = np.full(num_rows, len(self), dtype=np.int32)
        record_N[row_M[row_M >= 0]] = np.flatnonzero(row_M >= 0)
        # One record more, of which nothing is known, for the rows that have none.
        known_M = np.append(np.frombuffer(self._known, dtype=bool), False)
        label_MC = csr_array(
            (
                np.ones(num_codes, dtype=np.uint8),
                column[np.asarray(self._codes)],
                np.append(self._ends, num_codes).astype(np.int32),  # as int64 it would make all indices int64
            ),
            shape=(len(self) + 1, C + 1),
        )[:, :C]
        return label_MC[record_N], known_M[record_N]


def choose_vocabulary(
    counts: list[tuple[str, int]], *, min_count: int, top: int | None = None, distinct: bool = False
) -> list[str]:
    """Codes with at least ``min_count`` records, at most the ``top`` most frequent, in order of the alphabet.

    ``distinct`` leaves out a code that only ever occurs together with one and the same code below it (I210 where
    every I210 is I2109): its column would count one diagnosis twice.
    """
    kept = [code for code, count in counts if count >= min_count]
    if distinct:
        number = dict(counts)
        # A code's records include those of every code below it, so equal numbers mean equal records.
        kept = [a for a in kept if not any(b != a and b.startswith(a) and number[b] == number[a] for b in kept)]
    return sorted(kept[:top])
