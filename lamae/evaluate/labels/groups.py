"""Groups of codes that are reported apart. Fixed before any result was seen; docs/evaluation.md gives the reasons."""

from collections.abc import Sequence

# ICD-10-CM prefixes of diagnoses whose definition or usual criteria are read off the ECG itself.
ECG_SALIENT = (
    "I21",  # acute myocardial infarction
    "I22",  # subsequent myocardial infarction
    "I252",  # old myocardial infarction
    "I421",  # obstructive hypertrophic cardiomyopathy
    "I422",  # other hypertrophic cardiomyopathy
    "I44",  # atrioventricular and left bundle branch block
    "I45",  # other conduction disorders, right bundle branch block, pre-excitation, long QT
    "I46",  # cardiac arrest
    "I47",  # paroxysmal tachycardia
    "I48",  # atrial fibrillation and flutter
    "I49",  # other arrhythmias
    "I517",  # cardiomegaly, which codes ventricular hypertrophy
    "R000",  # tachycardia
    "R001",  # bradycardia
    "R008",  # other abnormal heart beat
    "R9431",  # abnormal electrocardiogram
    "Z950",  # cardiac pacemaker
    "Z9581",  # implanted defibrillator
)


def is_icd10(code: str) -> bool:
    """Whether a name has the shape of an ICD-10 code: a letter, a digit, a digit or letter, then at most four more."""
    return 3 <= len(code) <= 7 and code[0].isalpha() and code[1].isdigit() and code.isalnum() and code == code.upper()


def code_groups(codes: Sequence[str]) -> dict[str, list[str]]:
    """Codes by group: cardiac chapter (I00 to I99), the rest, and the ECG-salient across both; empty groups left out.

    Names that are not ICD-10 make no groups at all.
    """
    if not all(is_icd10(code) for code in codes):
        return {}
    groups = {
        "cardiac chapter (I00-I99)": [code for code in codes if code.startswith("I")],
        "other chapters": [code for code in codes if not code.startswith("I")],
        "ECG-salient": [code for code in codes if code.startswith(ECG_SALIENT)],
        "not ECG-salient": [code for code in codes if not code.startswith(ECG_SALIENT)],
    }
    return {name: members for name, members in groups.items() if members}
