"""Label sources: files that come with the data, read into a LabelTable.

Each reader keeps the conventions under which results on that source are published; where there are several, they are
arguments.
"""

import inspect
import sys
from array import array
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from lamae.base.errors import UsageError
from lamae.base.tables import NO_VALUE, Table
from lamae.base.text import few
from lamae.evaluate.labels.codes import CodeLists, choose_vocabulary
from lamae.evaluate.labels.csvrows import (
    BINARY,
    integer,
    integer_key,
    items,
    likelihoods,
    shortened,
    yes,
)
from lamae.evaluate.labels.groups import is_icd10
from lamae.evaluate.labels.headers import read_headers
from lamae.evaluate.labels.labelcsv import read_label_csv
from lamae.evaluate.labels.snomed import NAMES, SCP, ToSnomed
from lamae.evaluate.labels.store import NO_SPLIT, LabelReport, LabelTable, join_labels
from lamae.sharding.format import SPLITS, ShardSet
from lamae.sharding.join import KEY_COLUMNS
from lamae.sharding.sources import PTBXL_LIST

TRAIN, VAL, TEST = range(len(SPLITS))
MIMIC_PROTOCOLS = ("shards", "ed2all", "all2all")
PTBXL_PROTOCOLS = ("shards", "folds")
PTBXL_GROUPS = ("superclass", "subclass")
PTBXL_TASKS = (*PTBXL_GROUPS, "diagnostic", "form", "rhythm", "all")
VOCABULARIES = ("snomed",)
MIMIC_COLUMNS = ("ed_diag_ed", "ed_diag_hosp", "hosp_diag_hosp", "all_diag_hosp", "all_diag_all")
ICD_DIGITS = 5
ICD_ROOT_DIGITS = 3
# Where a code of ICD-9 has none in ICD-10-CM, the official mappings between them say so.
NO_ICD = NO_VALUE | {"nodx"}


def detect_source(file: Path, *, key_column: str | None = None) -> str:
    """Which of READERS is for ``file``, by its columns, whatever it is called; a directory is "snomed".

    Raises UsageError naming the possibilities when none fits.
    """
    if (file / PTBXL_LIST).is_file():
        raise UsageError(f"{file}: is PTB-XL's folder; its labels are in {file / PTBXL_LIST}")
    if file.is_dir() or file.suffix.casefold() == ".zip":
        return "snomed"
    names = Table(file).names
    heading = {name.casefold() for name in names}
    if "study_id" in heading and any(column in heading for column in MIMIC_COLUMNS):
        return "mimic-icd10"
    if "scp_codes" in heading and "filename_hr" in heading:
        return "ptbxl"
    wanted = (key_column,) if key_column else KEY_COLUMNS
    if {name.casefold() for name in wanted} & heading:
        return "csv"
    raise UsageError(
        f"{file}: its columns ({', '.join(names[:6])}{', …' if len(names) > 6 else ''}) fit no label source. "
        "mimic-icd10 has study_id and all_diag_all, ptbxl has scp_codes and filename_hr; snomed is a directory of WFDB "
        f"headers; any CSV needs a column of record keys (no {' or '.join(wanted)} here: name it with --key-column)"
    )


def build_labels(
    shards: Path | ShardSet, out: Path, *, source: str, file: Path, allow_missing: bool = False, **options: object
) -> LabelReport:
    """Read ``file`` as ``source`` (one of READERS), join it to ``shards`` and write ``out``; how the join went.

    ``file`` is records_w_diag_icd10.csv, ptbxl_database.csv, a directory of WFDB headers, or any CSV. ``options`` are
    those of the source's reader; None stands for its default. Raises UsageError when the file does not fit the source
    or the shard set, and for options that the source does not have.
    """
    shard_set = ShardSet.open(shards)
    reader = reader_of(source)
    given = {name: value for name, value in options.items() if value is not None}
    if given.get("protocol") == "shards":
        del given["protocol"]
    if source == given.get("vocabulary") and "label_column" not in given:
        del given["vocabulary"]  # the headers have these codes
    for name in given.keys() - inspect.signature(reader).parameters.keys():
        has = [other for other, its in READERS.items() if name in inspect.signature(its).parameters]
        option = OPTIONS.get(name, f"--{name.replace('_', '-')}")
        raise UsageError(f"{option} is for {' and '.join(has) or 'no source'}; {file} is read as --source {source}")
    if "vocabulary" in given:
        _require_choice("--vocabulary", str(given["vocabulary"]), VOCABULARIES)
    elif "merge" in given and source != "snomed":
        raise UsageError("--merge is for SNOMED CT codes: --source snomed, or --vocabulary snomed")
    return join_labels(shard_set, reader(file, **given), out, file=file, allow_missing=allow_missing)


def reader_of(source: str) -> Callable[..., LabelTable]:
    """What reads labels of a kind of source. Raises UsageError for an unknown one."""
    if source not in READERS:
        raise UsageError(f"label source {source!r} is none of {', '.join(READERS)}")
    return READERS[source]


