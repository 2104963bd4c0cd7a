"""Stock wfdb as the decoder of signal files and as the yardstick of the fast reader.

wfdb reads records on disk only, and only under names of letters, digits, ``_`` and ``-``: what it shall read is written
to a temporary folder, under names that it takes.
"""

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lamae.sharding.header import Signal

NULL_FORMAT = 0  # of a signal that was not recorded
_NAME = "record"


class Format(NamedTuple):
    """How signal(5) stores a sample."""

    num_bytes: float  # 0 where samples are compressed (FLAC)
    no_sample: int | None


# Those that wfdb decodes. The lowest value of so many bits means "no sample"; format 8, of differences, has none.
FORMATS = {8: Format(1, None)} | {
    number: Format(num_bytes, -(1 << (bits - 1)))
    for number, num_bytes, bits in (
        *((16, 2, 16), (24, 3, 24), (32, 4, 32), (61, 2, 16), (80, 1, 8), (160, 2, 16), (212, 3 / 2, 12)),
        *((310, 4 / 3, 10), (311, 4 / 3, 10), (508, 0, 8), (516, 0, 16), (524, 0, 24)),
    )
}


class WfdbError(Exception):
    """Wfdb cannot read it; the text is wfdb's own."""


def decode(data: bytes, signals: Sequence[Signal], num_samples: int) -> list[np.ndarray]:
    """The samples, int64 [num_samples], of each of the ``signals`` that the file ``data`` holds. Raises WfdbError."""
    lines = [f"{_NAME} {len(signals)} 250 {num_samples}"]
    lines += [f"{_NAME}.dat {s.format}+{s.offset} 200(0)/mV 16 0 {s.initial} 0 0 signal" for s in signals]
    return list(_read("\n".join(lines).encode(), data).d_signal.T)


def read_renamed(header: bytes, data: bytes, *, record: str) -> Any:
    """What wfdb reads of a ``record`` whose signals are in one file of its name. Raises WfdbError."""
    return _read(re.sub(rb"(?m)^" + re.escape(record.encode()), _NAME.encode(), header), data)


def _read(header: bytes, data: bytes) -> Any:
    import wfdb  # slow to import (pandas) and needed by few records

    with tempfile.TemporaryDirectory(prefix="lamae-") as folder:
        path = Path(folder) / _NAME
        path.with_suffix(".hea").write_bytes(header)
        path.with_suffix(".dat").write_bytes(data)
        try:
            return wfdb.rdrecord(str(path), physical=False)
        except OSError:  # of the temporary folder
            raise
        except Exception as error:  # wfdb raises whatever its parser and decoders trip over
            # The folder's name and addresses are others on every run, and rejects.csv shall not be.
            text = re.sub(r"\b0x[0-9a-f]+", "0x", str(error).replace(f"{folder}/", ""))
            text = " ".join(text.split())[:200]
            raise WfdbError(text or type(error).__name__) from None
