"""CODE-15 % as it is published, HDF5 files of many exams each, as WFDB records that are made while they are read.

    exams_part0.hdf5    exam_id int [N], tracings float [N, T, 12] at 400 Hz in millivolt; N is some 20,000, T 4096
     └─▶ exams_part0/EXAM.hea and .dat, format 16 at 1000 units per millivolt, for every exam

So everything that is done with WFDB records is done with these. Only the exam that is read leaves the disk.
"""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from lamae.base.errors import UsageError
from lamae.sharding.files import HEADER_SUFFIX, DamagedFileError
from lamae.sharding.format import NO_SAMPLE
from lamae.sharding.reading import MAX_SAMPLES_READ, RejectError
from lamae.sharding.walk import paths_below

EXAMS_NAME = "exams.csv"
_SUFFIXES = (".hdf5", ".h5")
_LEADS = ("DI", "DII", "DIII", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6")
_RATE_HZ = 400
_GAIN = 1000


class _Part(NamedTuple):
    exams: np.ndarray  # int [N]
    tracings: Any  # h5py.Dataset [N, T, 12]


def is_hdf5(path: str) -> bool:
    """Whether a file's name says that it is HDF5."""
    return path.casefold().endswith(_SUFFIXES)


class Hdf5Files:
    """The exams of all HDF5 files below a directory, in folders named as these files are without suffix."""

    is_thread_safe = False  # of an open file HDF5 reads one thing at a time, and ``read`` keeps the last exam

    def __init__(self, root: Path) -> None:
        """Raises UsageError where two files would be one folder."""
        self.root = root
        self.base = ""
        self._paths: dict[str, Path] = {}
        for path in sorted(filter(is_hdf5, paths_below(root))):
            there = self._paths.setdefault(PurePosixPath(path).stem, root / path)
            if there != root / path:
                raise UsageError(f"{there} and {root / path} have one name; keep one of them here")
        self._parts: dict[str, _Part] = {}
        self._last: tuple[str, bytes, bytes] = ("", b"", b"")  # a header is read before its samples

    def read(self, path: str, *, at_most: int | None = None) -> bytes:
        """As ``Files.read``, what is made being small anyway. Raises RejectError for what 16 bits do not hold."""
        record = path.rpartition(".")[0]
        if self._last[0] != record:
            part, row = self._find(record)
            with np.errstate(over="ignore", invalid="ignore"):  # of damaged files
                values = np.rint(_read(part.tracings, row, path).astype(np.float32, copy=False) * _GAIN)
            self._last = (record, *_as_wfdb(PurePosixPath(record).name, values))
        _, header, signals = self._last
        return header if path.endswith(HEADER_SUFFIX) else signals

    def size(self, path: str) -> int:
        return len(self.read(path))

    def exists(self, path: str) -> bool:
        try:
            self._find(path.rpartition(".")[0])
        except FileNotFoundError:
            return False
        return True

    def paths(self) -> Iterator[str]:
        """The headers of all exams. Raises UsageError naming a file that is damaged or holds anything else."""
        for name in self._paths:
            try:
                exams = self._part(name).exams.tolist()
            except (DamagedFileError, FileNotFoundError) as error:
                raise UsageError(f"{error}; fetch it again, or move it elsewhere") from None
            yield from (f"{name}/{exam}{HEADER_SUFFIX}" for exam in exams)

    def _find(self, record: str) -> tuple[_Part, int]:
        name, _, exam = record.rpartition("/")
        part = self._part(name)
        rows = np.flatnonzero(part.exams == int(exam))
        if not len(rows):
            raise FileNotFoundError(record)
        return part, int(rows[0])

    def _part(self, name: str) -> _Part:
        if name not in self._parts:
            path = self._paths.get(name)
            if path is None:
                raise FileNotFoundError(name)
            self._parts[name] = _open(path)
        return self._parts[name]


def _open(path: Path) -> _Part:
    try:
        import h5py
    except ModuleNotFoundError:
        raise UsageError(f"{path}: HDF5 is read with h5py, which is not installed: pip install 'lamae[hdf5]'") from None
    if not path.is_file():  # a pipe would be waited for
        raise FileNotFoundError(f"{path}: no regular file")
    try:
        # Locks are for writers; file systems of clusters may refuse them.
        file = h5py.File(path, "r", locking=False)
        exams, tracings = file.get("exam_id"), file.get("tracings")
    except (OSError, RuntimeError, ValueError) as error:
        raise _explained(error, path) from None
    absent = [n for n, d in (("exam_id", exams), ("tracings", tracings)) if not isinstance(d, h5py.Dataset)]
    if absent:
        raise DamagedFileError(f"{path}: no dataset {' and '.join(absent)}, so it is no part of CODE-15 %")
    what = f"exam_id is {exams.dtype} {list(exams.shape)} and tracings {tracings.dtype} {list(tracings.shape)}"
    if (
        (exams.ndim, tracings.ndim) != (1, 3)
        or exams.shape[0] != tracings.shape[0]
        or tracings.shape[2] != len(_LEADS)
        or not 0 < tracings.shape[1] <= MAX_SAMPLES_READ
        or exams.dtype.kind not in "iu"
        or tracings.dtype.kind != "f"
    ):
        raise DamagedFileError(f"{path}: {what}; expected whole numbers [N] and millivolt as floats [N, samples, 12]")
    return _Part(_read(exams, (), path), tracings)


def _read(dataset: Any, place: Any, path: object) -> np.ndarray:
    try:
        return np.asarray(dataset[place])
    except (OSError, RuntimeError, ValueError) as error:
        raise _explained(error, path) from None


def _explained(error: Exception, path: object) -> OSError:
    """What h5py raised, whichever exception HDF5's own error became: only the system's have a number, and may pass."""
    if isinstance(error, OSError) and error.errno is not None:
        return OSError(error.errno, os.strerror(error.errno), str(path))
    return DamagedFileError(f"{path}: not readable as HDF5 ({' '.join(str(error).split())})")


def _as_wfdb(exam: str, values: np.ndarray) -> tuple[bytes, bytes]:
    """Header and signal file of float ``values`` [T, 12], whole units or NaN. Raises RejectError."""
    beyond = np.abs(values) > np.iinfo(np.int16).max
    if beyond.any():
        lead = int(np.argmax(beyond.any(axis=0)))
        largest = np.nanmax(np.abs(values[:, lead])) / _GAIN
        raise RejectError("not_16_bit", f"lead {_LEADS[lead]} reaches {largest:g} mV; 32.767 is the most")
    samples = np.where(np.isnan(values), NO_SAMPLE, values).astype("<i2")
    sums = samples.sum(axis=0, dtype=np.int16)  # modulo 65536, as checksums are
    lines = [f"{exam} {len(_LEADS)} {_RATE_HZ} {len(samples)}"]
    lines += [
        f"{exam}.dat 16 {_GAIN}(0)/mV 16 0 {first} {total} 0 {lead}"
        for first, total, lead in zip(samples[0], sums, _LEADS, strict=True)
    ]
    return ("\n".join(lines) + "\n").encode(), samples.tobytes()
