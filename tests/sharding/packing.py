"""Packing in tests: options for few records, and what a packing left on disk."""

import csv
import hashlib
from pathlib import Path

from lamae.sharding.pack import PackOptions


def small(**options):
    return PackOptions(**{"shard_size": 5, "audit": 0.2} | options)


def digests(root: Path) -> dict[str, str]:
    """sha256 of every file below ``root``."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def rejects_of(out: Path) -> dict[str, str]:
    with (out / "rejects.csv").open() as file:
        return {row["key"]: row["reason"] for row in csv.DictReader(file)}