def read_mimic_icd10(
    file: Path,
    *,
    column: str = "all_diag_all",
    min_count: int = 2000,
    top: int | None = None,
    distinct: bool = False,
    protocol: str = "shards",
) -> LabelTable:
    """``records_w_diag_icd10.csv`` of MIMIC-IV-ECG-Ext-ICD (Strodthoff et al., doi:10.13026/hdyc-1h77).

    ICD-10-CM codes of ``column`` are cut to 5 characters, trailing placeholder X removed, and their ancestors down to
    3 characters added. Codes with at least ``min_count`` records anywhere in the file are kept, at most the ``top``
    most frequent, so that the label set doesn't depend on which records were packed; ``distinct`` leaves out codes that
    say the same as one below them. A record without any code is unlabelled: nothing is known, rather than nothing
    wrong.

    ``protocol`` "ed2all" trains and tests on ECGs taken in the emergency department, "all2all" on those taken there or
    in hospital, both with strat_fold 0 to 17 / 18 / 19 as train / val / test and only the first ECG of a stay in val
    and test.
    """
    _require_choice("protocol", protocol, MIMIC_PROTOCOLS)
    _require_choice("column", column, MIMIC_COLUMNS)
    keys: list[str] = []
    lines, split = array("L"), bytearray()
    codes, left_out = CodeLists(), Counter[str]()
    normal: dict[str, frozenset[str]] = {}
    flag = {"ed2all": "ecg_taken_in_ed", "all2all": "ecg_taken_in_ed_or_hosp"}.get(protocol)
    wanted = ["study_id", column] + (["strat_fold", "ecg_no_within_stay", flag] if flag else [])
    for line, row in Table(file).rows(*wanted):
        where, cell = f"{file}, line {line}", row[column]
        keys.append(integer_key(row["study_id"], "study_id", where))
        lines.append(line)
        found: set[str] = set()
        for code in items(cell, column, where) if cell.casefold() not in NO_ICD else ():
            if code not in normal:
                normal[code] = _checked_ancestors(code, cell, column, where)
            if not normal[code]:
                left_out[code] += 1
            found |= normal[code]
        codes.append(found or None)
        if flag:
            fold = integer(row["strat_fold"], "strat_fold", where)
            first = integer(row["ecg_no_within_stay"], "ecg_no_within_stay", where) == 0
            split.append(_strodthoff_split(fold, first) if yes(row[flag], flag, where) else NO_SPLIT)
    return LabelTable(
        key_choices=(keys,),
        places=lines,
        codes=codes,
        vocabulary=choose_vocabulary(codes.counts(), min_count=min_count, top=top, distinct=distinct),
        split=np.array(split, dtype=np.uint8) if flag else None,
        protocol=f"MIMIC-IV-ECG-Ext-ICD {column}, 5 characters with ancestors, at least {min_count} records"
        + (f", {top} most frequent" if top else "")
        + (", distinct" if distinct else "")
        + f"; protocol {protocol}",
        notes=[f"{number:,} times {word!r} in a list of codes says no code" for word, number in left_out.items()],
    )


def _checked_ancestors(code: str, cell: str, column: str, where: str) -> frozenset[str]:
    """``icd10_ancestors``, empty where a word stands for no code. Raises UsageError for a word that is neither."""
    if code.casefold() in NO_ICD:
        return frozenset()
    if not is_icd10(code.strip().replace(".", "").upper()):
        raise UsageError(f"{where}: {column} is {shortened(cell)}, and {code!r} is no ICD-10 code")
    return icd10_ancestors(code)


def icd10_ancestors(code: str) -> frozenset[str]:
    """An ICD-10-CM code cut to 5 characters without trailing X, and its ancestors down to 3; empty for a blank."""
    code = code.strip().replace(".", "").upper()[:ICD_DIGITS].rstrip("X")
    return frozenset(sys.intern(code[:length]) for length in range(ICD_ROOT_DIGITS, len(code) + 1))


