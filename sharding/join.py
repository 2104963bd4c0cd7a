"""A CSV that a user gives, joined to records by their keys; what it leaves out is counted and said.

A file whose ids are spelled otherwise for some records fits the others, and would pass for one that fits all.
"""

import logging
from collections.abc import Container, Sequence
from pathlib import Path

from lamae.base.errors import UsageError
from lamae.base.tables import Table
from lamae.base.text import few
from lamae.sharding.keys import RecordNames

logger = logging.getLogger(__name__)

KEY_COLUMNS = ("key", "study_id", "ecg_id", "exam_id", "record")
_NUM_EXAMPLES = 3


def values_by_key(
    table: Table, key_columns: Sequence[str], columns: Sequence[str], names: RecordNames
) -> dict[str, tuple[str, ...]]:
    """The cells of ``columns`` by record key, which any of ``key_columns`` may spell; rows of no record under the first
    of these as it stands. Raises UsageError where a key has two rows that differ, or no row is of a record.
    """
    values: dict[str, tuple[str, ...]] = {}
    for line, row in table:
        spelled = [row[column] for column in key_columns]
        key = next(filter(None, map(names.find, spelled)), spelled[0])
        cells = tuple(row[column] for column in columns)
        if values.setdefault(key, cells) != cells:
            raise UsageError(
                f"{table.where(line)}: {key_columns[0]} {key} a second time, with {', '.join(cells)} instead of "
                f"{', '.join(values[key])}; keep one row"
            )
    if not any(key in names.keys for key in values):
        example = next(iter(values), "")
        record = next(iter(names.keys), "")
        raise UsageError(
            f"{table.path}: nothing in its column {' or '.join(key_columns)} (such as {example!r}) is the key of a "
            f"record of the source (such as {record!r}); give a file that has those there"
        )
    return values


def coverage(path: Path, what: str, keys: Sequence[str], named: Container[str], *, others: str, allow_few: bool) -> str:
    """``folds for 8 of 12 records``, logged too, where the file at ``path`` names not all of ``keys``, else nothing.

    ``others``: what becomes of the rest. Raises UsageError for less than half, unless ``allow_few``.
    """
    unnamed = [key for key in keys if key not in named]
    if not unnamed:
        return ""
    note = f"{what} for {len(keys) - len(unnamed):,} of {len(keys):,} records"
    text = f"{path}: {note}; not for {few(unnamed, _NUM_EXAMPLES)}"
    if 2 * len(unnamed) > len(keys) and not allow_few:
        raise UsageError(
            f"{text}; spell its keys as these are, or give allow_unnamed=true where it is to name so few ({others})"
        )
    logger.warning("%s: %s", text, others)
    return note
