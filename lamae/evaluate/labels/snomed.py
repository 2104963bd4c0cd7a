"""SNOMED CT codes of the PhysioNet/CinC Challenges 2020 and 2021: names, and which of them the Challenge scores as one.

Codes, names and abbreviations are those of the Challenges' own table of diagnoses (Dx mapping): all that 2021 scores,
and the more frequent of the others. A code that is not here has no name and is otherwise treated alike.
``ToSnomed`` takes the words of other sources to these codes.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from lamae.base.errors import UsageError
from lamae.base.tables import whole_number
from lamae.base.text import few

EQUIVALENT = {"733534002": "164909002", "713427006": "59118001", "63593006": "284470004", "17338001": "427172004"}
"""Code to the one that stands for both, as scored in 2021 (the first pair is not yet in 2020)."""

CODE = re.compile(r"[0-9]{6,18}")

_SCORED = """
164889003 AF atrial fibrillation
164890007 AFL atrial flutter
6374002 BBB bundle branch block
426627000 Brady bradycardia
733534002 CLBBB complete left bundle branch block
713427006 CRBBB complete right bundle branch block
270492004 IAVB 1st degree AV block
713426002 IRBBB incomplete right bundle branch block
39732003 LAD left axis deviation
445118002 LAnFB left anterior fascicular block
164909002 LBBB left bundle branch block
251146004 LQRSV low QRS voltages
698252002 NSIVCB nonspecific intraventricular conduction disorder
426783006 NSR sinus rhythm
284470004 PAC premature atrial contraction
10370003 PR pacing rhythm
365413008 PRWP poor R wave progression
427172004 PVC premature ventricular contractions
164947007 LPR prolonged PR interval
111975006 LQT prolonged QT interval
164917005 QAb Q wave abnormal
47665007 RAD right axis deviation
59118001 RBBB right bundle branch block
427393009 SA sinus arrhythmia
426177001 SB sinus bradycardia
427084000 STach sinus tachycardia
63593006 SVPB supraventricular premature beats
164934002 TAb T wave abnormal
59931005 TInv T wave inversion
17338001 VPB ventricular premature beats
"""
_OTHERS = """
57054005 AMI acute myocardial infarction
54329005 AnMI anterior myocardial infarction
164865005 MI myocardial infarction
164867002 OldMI old myocardial infarction
426434006 AnMIs anterior ischemia
425419005 IIs inferior ischaemia
425623009 LIs lateral ischaemia
164861001 MIs myocardial ischemia
195042002 IIAVB 2nd degree AV block
54016002 MoI Mobitz type I (Wenckebach) AV block
28189009 MoII Mobitz type II AV block
27885002 CHB complete heart block
233917008 AVB AV block
251120003 ILBBB incomplete left bundle branch block
445211001 LPFB left posterior fascicular block
74390002 WPW Wolff-Parkinson-White pattern
195080001 AFAFL atrial fibrillation and flutter
426749004 CAF chronic atrial fibrillation
282825002 PAF paroxysmal atrial fibrillation
713422000 ATach atrial tachycardia
426761007 SVT supraventricular tachycardia
67198005 PSVT paroxysmal supraventricular tachycardia
233896004 AVNRT atrioventricular node reentrant tachycardia
233897008 AVRT atrioventricular reentrant tachycardia
195101003 WAP wandering atrial pacemaker
164895002 VTach ventricular tachycardia
164896001 VF ventricular fibrillation
164884008 VEB ventricular ectopics
11157007 VBig ventricular bigeminy
251180001 VTrig ventricular trigeminy
251173003 AB atrial bigeminy
251164006 JPC junctional premature complex
426995002 JE junctional escape
426648003 JTach junctional tachycardia
61277005 AIVR accelerated idioventricular rhythm
251268003 AP atrial pacing pattern
251266004 VPP ventricular pacing pattern
164873001 LVH left ventricular hypertrophy
89792004 RVH right ventricular hypertrophy
266249003 VH ventricular hypertrophy
446813000 LAH left atrial hypertrophy
446358003 RAH right atrial hypertrophy
67741000119109 LAE left atrial enlargement
253352002 LAA left atrial abnormality
370365005 LVS left ventricular strain
429622005 STD ST depression
164931005 STE ST elevation
164930006 STIAb ST interval abnormal
55930002 STC ST changes
428750005 NSSTTA nonspecific ST-T abnormality
428417006 ERe early repolarization
418818005 Brug Brugada syndrome
164951009 abQRS abnormal QRS
77867006 SQT decreased QT interval
"""


def _names(table: str) -> dict[str, str]:
    rows = (line.split(maxsplit=2) for line in table.strip().splitlines())
    return {code: f"{name} ({abbreviation})" for code, abbreviation, name in rows}


SCORED = _names(_SCORED)
NAMES = SCORED | _names(_OTHERS)

_SCP = """
426783006 NORM SR
426177001 SBRAD
427084000 STACH
427393009 SARRH
164889003 AFIB
164890007 AFLT
426761007 SVTAC
67198005 PSVT
63593006 SVARR
284470004 PAC
164884008 PVC
11157007 BIGU
251180001 TRIGU
10370003 PACE
270492004 1AVB
195042002 2AVB
27885002 3AVB
164947007 LPR
74390002 WPW
713427006 CRBBB
713426002 IRBBB
164909002 CLBBB
251120003 ILBBB
445118002 LAFB
445211001 LPFB
698252002 IVCD
164951009 ABQRS HVOLT
251146004 LVOLT
164917005 QWAVE
164873001 LVH VCLVH
89792004 RVH
266249003 SEHYP
67741000119109 LAO/LAE
446358003 RAO/RAE
164865005 IMI ASMI ILMI ALMI LMI IPLMI IPMI PMI
54329005 AMI
164861001 ISC_ ISCAL ISCIL ISCAS
426434006 ISCAN
425419005 ISCIN
425623009 ISCLA
164934002 NDT NT_ LOWT TAB_
59931005 INVT
111975006 LNGQT
428750005 DIG EL ANEUR
55930002 NST_
429622005 STD_
164931005 STE_
"""
_CPSC = """
426783006 Normal
164889003 AF
270492004 I-AVB
164909002 LBBB
59118001 RBBB
284470004 PAC
164884008 PVC
429622005 STD
164931005 STE
"""
_CHAPMAN = """
426783006 SR
427084000 ST
427393009 SI
164890007 AF
713422000 AT
195101003 SAAWR
"""


def _codes(table: str) -> dict[str, str]:
    return {name: code for code, *names in map(str.split, table.strip().splitlines()) for name in names}


SCP = _codes(_SCP)
"""PTB-XL's statements to the codes of the Challenges' copy of it. They follow from how many records of PTB-XL the
table of diagnoses counts with each code; docs/evaluation.md says how, and which statements the counts leave open."""
CPSC = _codes(_CPSC)
"""The classes of CPSC 2018, as the headers of its first release have them, to those of the Challenges' release."""
CHAPMAN = _codes(_CHAPMAN)
"""The rhythms of Chapman-Shaoxing's Diagnostics.csv that the Challenges abbreviate otherwise: AF is flutter there."""
_ABBREVIATIONS = {name.rpartition("(")[2][:-1]: code for code, name in NAMES.items()} | {"AFIB": "164889003"}
_CODE15 = {"1dAVb": "270492004", "ST": "427084000"}


