"""Names of leads as devices and archives write them."""

import pytest

from lamae.base.leads import LEADS, canonical_columns, lead_index


@pytest.mark.parametrize(
    ("name", "lead"),
    [
        *((name.lower(), name) for name in LEADS),
        ("AVR", "aVR"),
        ("DI", "I"),
        ("DII", "II"),
        ("dIII", "III"),
        ("D1", "I"),
        ("MLII", "II"),
        ("C1", "V1"),
        ("c6", "V6"),
        ("aVR,", "aVR"),
        ("aVL:", "aVL"),
        ("ECG II", "II"),
        ("ECG I", "I"),
        ("ECG-aVL", "aVL"),
        ("lead I", "I"),
        ("I lead", "I"),
        ("V2_lead.", "V2"),
        ("ECG lead V1", "V1"),
        ("lead_V3", "V3"),
        ("MDC_ECG_LEAD_aVR", "aVR"),
        (" aVF ", "aVF"),
    ],
)
def test_a_lead_is_known_by_what_it_is_called(name, lead):
    assert lead_index(name) == LEADS.index(lead)


@pytest.mark.parametrize(
    "name",
    [
        *("-aVR", "ECG -aVR", "C7", "IV", "V7", "V3R", "resp", "X", "", "lead", "MCL1"),
        *("1", "2", "4", "ECG1", "ECG2", "ECG 1", "lead 1", "ECG", "Vlead1"),
    ],
)
def test_what_is_another_lead_is_not_taken_for_one(name):
    assert lead_index(name) is None


def test_its_own_name_counts_before_another():
    assert canonical_columns(["MLII", "V1", "II"])[:2] == [None, 2]
    assert canonical_columns(["MLII", "V1"])[1] == 0
    for twice in (["II", "ii"], ["MLII", "DII"]):
        with pytest.raises(ValueError, match="lead II is named twice"):
            canonical_columns(twice)
