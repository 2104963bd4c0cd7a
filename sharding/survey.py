"""What the headers of a source say, counted, before a sample is read: rates and lengths, leads, subjects."""

import hashlib
import posixpath
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

from lamae.base.leads import LEADS, lead_index
from lamae.base.progress import Progress
from lamae.sharding.files import Files
from lamae.sharding.header import HeaderError, parse, parse_strict
from lamae.sharding.reading import RejectError, is_long, read_header
from lamae.sharding.recording import shape_of
from lamae.sharding.resample import resampled_length
from lamae.sharding.sources import Entry, Listing
from lamae.sharding.stockwfdb import NULL_FORMAT

_NUM_SAMPLED = 64


@dataclass
class Survey:
    """Counts over the headers that were read."""

    num_read: int = 0
    num_unreadable: int = 0
    shapes: Counter[tuple[float, int]] = field(default_factory=Counter)
    """(sampling rate, samples per lead)."""
    too_long: Counter[tuple[float, int]] = field(default_factory=Counter)
    """Those of ``shapes`` that have more samples than are read."""
    leads: Counter[tuple[str, ...]] = field(default_factory=Counter)
    """Names as the headers have them."""
    headers: Any = field(default_factory=hashlib.sha256)
    """SHA-256 of those that could be read, one after another."""
    named_by: str = ""
    """What names subjects here: nothing, or header comments."""


def survey(files: Files, entries: list[Entry], progress: Progress) -> Survey:
    """Read the headers of all entries, and give those of the list a subject whom no list or path names; or of a few,
    spread over the list, where every subject is known.
    """
    found = Survey()
    all_known = all(entry.subject is not None for entry in entries)
    for position in range(0, len(entries), max(1, len(entries) // _NUM_SAMPLED) if all_known else 1):
        entry = entries[position]
        subject = _count(files, entry.path, found)
        if entry.subject is None and subject is not None:
            entries[position] = replace(entry, subject=subject)
            found.named_by = "header comments"
        if position % 1000 == 0:
            progress("read headers", position, len(entries))
    progress("read headers", len(entries), len(entries))
    return found


def _count(files: Files, path: str, found: Survey) -> int | None:
    """Count what one header says; returns the subject it names."""
    found.num_read += 1
    try:
        text = read_header(files, path)
        found.headers.update(text)
        header = parse_strict(text, record=posixpath.basename(path))
        if header is not None:
            names, subject, num_signals = header.names, header.subject, len(header.names)
            shape = header.rate_hz, header.num_samples
        else:
            full = parse(text)
            names, subject = tuple(signal.name for signal in full.signals), full.subject
            num_signals = sum(signal.format != NULL_FORMAT for signal in full.signals)
            shape = shape_of(files, path, text)
    except (RejectError, HeaderError):  # packing the record will report it
        found.num_unreadable += 1
        return None
    found.shapes[shape] += 1
    found.too_long[shape] += is_long(shape[1], num_signals)
    found.leads[names] += 1
    return subject


def overview(listing: Listing, found: Survey, plan: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """What a source is and what its packing will be, in words, as (name, text); ``plan`` is the content of a plan."""
    counts, patients = listing.reconciliation.counts(), plan["patients"]
    records = f"{counts['found']:,} found"
    if counts["expected"] is not None:
        records += f", {counts['expected']:,} listed; {counts['missing']:,} missing, {counts['unlisted']:,} unlisted"
    if counts["unused"]:
        records += f"; {counts['unused']:,} unused, since no patient is known"
    if plan["num_listed"] != counts["found"]:
        records += f"; {plan['num_listed']:,} to be packed"
    named_by = f", named by {' and '.join(patients['named_by'])}" if patients["named_by"] else ""
    of = "" if found.num_read == len(listing.entries) else f" (of {found.num_read:,} headers)"
    return (
        ("kind", f"{listing.kind}: {listing.why}"),
        ("records", records),
        ("patients", f"{patients['known']:,}{named_by}; {patients['note']}"),
        *([("tables", "; ".join(plan["partly_named"]))] if "partly_named" in plan else []),
        (f"rates × lengths{of}", _shapes(found)),
        (f"leads{of}", _leads(found)),
        ("packed as", f"{plan['rate_hz']:g} Hz × {plan['num_samples']:,} samples; shards: {plan['num_parts']:,}"),
        (f"to be rejected{of}", _losses(found, plan)),
    )


def _shapes(found: Survey) -> str:
    """``500 Hz x 5,000: 98; 400 Hz x 4,096: 2``, the most frequent first."""
    shapes = [f"{rate:g} Hz × {samples:,}: {count:,}" for (rate, samples), count in found.shapes.most_common(4)]
    others = found.shapes.total() - sum(count for _, count in found.shapes.most_common(4))
    return "; ".join(shapes) + (f"; {len(found.shapes) - 4} others: {others:,}" if others else "")


def _leads(found: Survey) -> str:
    """The commonest names, and what is dropped because it is none of the twelve."""
    names, count = found.leads.most_common(1)[0] if found.leads else ((), 0)
    dropped = sorted({name for names in found.leads for name in names if lead_index(name) is None})
    text = f"{' '.join(names)}: {count:,}"
    if len(found.leads) > 1:
        text += f"; other names or orders: {found.leads.total() - count:,}"
    present = {lead_index(name) for names in found.leads for name in names}
    absent = [lead for index, lead in enumerate(LEADS) if index not in present]
    if absent:
        text += f"; no header has {' '.join(absent)}"
    if dropped:
        text += f"; not among the twelve and left out: {', '.join(dropped[:8])}{', …' if len(dropped) > 8 else ''}"
    return text


def _losses(found: Survey, plan: dict[str, Any]) -> str:
    """How many headers announce a record that the set will reject, and the options that keep it."""
    rate_hz, num_samples, options = plan["rate_hz"], plan["num_samples"], plan["options"]
    reasons: Counter[str] = Counter()
    for (rate, length), count in (found.shapes - found.too_long).items():
        try:
            resampled = resampled_length(length, rate, rate_hz)
        except RejectError:
            reasons[f"of a rate that makes no simple fraction with {rate_hz:g} Hz"] += count
            continue
        remedies = []
        if rate != rate_hz and options["rate_hz"] is None:
            remedies.append(f"--rate {rate_hz:g}")
        if options["seconds"] is None and resampled != num_samples:
            remedies.append(f"--seconds {num_samples / rate_hz:g}")
        if remedies:
            reasons[f"which {' '.join(remedies)} keeps"] += count
        elif options["seconds"] is not None and length / rate < options["min_seconds"]:
            reasons["shorter than min_seconds"] += count
    reasons["longer than what is read of a record"] += found.too_long.total()
    reasons["with a header that cannot be used"] += found.num_unreadable
    lost = reasons.total()
    text = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common() if count)
    return (
        f"{lost:,} of {found.num_read:,} ({lost / found.num_read:.1%}): {text}" if lost else "none by rate and length"
    )
