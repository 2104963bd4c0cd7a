"""WFDB headers (https://wfdb.io/spec/header-files.html): a fast parser for the usual shape, a full one for the rest.

``parse_strict`` takes a header only when every line has the one shape that large ECG archives use: one ``.dat`` file of
format 16 beside the header, 16-bit samples, millivolts, an explicit baseline and a checksum for every signal.
``parse`` takes whatever the specification, hea(5), allows. A line that it cannot read to the end is an error: stock
wfdb 4.3.1 reads as far as its pattern goes and drops the rest, so ``5e2`` Hz are 5, ``2E2(0)/mV`` is a gain of 2 and
the rest of that line the lead's name, and a unit loses its ``µ``.
"""

import re
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

from lamae.base.tables import subject_number

# record, signals, rate, samples, time, date
_RECORD_LINE = re.compile(
    r"(\S+) (\d{1,3}) (\d{1,6}) (\d{1,9})(?: (\d\d):(\d\d):(\d\d)(?: (\d\d)/(\d\d)/(\d{4}))?)?[ \t]*"
)
# file, format 16, gain (baseline) / mV, resolution 16, ADC zero, initial value, checksum, block size 0, lead name
_SIGNAL_LINES = re.compile(
    r"^([^\s#]\S*) 16 (\d{1,9}(?:\.\d{1,9})?)\((-?\d{1,5})\)/mV 16 -?\d{1,5} -?\d{1,5} (-?\d{1,5}) 0 (\S+)[ \t]*$",
    re.MULTILINE,
)
# MIMIC-IV-ECG writes <subject_id>: 10000032, the Challenge of 2025 Patient ID: 911235, INCART patient 1.
_SUBJECT_COMMENT = re.compile(
    r"^#[ \t]*<?(?:subject|patient)"
    r"(?:[ _]?(?:id|number|no\.?)>?[ \t]*[:=][ \t]*(.*)|>?[ \t]*[:=]?[ \t]*(\d{1,18})[ \t\r]*$)",
    re.MULTILINE | re.IGNORECASE,
)


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


class HeaderError(ValueError):
    """The text says what is wrong with a header."""


class Signal(NamedTuple):
    """One signal line. What it leaves out has the default of hea(5), the name is empty."""

    file: str
    format: int
    samples_per_frame: int
    skew: int  # samples before sample 0
    offset: int  # bytes before the first sample
    gain: float  # ADC units per unit; 0 where the signal is not calibrated
    baseline: int
    units: str
    initial: int
    checksum: int | None
    name: str


class FullHeader(NamedTuple):
    """What ``parse`` finds."""

    num_segments: int | None  # None for a record of one piece
    rate_hz: float | None
    num_samples: int | None
    signals: tuple[Signal, ...]
    num_signal_lines: int  # may be more than there are signals
    subject: int | None


_FLOAT = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_DIGITS = r"\d{1,18}"
_WHOLE = rf"[+-]?{_DIGITS}(?:\.0*)?"
_ANY_RECORD_LINE = re.compile(rf"\S+?(?:/({_DIGITS}))?\s+({_DIGITS})(?:\s+(\S+)(?:\s+(\S+).*)?)?", re.ASCII)
_RATE = re.compile(rf"({_FLOAT})(?:[/(]\S*)?", re.ASCII)  # what follows is a counter's frequency and base
_ANY_SIGNAL_LINE = re.compile(
    rf"(?P<file>[^\s\0]+)\s+(?P<format>{_DIGITS})"
    rf"(?:x(?P<frame>{_DIGITS}))?(?::(?P<skew>{_DIGITS}))?(?:\+(?P<offset>{_DIGITS}))?"
    # Each of these can be there only if the one before it is. A name without all of them is one word, and no number.
    rf"(?:\s+(?P<gain>{_FLOAT})(?:\((?P<baseline>{_WHOLE})?\))?(?:/(?P<units>\S*))?"
    rf"(?:\s+{_WHOLE}(?:\s+(?P<zero>{_WHOLE})(?:\s+(?P<initial>{_WHOLE})(?:\s+(?P<checksum>{_WHOLE})"
    rf"(?:\s+(?P<block>{_WHOLE}))?)?)?)?)?)?(?:\s+(?P<name>(?(block).*|[A-Za-z]\S*)))?",
    re.ASCII,
)


def parse(text: bytes) -> FullHeader:
    """The header as hea(5) defines it. Raises HeaderError.

    Bytes that are no UTF-8 become surrogates, as in the names of files. Time and date are not looked at.
    """
    lines: list[str] = []
    comments: list[str] = []
    for raw in text.removeprefix(b"\xef\xbb\xbf").splitlines():
        line = raw.decode(errors="surrogateescape").strip(" \t\f\v\0\x1a")
        if line:
            (comments if line[0] == "#" else lines).append(line)
    first = _ANY_RECORD_LINE.fullmatch(lines[0]) if lines else None
    if first is None:
        raise HeaderError(f"no WFDB header; it begins with {lines[0][:80] if lines else ''!r}")
    segments, declared, rate, length = first.groups()
    if segments is not None:
        return FullHeader(int(segments), None, None, (), 0, None)
    num_signals, num_lines = int(declared), len(lines) - 1
    if num_lines < num_signals:
        raise HeaderError(f"{num_signals} signals declared, {num_lines} signal lines")
    signals = tuple(_signal(number, line) for number, line in enumerate(lines[1 : 1 + num_signals], start=1))
    subject = subject_comment("\n".join(comments))
    return FullHeader(None, _rate(rate), _length(length), signals, num_lines, subject)


def _rate(text: str | None) -> float | None:
    if text is None:
        return None
    match = _RATE.fullmatch(text)
    if match is None or not 0 < float(match[1]) < float("inf"):
        raise HeaderError(f"the record line gives {text!r} as sampling frequency")
    return float(match[1])


def _length(text: str | None) -> int | None:
    if text is None or re.search(r"\d[:/-]", text):  # a time or a date: the length before it is missing
        return None
    if re.fullmatch(_WHOLE, text, re.ASCII) is None or text[0] == "-":
        raise HeaderError(f"the record line gives {text!r} as number of samples")
    return _whole(text) or None  # 0 is "not known"


def _signal(number: int, line: str) -> Signal:
    match = _ANY_SIGNAL_LINE.fullmatch(line)
    if match is None:
        raise HeaderError(f"signal line {number} cannot be read: {line[:120]!r}")
    found = match.groupdict()
    zero = _whole(found["zero"] or "0")
    return Signal(
        file=found["file"],
        format=int(found["format"]),
        samples_per_frame=int(found["frame"] or 1),
        skew=int(found["skew"] or 0),
        offset=int(found["offset"] or 0),
        gain=float(found["gain"] or 0),
        baseline=_whole(found["baseline"]) if found["baseline"] else zero,
        units=found["units"] or "mV",
        initial=_whole(found["initial"]) if found["initial"] else zero,
        checksum=_whole(found["checksum"]) & 0xFFFF if found["checksum"] else None,
        name=found["name"] or "",
    )


def _whole(text: str) -> int:
    return int(text.partition(".")[0])


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
    if first[5] is not None and not _is_valid_time(*map(int, first.groups("1")[4:])):
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


def _is_valid_time(hour: int, minute: int, second: int, day: int, month: int, year: int) -> bool:
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
    """The subject that a header's comment names; None where there is none."""
    match = _SUBJECT_COMMENT.search(header_text)
    return subject_number(match[1] or match[2] or "") if match else None
