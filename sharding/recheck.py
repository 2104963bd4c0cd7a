"""Records that a complete set left out, read again: a file that was missing may have been fetched since."""

import csv
import logging
from collections.abc import Iterable
from itertools import islice

from lamae.base.text import few
from lamae.sharding.block import BlockReader
from lamae.sharding.files import Files
from lamae.sharding.format import REJECTS_NAME, WINDOW_MARK
from lamae.sharding.packplan import Plan
from lamae.sharding.sources import Entry

logger = logging.getLogger(__name__)

_MAX_REJECTS = 1000


def warn_of_rejects(planned: Plan, entries: Iterable[Entry], files: Files) -> None:
    """Warn where packing would take records by now that the complete set ``planned.out`` rejected.

    ``entries`` is the listing. Raises LamaeError as packing does.
    """
    if taken := _taken_now(planned, entries, files):
        logger.warning(
            "%s: %d of the records that it rejected could be packed now (%s); it stays without them: to have them, "
            "remove it and run the same command, or choose another output",
            planned.out,
            len(taken),
            few(taken, 3),
        )


def _taken_now(planned: Plan, entries: Iterable[Entry], files: Files) -> list[str]:
    """Keys of those of the first thousand rejects that packing would take now."""
    path = planned.out / REJECTS_NAME
    if not path.is_file():  # which verify reports
        return []
    with path.open(newline="", encoding="utf-8") as file:
        keys = [row[0].removeprefix("'") for row in islice(csv.reader(file), 1, 1 + _MAX_REJECTS)]
    records = {key.partition(WINDOW_MARK)[0] for key in keys}
    again = [entry for entry in entries if entry.key in records]
    taken: set[str] = set()
    for block in BlockReader(files, planned).blocks(again):
        taken.update(key for entry, _ in block.accepted for key in (entry.key, entry.key.partition(WINDOW_MARK)[0]))
    return [key for key in keys if key in taken]
