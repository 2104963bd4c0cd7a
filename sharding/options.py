"""What a user may ask of packing. All but ``workers`` and what is allowed is part of what a shard set is."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from lamae.base.validate import above, at_least, below, is_share, one_of
from lamae.sharding.quality import QualityConfig
from lamae.sharding.recording import MAX_GAIN, MIN_GAIN

WINDOWS = ("first", "centre", "all")
SOURCE_KINDS = ("auto", "mimic", "ptbxl", "code15", "wfdb")


@dataclass
class PackOptions:
    """How a source becomes a shard set."""

    source: str = "auto"
    """What the source is: mimic (MIMIC-IV-ECG), ptbxl (PTB-XL), code15 (CODE-15 %, HDF5), wfdb (any directory of WFDB
    records) or auto."""
    workers: int = 1
    """Processes that pack. The result is the same bytes for any number."""
    shard_size: int = 1024
    """Records listed per tar, before quality control; 123 MB of 10 s at 500 Hz."""
    limit: int | None = None
    """Pack only this many records, the first of the sorted listing."""
    rate_hz: float | None = None
    """Resample every record to this rate (see sharding.resample); None keeps what was recorded, losslessly."""
    seconds: float | None = None
    """Length of every row: longer records are cut into windows, shorter ones end in "no sample"; None takes the length
    that most records have and rejects the others."""
    windows: str = "first"
    """Which windows of a longer record: first, centre, or all, each then a row with the key KEY#0000, KEY#0001, …"""
    overlap: float = 0.0
    """Share of a window that it has in common with the next one, under windows=all."""
    min_seconds: float = 0.0
    """With seconds: records shorter than this are rejected."""
    padding_s: float = 0.1
    """All leads at 0 mV or without a sample together for at least this long at an end are padding and become
    "no sample"; 0 keeps them."""
    gain: float | None = None
    """Stored units per millivolt in every lead, whatever the headers say; None takes the headers' gains."""
    max_per_subject: int | None = None
    """At most this many records of one subject, chosen by a hash of the key; subjects with many visits weigh less."""
    columns_from: str | None = None
    """CSV file with a key or study_id column; its other columns go into the index as extra/NAME, by record."""
    split_fractions: list[float] = field(default_factory=lambda: [0.8, 0.1, 0.1])
    """Shares of subjects in train, val and test where neither the source nor splits_from gives folds."""
    source_folds: bool = True
    """Whether folds that the source gives (PTB-XL's strat_fold) decide the splits; false splits by split_fractions."""
    splits_from: str | None = None
    """CSV file with a key or study_id column and a strat_fold, fold or split column; the last fold is test, the one
    before it val."""
    subjects_from: str | None = None
    """CSV file with a key or study_id column and a subject, subject_id, patient or patient_id column."""
    subject_pattern: str | None = None
    """Regular expression whose one group is the subject in a record's path, such as patient(\\d+)/."""
    allow_unknown_subjects: bool = False
    """Whether records that subjects_from or subject_pattern does not name may be subjects of their own."""
    allow_unnamed: bool = False
    """Whether splits_from and columns_from may name fewer than half of the records."""
    ptbxl_rate_hz: int | None = None
    """Which of PTB-XL's two copies of each record to take: 500 or 100; None takes 500 where it is there."""
    audit: float = 0.002
    """Share of records, chosen by a hash of the key, that stock wfdb reads too and that are compared bit for bit."""
    quality: QualityConfig = field(default_factory=QualityConfig)
    """Quality rules: thresholds and what to do."""

    def check(self) -> None:
        """Raises ValueError naming the option and what it may be."""
        one_of(self, source=SOURCE_KINDS, windows=WINDOWS, ptbxl_rate_hz=(100, 500))
        at_least(self, workers=1, shard_size=1, limit=1, max_per_subject=1)
        above(self, rate_hz=0, seconds=0, gain=0)
        at_least(self, min_seconds=0, padding_s=0)
        if self.gain is not None and not MIN_GAIN <= self.gain <= MAX_GAIN:
            raise ValueError(f"gain={self.gain} must lie in {MIN_GAIN:g}..{MAX_GAIN:g}")
        below(self, overlap=1)
        is_share(self, "", "audit")
        defaults = PackOptions()
        if self.seconds is None and (self.windows, self.overlap, self.min_seconds) != (
            defaults.windows,
            defaults.overlap,
            defaults.min_seconds,
        ):
            raise ValueError("windows, overlap and min_seconds go with seconds (--seconds 10)")
        if self.overlap and self.windows != "all":
            raise ValueError(f"overlap={self.overlap} goes with windows=all, not {self.windows}")
        fractions = self.split_fractions
        if len(fractions) != 3 or not (min(fractions) >= 0 and abs(sum(fractions) - 1) <= 1e-9):  # NaN compares False
            raise ValueError(f"split_fractions={fractions} must be three shares that add up to 1")
        self.quality.check()

    def identity(self) -> dict[str, Any]:
        """The options that decide the bytes of the result, as plain values."""
        values = dataclasses.asdict(self)
        del values["workers"], values["allow_unknown_subjects"], values["allow_unnamed"]
        return values
