"""The twelve standard leads: their canonical order and the algebra of the limb leads.

Files order the leads differently (MIMIC-IV-ECG stores aVF before aVL) and spell them differently (PTB-XL writes
AVR), so leads are always selected by name, ignoring case.
"""

import re
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
# What devices and archives call them: Portuguese and French derivations (CODE-15 %), modified limb leads of monitors,
# chest leads as C.
_ALIASES = {
    **{f"{prefix}{numeral}": index for prefix in ("d", "ml") for index, numeral in enumerate(("i", "ii", "iii"))},
    **{f"d{number + 1}": number for number in range(3)},
    **{f"c{number}": 5 + number for number in range(1, 7)},
}
_DECORATION = re.compile(r"^(?:mdc_)?(?:e[ck]g(?:-|[\s_:]*))?(?:lead(?:-|[\s_:]*))?|(?:[\s_-]*lead)?[\s,:;.]*$")


def lead_index(name: str) -> int | None:
    """Canonical index 0..11 of a lead name, ignoring case, "ECG" before it, "lead" on either side, punctuation behind.

    Other common names are taken too: DI, D1, MLII, C1. None if it is none of the twelve; -aVR is another lead than aVR,
    and the channels ECG1 and 1 of a Holter recorder may be any lead.
    """
    plain = _DECORATION.sub("", name.strip().casefold())
    return _INDEX_BY_FOLDED_NAME.get(plain, _ALIASES.get(plain))


def canonical_columns(names: Sequence[str]) -> list[int | None]:
    """For each canonical lead, the column of ``names`` that holds it, or None where it is absent.

    Raises ValueError when a lead is named twice: which of the two is meant cannot be known.
    """
    columns: list[int | None] = [None] * NUM_LEADS
    is_exact = [name.strip().casefold() in _INDEX_BY_FOLDED_NAME for name in names]
    # A lead's own name counts before what it is called elsewhere: II beside MLII is II.
    for column in sorted(range(len(names)), key=lambda column: not is_exact[column]):
        index = lead_index(names[column])
        if index is None:
            continue
        taken = columns[index]
        if taken is None:
            columns[index] = column
        elif is_exact[column] == is_exact[taken]:
            raise ValueError(f"lead {LEADS[index]} is named twice")
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
