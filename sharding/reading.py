"""Reading a record's files within bounds, and the reasons for which a record is left out.

What is the record's own (a file that is missing, forbidden or wrong) is a ``RejectError``. Any other failure to read
may pass, so it is a LamaeError: a record must not be lost for good because a disk was away for a moment.
"""

import errno
import posixpath

from lamae.base.errors import LamaeError
from lamae.sharding.files import HEADER_SUFFIX, DamagedFileError, Files

# Why a record is left out, and what its owner can do about it; the detail of each reject says the rest.
REMEDIES: dict[str, str] = {
    "missing_file": "fetch it, or correct its name in the header",
    "bad_header": "mend the header or fetch it again",
    "no_leads": "name the leads I II III aVR aVL aVF V1..V6 in the header",
    "duplicate_lead": "correct the names in the header",
    "unsupported": "convert the record, for example with wfdb.rdrecord and wfdb.wrsamp",
    "truncated": "fetch the file again",
    "unreadable": "fetch the record again, or leave it out",
    "checksum": "the signal file and its header do not belong together or are damaged; fetch both again",
    "units": "a voltage is nV, uV, mV or V; correct the header where the lead is one, or give --gain for all records",
    "gain": "correct the gain in the header, or give --gain for all records",
    "baseline": "correct the baseline in the header; 32 bits hold any that was recorded",
    "not_16_bit": "convert the samples to 16 bits, with a gain and baseline to match",
    "too_short": "lower --min-seconds to end it in missing samples",
    "subject_mismatch": "correct whichever of the two is wrong",
    "long_name": "give the record a shorter name, or cut it into fewer windows",
    "no_usable_lead": "leave the record out, or change the quality rules",
}

# What is over once a record's files are fetched or copied again. Headers are not among them: the plan fixes those.
OF_FILES = ("missing_file", "truncated", "unreadable", "checksum")

# A worker's memory is bounded, whatever a header says and however large its files are.
MAX_SAMPLES_READ = 1 << 19  # per lead; INCART's half hours have 462,600
_MAX_VALUES_READ = 1 << 23  # of all signals of a record
_MAX_HEADER_BYTES = 1 << 20
_MAX_SIGNAL_BYTES = 1 << 26

# Failures that stay as they are when the same command runs again: refused, or a name that leads nowhere.
_OF_THE_RECORD = {errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO, errno.EISDIR}


class RejectError(Exception):
    """This record is left out of the shard set."""

    def __init__(self, reason: str, detail: str) -> None:
        remedy = REMEDIES.get(reason)
        # What a header holds may be no text at all; rejects.csv is.
        self.detail = (f"{detail}; {remedy}" if remedy else detail).encode(errors="backslashreplace").decode()
        self.reason = reason
        super().__init__(f"{reason}: {self.detail}")


def read_header(files: Files, record: str) -> bytes:
    """The text of a record's header. Raises RejectError, and LamaeError for a failure that may pass."""
    return _read(files, record + HEADER_SUFFIX, _MAX_HEADER_BYTES)


def header_or_nothing(files: Files, record: str) -> bytes:
    """As ``read_header``; empty where it cannot be read, which packing the record will report."""
    try:
        return read_header(files, record)
    except RejectError:
        return b""


def read_signal_file(files: Files, record: str, name: str) -> bytes:
    """The signal file that a record's header names. Raises as ``read_header`` does."""
    return _read(files, _beside(files, record, name), _MAX_SIGNAL_BYTES)


def signal_file_size(files: Files, record: str, name: str) -> int:
    """The bytes of a signal file. Raises as ``read_header`` does."""
    path = _beside(files, record, name)
    try:
        return files.size(path)
    except OSError as error:
        raise _explained(files, path, error) from None


def _beside(files: Files, record: str, name: str) -> str:
    """The path of a signal file that a record's header names."""
    path = posixpath.join(posixpath.dirname(record), name)
    if name.startswith("/") or posixpath.normpath(files.base + path).startswith("../"):
        raise RejectError("missing_file", f"{name} is outside the source")
    return path


def is_long(num_samples: int, num_signals: int) -> bool:
    """Whether a header announces more than is read of a record."""
    return num_samples > MAX_SAMPLES_READ or num_samples * num_signals > _MAX_VALUES_READ


def refuse_long(num_samples: int, num_signals: int) -> None:
    """Raises RejectError for a record whose header announces more than is read."""
    if is_long(num_samples, num_signals):
        what = f"{num_samples} samples of {num_signals} signals"
        raise RejectError("wrong_length", f"{what}; at most {MAX_SAMPLES_READ} per lead are read")


def _read(files: Files, path: str, at_most: int) -> bytes:
    try:
        return files.read(path, at_most=at_most)
    except OSError as error:
        raise _explained(files, path, error) from None


def _explained(files: Files, path: str, error: OSError) -> RejectError | LamaeError:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return RejectError("missing_file", path)
    if isinstance(error, DamagedFileError):
        return RejectError("unreadable", str(error))
    what = error.strerror or error
    if error.errno in _OF_THE_RECORD:
        return RejectError("unreadable", f"{path}: {what}")
    return LamaeError(
        f"{files.root}: {path} cannot be read ({what}), which may pass; run the same command again to go on"
    )
