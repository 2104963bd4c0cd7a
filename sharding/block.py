"""A few neighbouring records of a shard, from their files to what is stored of them and their rows of the index.

Records are taken one by one and examined together: numpy's cost per call is shared, and the samples stay in the cache.
"""

import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import numpy as np

from lamae.base.leads import NUM_LEADS
from lamae.sharding.files import Files
from lamae.sharding.measures import Measures
from lamae.sharding.packplan import Plan
from lamae.sharding.quality import QualityConfig, assess
from lamae.sharding.reading import RejectError
from lamae.sharding.recording import Recording, audit, read_recording
from lamae.sharding.resample import resample
from lamae.sharding.sources import Entry
from lamae.sharding.windows import cut, mark_padding, window_key, window_starts

_BLOCK_SIZE, _BLOCK_SIZE_OF_WINDOWS = 32, 4  # records; of half an hour one has 180 windows of 10 s
_LEAD_BITS = (1 << np.arange(NUM_LEADS)).astype(np.uint16)


@dataclass
class Block:
    """What became of some entries, in their order."""

    accepted: list[tuple[Entry, Recording]] = field(default_factory=list)  # as they are stored
    columns: list[dict[str, np.ndarray]] = field(default_factory=list)  # their rows of the index, in pieces
    rejects: list[tuple[str, str, str]] = field(default_factory=list)  # key, reason, detail
    readers: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class _Taken:
    """A record that could be read: rules see what was recorded, the index describes what is stored."""

    entry: Entry
    recorded: Recording
    stored: Recording

    @property
    def shape(self) -> tuple[float, int]:
        return self.recorded.rate_hz, self.recorded.samples.shape[1]


class BlockReader:
    """Reads and examines the records of a plan, a block at a time."""

    def __init__(self, files: Files, planned: Plan) -> None:
        self._files = files
        self._planned = planned
        self._quality = QualityConfig(**planned.options["quality"])
        # All blocks use the same buffers, since fresh memory costs more than the arithmetic on it. Freeing 2 MB once
        # makes glibc's malloc keep smaller blocks from then on instead of returning them to the kernel.
        np.empty(1 << 21, np.uint8)
        self.block_size = _BLOCK_SIZE_OF_WINDOWS if planned.options["windows"] == "all" else _BLOCK_SIZE
        self._samples = np.empty((self.block_size, NUM_LEADS, planned.num_samples), np.int16)
        self._values = np.empty((NUM_LEADS, planned.num_samples))
        self._audited: set[object] = set()  # shapes of headers

    def blocks(self, entries: Sequence[Entry]) -> Iterator[Block]:
        """``read`` of all ``entries``, as many at a time as it takes."""
        for start in range(0, len(entries), self.block_size):
            yield self.read(entries[start : start + self.block_size])

    def read(self, entries: Sequence[Entry]) -> Block:
        """At most ``block_size`` records; their samples are good until the next block is read.

        Raises LamaeError where the fast reader and stock wfdb disagree.
        """
        block = Block()
        taken: list[_Taken] = []
        for entry, out in zip(entries, self._samples, strict=False):
            try:
                recorded = read_recording(self._files, entry.path, out=out, gain=self._planned.options["gain"])
                self._audit(entry, recorded, block.readers)
                taken += _take(entry, recorded, self._planned)
            except RejectError as reject:
                block.rejects.append((entry.key, reject.reason, reject.detail))
        for _, run in groupby(taken, key=lambda record: record.shape):  # of several rates where they are resampled
            self._assess(list(run), block)
        for _, windows in groupby(block.accepted, key=lambda accepted: accepted[0].path):
            _, recording = next(windows)  # a record counts once
            block.readers.update(["fast" if recording.fast else "wfdb", *recording.notes])
        block.rejects.sort()  # by key, as the entries are
        return block

    def _audit(self, entry: Entry, recorded: Recording, readers: Counter[str]) -> None:
        """Have wfdb read a share of the records too, and of each shard the first with a header of another shape."""
        share = self._planned.options["audit"]
        if not recorded.fast or share == 0:
            return
        shape = recorded.columns, recorded.rate_hz
        if shape not in self._audited or is_audited(entry.key, share):
            self._audited.add(shape)
            audit(self._files, entry.path, recorded, gain=self._planned.options["gain"])
            readers["audited"] += 1

    def _assess(self, taken: list[_Taken], block: Block) -> None:
        """Apply the quality rules to records of one shape, and add them and their rows to ``block``."""
        measures = as_recorded = Measures([record.recorded for record in taken], out=self._values)
        if any(record.stored is not record.recorded for record in taken):
            measures = Measures([record.stored for record in taken], out=self._values)
        found = assess(as_recorded, self._quality, stored=measures)
        accepted = []
        for n, record in enumerate(taken):
            if (reject := found.rejects.get(n)) is not None:
                block.rejects.append((record.entry.key, reject.reason, reject.detail))
                continue
            accepted.append(n)
            block.accepted.append((record.entry, record.stored))
        columns: dict[str, np.ndarray] = {
            "key": np.array([record.entry.key for record in taken], dtype="S"),
            "subject": np.array([-1 if record.entry.subject is None else record.entry.subject for record in taken]),
            "split": np.array([record.entry.split for record in taken]),
            "gain": measures.gain,
            "baseline": np.stack([record.stored.baseline for record in taken]),
            "lead_mask": found.usable @ _LEAD_BITS,
            "mean_mv": measures.mean_mv,
            "std_mv": measures.std_mv,
            "min_adc": measures.min_adc,
            "max_adc": measures.max_adc,
            "num_missing": measures.num_missing,
            "lead_flags": found.lead_flags,
            "record_flags": found.record_flags,
        }
        if len(accepted) < len(taken):
            columns = {name: values[accepted] for name, values in columns.items()}
        block.columns.append(columns)


