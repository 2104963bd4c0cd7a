"""Codes of many records: kept compactly, counted, chosen, laid out as columns."""

from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np

_ROWS_AT_ONCE = 65536


class CodeLists:
    """Which codes each of many records has, None where nothing is known of it; four bytes a code."""

    def __init__(self, records: Iterable[Collection[str] | None] = ()) -> None:
        self._number: dict[str, int] = {}
        self._codes, self._ends, self._known = array("i"), array("q", [0]), bytearray()
        for codes in records:
            self.append(codes)

    def append(self, codes: Collection[str] | None) -> None:
        """The next record's; a code is counted once however often it is named."""
        number = self._number
        self._codes.extend([number.setdefault(code, len(number)) for code in set(codes or ())])
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
        counts = np.bincount(np.array(self._codes, dtype=np.int32), minlength=len(self._number)).tolist()
        return sorted(zip(self._number, counts, strict=True), key=lambda item: (-item[1], item[0]))

    def columns(self, vocabulary: Sequence[str], row_M: np.ndarray, num_rows: int) -> tuple[np.ndarray, np.ndarray]:
        """(uint8 [num_rows, K], 1 where the record in that row has code k; bool [num_rows], where anything is known).

        ``row_M`` is the row of each record, below 0 where it has none.
        """
        label_NK = np.zeros((num_rows, len(vocabulary)), dtype=np.uint8)
        column = np.full(len(self._number), -1)
        for k, code in enumerate(vocabulary):
            column[self._number[code]] = k
        codes, ends = np.array(self._codes, dtype=np.int32), np.array(self._ends)
        for start in range(0, len(self), _ROWS_AT_ONCE):
            bounds = ends[start : start + _ROWS_AT_ONCE + 1]
            rows = np.repeat(row_M[start : start + _ROWS_AT_ONCE], np.diff(bounds))
            columns = column[codes[bounds[0] : bounds[-1]]]
            kept = (rows >= 0) & (columns >= 0)
            label_NK[rows[kept], columns[kept]] = 1
        labelled_N = np.zeros(num_rows, dtype=bool)
        labelled_N[row_M[np.array(self._known, dtype=bool) & (row_M >= 0)]] = True
        return label_NK, labelled_N


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


def few(names: Sequence[str], limit: int = 20) -> str:
    """Names in a line, and how many more there are."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