def names_to_codes(names: Collection[str], file: Path, notes: list[str]) -> dict[str, str]:
    """Codes of all the words or columns of a table: the Challenges' abbreviations, and the names of CODE-15 % or of
    Chapman-Shaoxing where it is that table, which the notes then say.

    Raises UsageError where AF may be fibrillation or flutter.
    """
    if "1dAVb" in names:
        return _ABBREVIATIONS | _CODE15
    words = set(names)
    beside_afib = words & CHAPMAN.keys() - {"AF"} if "AFIB" in words else set()
    if not words & {"AFL", "AFLT"} and (words & {"SI", "SAAWR"} or beside_afib):
        if "AF" in words:
            notes.append("AF is atrial flutter and AFIB fibrillation, as in Chapman-Shaoxing's table of rhythms")
        return _ABBREVIATIONS | CHAPMAN
    if {"AF", "AFIB"} <= words:
        raise UsageError(
            f"{file}: has both AF and AFIB, and one may be atrial flutter; write the codes in place of AF: "
            f"164889003 for fibrillation, 164890007 for flutter"
        )
    return _ABBREVIATIONS


def _listed(word: str) -> list[str]:
    """The numbers of "426783006,164889003", as #Dx has them, or of "426783006.0", as pandas has; else the word."""
    numbers = [whole_number(part) for part in re.split(r"[,\s]+", word)]
    return [word] if None in numbers else [str(number) for number in numbers]


class ToSnomed:
    """A source's words, record by record, to SNOMED CT codes; counts what is left out and what is merged."""

    def __init__(self, codes: Mapping[str, str], *, merge: bool) -> None:
        self._codes = codes
        self._merge = merge
        self._unmapped, self._merged, self._num_found = Counter[str](), Counter[str](), 0

    def __call__(self, words: Iterable[str]) -> set[str]:
        """The codes of one record. Words that are codes, or a list of them, stay; equivalent codes become one."""
        each = {code for word in words for code in ([word] if word in self._codes else _listed(word))}
        found = {word: self._codes.get(word, word if CODE.fullmatch(word) else None) for word in each}
        self._unmapped.update(word for word, code in found.items() if code is None)
        codes = {code for code in found.values() if code is not None}
        self._num_found += len(codes)
        if not self._merge:
            return codes
        self._merged.update(codes & EQUIVALENT.keys())
        return {EQUIVALENT.get(code, code) for code in codes}

    def notes(self, file: Path) -> list[str]:
        """What the user should know of it. Raises UsageError where words were read and none has a code."""
        unmapped = [f"{word} ({number:,} records)" for word, number in self._unmapped.most_common()]
        if unmapped and not self._num_found:
            raise UsageError(f"{file}: none of its labels has a SNOMED CT code here: {few(unmapped)}")
        return ([f"without a SNOMED CT code, left out: {few(unmapped)}"] if unmapped else []) + [
            f"{code} {NAMES[code]} counts as {EQUIVALENT[code]} {NAMES[EQUIVALENT[code]]} in {number} records, as the "
            f"Challenge scores them (--no-merge keeps them apart)"
            for code, number in sorted(self._merged.items())
        ]