def read_ptbxl(
    file: Path,
    *,
    task: str | None = None,
    vocabulary: str | None = None,
    merge: bool = True,
    min_likelihood: float = 0.0,
    protocol: str = "shards",
    min_count: int = 1,
    top: int | None = None,
) -> LabelTable:
    """``ptbxl_database.csv`` of PTB-XL, with ``scp_statements.csv`` beside it (Wagner et al., doi:10.13026/kfzx-aw45).

    ``task`` selects SCP statements: superclass and subclass gather the diagnostic ones, diagnostic, form and rhythm
    take them as they are, all takes every one. ``vocabulary`` "snomed" takes all, or those of the task, to SNOMED CT
    codes as the Challenges did (``snomed.SCP``), ``merge`` those that they score as one to one.
    A statement counts from ``min_likelihood`` percent on; 0, which PTB-XL writes where the likelihood is not known (of
    rhythm and form as a rule), counts by default as in the published benchmarks and in the Challenges. A record without
    any label is unlabelled. ``protocol`` "folds": strat_fold 1 to 8 / 9 / 10 as train / val / test.
    """
    _require_choice("protocol", protocol, PTBXL_PROTOCOLS)
    task = task or ("all" if vocabulary else "superclass")
    _require_choice("task", task, PTBXL_TASKS)
    if vocabulary and task in PTBXL_GROUPS:
        raise UsageError(f"--task {task}: gathers statements, and --vocabulary {vocabulary} takes each by itself")
    if not 0 <= min_likelihood <= 100:
        raise UsageError(f"--min-likelihood {min_likelihood:g}: is a percentage, from 0 to 100")
    translate, descriptions = _scp_translation(file.with_name("scp_statements.csv"), task)
    high_names, low_names, lines, split = [], [], array("L"), bytearray()
    codes, unknown, unrated = CodeLists(), Counter[str](), Counter[str]()
    to_snomed = ToSnomed(SCP, merge=merge)
    for line, row in Table(file).rows("scp_codes", "strat_fold", "filename_hr", "filename_lr"):
        where = f"{file}, line {line}"
        high_names.append(Path(row["filename_hr"]).name)
        low_names.append(Path(row["filename_lr"]).name)
        lines.append(line)
        statements = likelihoods(row["scp_codes"], "scp_codes", where)
        likely = {code for code, percent in statements.items() if percent >= min_likelihood}
        unknown.update(likely - descriptions.keys())
        unrated.update(code for code in translate.keys() & statements.keys() - likely if not statements[code])
        labels = {translate[code] for code in likely & translate.keys()}
        codes.append((to_snomed(labels) if vocabulary else labels) or None)
        fold = integer(row["strat_fold"], "strat_fold", where)
        split.append(TEST if fold == 10 else VAL if fold == 9 else TRAIN)
    notes = to_snomed.notes(file) if vocabulary else []
    for counts, why in (
        (unknown, "statements that scp_statements.csv does not have count for nothing"),
        (unrated, f"left out by --min-likelihood {min_likelihood:g}, since their likelihood is not known (0)"),
    ):
        if counts:
            notes.append(f"{why}: {few([f'{code} ({number:,} records)' for code, number in counts.most_common()])}")
    return LabelTable(
        key_choices=(high_names, low_names),
        places=lines,
        codes=codes,
        vocabulary=choose_vocabulary(codes.counts(), min_count=min_count, top=top),
        split=np.array(split, dtype=np.uint8) if protocol == "folds" else None,
        descriptions=NAMES if vocabulary else descriptions | SUPERCLASSES,
        protocol=f"PTB-XL {task}{' as SNOMED CT codes' if vocabulary else ''}, likelihood at least {min_likelihood:g} %"
        f"; protocol {protocol}",
        notes=notes,
    )


SUPERCLASSES = {
    "NORM": "normal ECG",
    "MI": "myocardial infarction",
    "STTC": "ST/T change",
    "CD": "conduction disturbance",
    "HYP": "hypertrophy",
}


def _scp_translation(file: Path, task: str) -> tuple[dict[str, str], dict[str, str]]:
    """Statement to label of the task, and every statement to its description."""
    translate, descriptions = {}, {}
    wanted = ["description", "diagnostic", "form", "rhythm", "diagnostic_class", "diagnostic_subclass"]
    table = Table(file)
    # PTB-XL's column of statements comes first and has no name, of which pandas makes one.
    column = next((name for name in ("Unnamed: 0", "") if name in table.names), table.names[0])
    for _, row in table.rows(*wanted):
        code = row[column]
        descriptions[code] = row["description"]
        group = {"superclass": "diagnostic_class", "subclass": "diagnostic_subclass"}.get(task)
        if task == "all" or BINARY.get(row["diagnostic" if group else task].casefold()) == 1:
            translate[code] = row[group] if group else code
    if SCP.keys().isdisjoint(descriptions):
        raise UsageError(
            f"{file}: no SCP statement such as NORM is in its column {column or 'without a name'!r}; give the "
            f"column of statements no name, or fetch PTB-XL's file again"
        )
    return {code: label for code, label in translate.items() if label}, descriptions


def _strodthoff_split(fold: int, first_of_stay: bool) -> int:
    if fold <= 17:
        return TRAIN
    if not first_of_stay:
        return NO_SPLIT
    return VAL if fold == 18 else TEST


def _require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{name} {value!r} is none of {', '.join(choices)}")


READERS: dict[str, Callable[..., LabelTable]] = {
    "mimic-icd10": read_mimic_icd10,
    "ptbxl": read_ptbxl,
    "snomed": read_headers,
    "csv": read_label_csv,
}
OPTIONS = {"leave_out": "--except", "merge": "--merge"}
"""What the command line calls an option, where that is not its name."""