def is_audited(key: str, share: float) -> bool:
    """Whether a record belongs to the share that stock wfdb reads too: by a hash of its key, so always the same."""
    return zlib.crc32(f"audit {key}".encode()) < share * 2**32


def _take(entry: Entry, recorded: Recording, planned: Plan) -> list[_Taken]:
    """Bring a record, or windows of it, to the shard set's rate and length. Raises RejectError."""
    options = planned.options
    if recorded.subject is not None and entry.subject is not None and recorded.subject != entry.subject:
        raise RejectError("subject_mismatch", f"header says {recorded.subject}, the listing {entry.subject}")
    rate_hz, length = recorded.rate_hz, recorded.samples.shape[1]
    if rate_hz != planned.rate_hz and options["rate_hz"] is None:
        rates = f"{rate_hz:g} Hz, the shard set has {planned.rate_hz:g}"
        raise RejectError("wrong_rate", f"{rates}; rate_hz={planned.rate_hz:g} (--rate) resamples to it")
    begin, end = mark_padding(recorded, min_samples=round(options["padding_s"] * rate_hz))
    if end - begin < length:
        recorded = replace(recorded, notes=(*recorded.notes, "padded"))
    stored = recorded if rate_hz == planned.rate_hz else resample(recorded, planned.rate_hz)
    if options["seconds"] is None:
        num_samples = stored.samples.shape[1]
        if num_samples != planned.num_samples:
            wrong = f"{num_samples} samples, the shard set has {planned.num_samples}"
            raise RejectError(
                "wrong_length", f"{wrong}; --seconds {planned.num_samples / planned.rate_hz:g} takes any length"
            )
        return [_Taken(entry, _between(recorded, begin, end), stored)]
    recorded_s = (end - begin) / rate_hz
    if recorded_s < options["min_seconds"]:
        raise RejectError("too_short", f"{recorded_s:g} s, min_seconds={options['min_seconds']:g}")
    if (window := round(options["seconds"] * rate_hz)) < 1:
        raise RejectError("wrong_rate", f"{rate_hz:g} Hz, of which seconds={options['seconds']:g} has no sample")
    taken = []
    starts = window_starts(end - begin, window, kind=options["windows"], overlap=options["overlap"])
    for number, start in enumerate(begin + start for start in starts):
        key = window_key(entry.key, number, len(starts)) if options["windows"] == "all" else entry.key
        row = replace(entry, key=key, extra=(*entry.extra, repr(start / rate_hz)))
        first = round(start / rate_hz * planned.rate_hz)
        taken.append(
            _Taken(
                row,
                _between(recorded, start, min(start + window, end)),
                cut(stored, first, num_samples=planned.num_samples),
            )
        )
    return taken


def _between(recorded: Recording, begin: int, end: int) -> Recording:
    """What the rules see: samples that were recorded, without what fills an archive's or a window's length."""
    if (begin, end) == (0, recorded.samples.shape[1]):
        return recorded
    return replace(recorded, samples=recorded.samples[:, begin:end])
