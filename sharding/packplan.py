"""A pack plan: what packing will do, on disk and in memory. How it is decided is in ``plan``.

OUT/.packing/plan.json            options, the records' common shape, counts of the listing
OUT/.packing/listing/000042.csv   the records of shard 42: key,path,subject,split
OUT/.packing/parts/000042.npz     what packing shard 42 gave (sharding.part); its presence means "done"
"""

import csv
import hashlib
import io
import json
import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lamae.base import files
from lamae.base.errors import LamaeError, UsageError
from lamae.base.files import new_directory, new_file, write_csv
from lamae.base.lock import Lock
from lamae.base.tables import MAX_CELL_CHARS
from lamae.sharding.files import Files, ZipFiles, open_files
from lamae.sharding.format import SHARDS_NAME, UNMATCHED_NAME, WORK_NAME
from lamae.sharding.hdf5 import Hdf5Files
from lamae.sharding.reading import header_or_nothing
from lamae.sharding.sources import Entry, Reconciliation

PLAN_NAME = "plan.json"
PLAN_VERSION = 1
_LISTING_NAME = "listing"
_PARTS_NAME = "parts"
ZIP_INDEX_NAME = "zip_index.npy"
_LOCK_NAME = "lock"
_CHECK_EVERY = 128  # records: 8 of a shard of the default size


@dataclass(frozen=True)
class Plan:
    """What will be packed, as written in OUT/.packing."""

    out: Path
    content: dict[str, Any]
    base: str
    """Folder below the source that the records' paths are relative to; no part of what the set is."""
    overview: tuple[tuple[str, str], ...] = ()
    """What was found, in words; only where the source was just listed."""
    header_sums: list[list[int]] | None = None
    """Of each part, of the headers of its ``checked`` records; None in plans of older versions."""

    @property
    def num_parts(self) -> int:
        return int(self.content["num_parts"])

    @property
    def num_listed(self) -> int:
        return int(self.content["num_listed"])

    @property
    def rate_hz(self) -> float:
        """Sampling rate every record must have."""
        return float(self.content["rate_hz"])

    @property
    def num_samples(self) -> int:
        """Samples per lead every record must have."""
        return int(self.content["num_samples"])

    @property
    def options(self) -> dict[str, Any]:
        """PackOptions.identity() with the fold file by its hash."""
        options: dict[str, Any] = self.content["options"]
        return options

    def entries(self, part: int) -> list[Entry]:
        """The records of one shard, sorted by key."""
        path = self.out / WORK_NAME / _LISTING_NAME / f"{part:06d}.csv"
        csv.field_size_limit(MAX_CELL_CHARS)  # of a user's columns, which a table has let through
        with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            return [
                Entry(key, path, int(subject) if subject else None, int(split), tuple(extra))
                for key, path, subject, split, *extra in csv.reader(file)
            ]

    def part_path(self, part: int) -> Path:
        """Where the result of a part is kept until the merge."""
        return self.out / WORK_NAME / _PARTS_NAME / f"{part:06d}.npz"

    def open_files(self, source: Path) -> Files:
        """The files of ``source``, with the index of a zip as the plan kept it."""
        if self.content["source"] == "code15":
            return Hdf5Files(source)
        return open_files(source, base=self.base, zip_index=self.out / WORK_NAME / ZIP_INDEX_NAME)

    @classmethod
    def open(cls, out: Path) -> "Plan":
        """The plan in ``out``. Raises UsageError where there is none."""
        path = out / WORK_NAME / PLAN_NAME
        try:
            content = files.read_json(path)
            return cls(out, content, content.pop("base"), header_sums=content.pop("header_sums", None))
        except FileNotFoundError:
            raise UsageError(f"{out}: no packing under way here ({path.name} is missing); plan it first") from None
        except KeyError as error:
            raise LamaeError(f"{path}: damaged (no {error}); delete {out} and pack again") from None
        except LamaeError as error:
            raise LamaeError(f"{error}; where it is damaged, delete {out} and pack again") from None


def checked(entries: list[Entry]) -> list[Entry]:
    """Those of a part's records whose headers must be at packing what they were at planning."""
    return entries[::_CHECK_EVERY]


UNREADABLE_SUM = 0


def header_sum(files: Files, entry: Entry) -> int:
    """CRC-32 of a record's header, 0 where it cannot be read. Raises LamaeError for a failure that may pass."""
    return zlib.crc32(header_or_nothing(files, entry.path))


def lock_of(out: Path) -> Lock:
    """What those who pack parts in ``out`` share, and who merges them or removes the plan has alone."""
    return Lock(out / WORK_NAME / _LOCK_NAME, what=out)


def listing_sha256(entries: Iterable[Entry]) -> str:
    digest = hashlib.sha256()
    for line in _listing_lines(entries):
        digest.update(os.fsencode(line))
    return digest.hexdigest()


def _listing_lines(entries: Iterable[Entry]) -> Iterator[str]:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    quoting = csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for entry in entries:
        subject = "" if entry.subject is None else entry.subject
        row = (entry.key, entry.path, subject, entry.split, *entry.extra)
        # Python 3.11 writes a carriage return without quotes and does not read it back.
        (quoting if any("\r" in text for text in (entry.path, *entry.extra)) else writer).writerow(row)
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()


def write_plan(planned: Plan, unmatched: Reconciliation, entries: list[Entry], files: Files) -> None:
    """Put the plan in place in one rename: it is there whole or not at all."""
    with new_directory(planned.out / WORK_NAME) as building:
        (building / _LISTING_NAME).mkdir()
        (building / _PARTS_NAME).mkdir()
        (planned.out / SHARDS_NAME).mkdir(exist_ok=True)
        shard_size = planned.options["shard_size"]
        header_sums = []
        for part in range(planned.num_parts):
            chunk = entries[part * shard_size : (part + 1) * shard_size]
            header_sums.append([header_sum(files, entry) for entry in checked(chunk)])
            (building / _LISTING_NAME / f"{part:06d}.csv").write_bytes(os.fsencode("".join(_listing_lines(chunk))))
        if isinstance(files, ZipFiles):
            files.index.save(building / ZIP_INDEX_NAME)
        statuses = ("missing", "unlisted", "unused")
        rows = ((path, status) for status in statuses for path in getattr(unmatched, status))
        write_csv(building / UNMATCHED_NAME, ("path", "status"), rows)
        write_content(replace(planned, header_sums=header_sums), building)


def write_content(planned: Plan, folder: Path) -> None:
    with new_file(folder / PLAN_NAME) as partial:
        beside = {"base": planned.base, "header_sums": planned.header_sums}
        partial.write_text(json.dumps(planned.content | beside, indent=1, sort_keys=True))
