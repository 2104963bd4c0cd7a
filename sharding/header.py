"""WFDB headers (https://wfdb.io/spec/header-files.html) of the one shape that large ECG archives use, strictly.

``parse_strict`` takes a header only when every line has exactly that shape: one ``.dat`` file of format 16 beside the
header, 16-bit samples, millivolts, an explicit baseline and a checksum for every signal. Anything else is None, and
the caller lets stock wfdb decide: a strict parser that gives up is safe, a lenient one that guesses is not.
"""

import re
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

# record, signals, rate, samples, time, date
_RECORD_LINE = re.compile(
    r"(\S+) (\d{1,3}) (\d{1,6}) (\d{1,9})(?: (\d\d):(\d\d):(\d\d)(?: (\d\d)/(\d\d)/(\d{4}))?)?[ \t]*"
)
# file, format 16, gain (baseline) / mV, resolution 16, ADC zero, initial value, checksum, block size 0, lead name
_SIGNAL_LINES = re.compile(
    r"^([^\s#]\S*) 16 (\d{1,9}(?:\.\d{1,9})?)\((-?\d{1,5})\)/mV 16 -?\d{1,5} -?\d{1,5} (-?\d{1,5}) 0 (\S+)[ \t]*$",
    re.MULTILINE,
)
_SUBJECT_COMMENT = re.compile(r"^#[ \t]*<subject_id>:[ \t]*(\d{1,18})[ \t]*$", re.MULTILINE)


class Header(NamedTuple):
    """What a strictly parsed header says. The tuples have one entry per signal, in file order."""

    rate_hz: float
    num_samples: int
    data_file: str
    names: tuple[str, ...]
    gains: tuple[float, ...]  # ADC units per millivolt
    baselines: tuple[int, ...]  # ADC value of 0 mV
    checksums: tuple[int, ...]  # sum of the signal's samples modulo 65536
    subject: int | None


def parse_strict(text: bytes, *, record: str) -> Header | None:
    """The header of ``record`` (its file name without ``.hea``), or None where a line departs from the shape."""
    try:
        content = text.decode("ascii")
    except UnicodeDecodeError:
        return None
    lines = content.split("\n")
    first = _RECORD_LINE.fullmatch(lines[0])
    if first is None or first[1] != record:
        return None
    if first[5] is not None and not _is_instant(*map(int, first.groups("1")[4:])):
        return None
    num_signals, rate_hz, num_samples = int(first[2]), int(first[3]), int(first[4])
    signals = _SIGNAL_LINES.findall(content)
    if not 0 < len(signals) == num_signals or rate_hz == 0 or num_samples == 0:
        return None
    # As many signal lines as there should be, and none of them down here: they are exactly the lines in between.
    comments = lines[1 + num_signals :]
    if any(line and line[0] != "#" for line in comments):
        return None
    files, gains, baselines, checksums, names = zip(*signals, strict=True)
    data_file = f"{record}.dat"
    if set(files) != {data_file}:
        return None
    parsed_gains = _floats(gains)
    if min(parsed_gains) <= 0:
        return None  # WFDB reads a gain of 0 as "uncalibrated, 200 per mV"
    return Header(
        rate_hz=float(rate_hz),
        num_samples=num_samples,
        data_file=data_file,
        names=names,
        gains=parsed_gains,
        baselines=_ints(baselines),
        checksums=tuple([int(checksum) & 0xFFFF for checksum in checksums]),
        subject=subject_comment("\n".join(comments)),
    )


def _is_instant(hour: int, minute: int, second: int, day: int, month: int, year: int) -> bool:
    try:
        datetime(year, month, day, hour, minute, second)
    except ValueError:
        return False
    return True


# An archive has few different gains and baselines: 800,000 headers ask for the same conversions.
@lru_cache(maxsize=256)
def _floats(texts: tuple[str, ...]) -> tuple[float, ...]:
    return tuple(map(float, texts))


@lru_cache(maxsize=256)
def _ints(texts: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(map(int, texts))


def subject_comment(header_text: str) -> int | None:
    """The subject id of MIMIC-IV-ECG's header comment ``# <subject_id>: 10000032``; None where there is none."""
    match = _SUBJECT_COMMENT.search(header_text)
    return int(match[1]) if match else None
