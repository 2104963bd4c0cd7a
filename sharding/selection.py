"""Which records of a listing are packed, and on which side of the split each is."""

import hashlib
from dataclasses import replace
from pathlib import Path

from lamae.base.errors import UsageError
from lamae.sharding.format import SPLITS
from lamae.sharding.join import coverage
from lamae.sharding.options import PackOptions
from lamae.sharding.sources import Entry, names_of
from lamae.sharding.splits import FoldFile, split_of_subject


def decide_splits(entries: list[Entry], options: PackOptions) -> FoldFile | None:
    """Give every entry of the list its split; returns the fold file, if there is one."""
    folds = None
    if options.splits_from:
        folds = FoldFile.read(Path(options.splits_from), names_of(entries))
    split_by_subject: dict[int, int] = {}
    if folds is not None:
        for entry in entries:
            split = folds.split_by_key.get(entry.key)
            if split is not None and entry.subject is not None:
                split_by_subject.setdefault(entry.subject, split)

    def decide(entry: Entry) -> int:
        if folds is not None and entry.key in folds.split_by_key:
            return folds.split_by_key[entry.key]
        if entry.subject in split_by_subject:
            return split_by_subject[entry.subject]
        if options.source_folds and entry.split is not None:
            return entry.split
        name = f"key {entry.key}" if entry.subject is None else str(entry.subject)
        return split_of_subject(name, options.split_fractions)

    decided: dict[int, int] = {}
    for position, entry in enumerate(entries):  # in place: there may be 800,000
        split = decide(entry)
        if entry.subject is not None and decided.setdefault(entry.subject, split) != split:
            remedy = "" if folds else "; source_folds=false splits anew"
            raise UsageError(
                f"{options.splits_from or 'the list of the source'}: subject {entry.subject} is in two splits, with "
                f"{entry.key} in {SPLITS[split]}; folds must be by subject{remedy}"
            )
        entries[position] = replace(entry, split=split)
    return folds


def coverage_of_folds(folds: FoldFile, entries: list[Entry], options: PackOptions) -> str:
    """As ``join.coverage``, of the records that are packed."""
    others = "the others follow their subject, else the source's folds or a hash"
    keys = [entry.key for entry in entries]
    return coverage(folds.path, "folds", keys, folds.split_by_key, others=others, allow_few=options.allow_unnamed)


def capped(entries: list[Entry], max_per_subject: int | None) -> list[Entry]:
    """At most so many entries of every known subject: those whose keys have the smallest hashes."""
    if max_per_subject is None:
        return entries
    of_subject: dict[int, list[Entry]] = {}
    for entry in entries:
        if entry.subject is not None:
            of_subject.setdefault(entry.subject, []).append(entry)
    left_out: set[str] = set()
    for visits in of_subject.values():
        visits.sort(key=lambda entry: hashlib.sha256(f"cap {entry.key}".encode()).digest())
        left_out.update(entry.key for entry in visits[max_per_subject:])
    return [entry for entry in entries if entry.key not in left_out]
