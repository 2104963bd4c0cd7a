"""Random numbers addressed by what they are for, so that nothing depends on what was generated before."""

from enum import IntEnum

import numpy as np


class Stream(IntEnum):
    """What the numbers decide; streams are independent of each other."""

    SUBJECT = 0
    STAY = 1
    RECORD = 2
    DEFECT = 3
    MACHINE = 4
    PLAN = 5
    IDS = 6
    FOLDS = 7


def random_stream(seed: int, stream: Stream, *numbers: int) -> np.random.Generator:
    """The random numbers of one thing (subject 7, record 3 of subject 7), whatever else is generated."""
    return np.random.default_rng((seed, int(stream), *numbers))
