"""The twelve standard leads: their canonical order and the algebra of the limb leads.

Files order the leads differently (MIMIC-IV-ECG stores aVF before aVL) and spell them differently (PTB-XL writes
AVR), so leads are always selected by name, ignoring case.
"""

from collections.abc import Sequence

import numpy as np

LEADS: tuple[str, ...] = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
NUM_LEADS = len(LEADS)
LIMB_LEADS = tuple(range(6))
CHEST_LEADS = tuple(range(6, 12))
# Any two limb leads determine the other four; these eight carry all the information of the twelve.
INDEPENDENT_LEADS = (0, 1, 6, 7, 8, 9, 10, 11)
DERIVED_LEADS = (2, 3, 4, 5)

# Rows: I II III aVR aVL aVF as linear functions of (I, II). Einthoven: III = II - I; Goldberger for the rest.
LIMB_FROM_I_II = np.array([[1, 0], [0, 1], [-1, 1], [-0.5, -0.5], [1, -0.5], [-0.5, 1]], dtype=np.float64)

_INDEX_BY_FOLDED_NAME = {name.casefold(): index for index, name in enumerate(LEADS)}


def lead_index(name: str) -> int | None:
    """Canonical index 0..11 of a lead name, ignoring case and surrounding blanks; None if it is none of the twelve."""
    return _INDEX_BY_FOLDED_NAME.get(name.strip().casefold())


def canonical_columns(names: Sequence[str]) -> list[int | None]:
    """For each canonical lead, the column of ``names`` that holds it, or None where it is absent.

    Raises ValueError when a lead is named twice: which of the two is meant cannot be known.
    """
    columns: list[int | None] = [None] * NUM_LEADS
    for column, name in enumerate(names):
        index = lead_index(name)
        if index is None:
            continue
        if columns[index] is not None:
            raise ValueError(f"lead {LEADS[index]} is named twice")
        columns[index] = column
    return columns


def parse_leads(text: str) -> list[int]:
    """Canonical indices of a comma-separated list such as ``I,II,V1``, in canonical order.

    Raises ValueError naming the entry that is no lead.
    """
    indices = set()
    for name in text.split(","):
        index = lead_index(name)
        if index is None:
            raise ValueError(f"{name.strip()!r} is no lead; the leads are {', '.join(LEADS)}")
        indices.add(index)
    return sorted(indices)
