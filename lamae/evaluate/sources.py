"""Label sources: files that come with the data, read into a LabelTable.

Each reader keeps the conventions under which results on that source are published; where there are several, they are
arguments.
"""

import sys
from pathlib import Path

import numpy as np

from lamae.evaluate.csvrows import code_list, integer, integer_key, literal, read_heading, read_rows
from lamae.evaluate.labels import (
    NO_SPLIT,
    LabelReport,
    LabelTable,
    choose_vocabulary,
    count_codes,
    join_labels,
)
from lamae.sharding.errors import UsageError
from lamae.sharding.format import SPLITS, ShardSet

TRAIN, VAL, TEST = range(len(SPLITS))
SOURCES = ("mimic-icd10", "ptbxl", "snomed", "csv")
MIMIC_PROTOCOLS = ("shards", "ed2all", "all2all")
PTBXL_PROTOCOLS = ("shards", "folds")
PTBXL_TASKS = ("superclass", "subclass", "diagnostic", "form", "rhythm", "all")
MIMIC_COLUMNS = ("ed_diag_ed", "ed_diag_hosp", "hosp_diag_hosp", "all_diag_hosp", "all_diag_all")
ICD_DIGITS = 5
ICD_ROOT_DIGITS = 3


def detect_source(file: Path, *, key_column: str = "key") -> str:
    """Which of SOURCES ``file`` is, told from its columns, whatever it is called; a directory is "snomed".

    Raises UsageError naming the possibilities when none fits.
    """
    if file.is_dir():
        return "snomed"
    heading = read_heading(file)
    if "study_id" in heading and any(column in heading for column in MIMIC_COLUMNS):
        return "mimic-icd10"
    if "scp_codes" in heading and "filename_hr" in heading:
        return "ptbxl"
    if key_column in heading:
        return "csv"
    raise UsageError(
        f"{file}: its columns ({', '.join(heading[:6])}{', …' if len(heading) > 6 else ''}) fit no label source. "
        "mimic-icd10 has study_id and all_diag_all, ptbxl has scp_codes and filename_hr; snomed is a directory of WFDB "
        f"headers; any CSV with 0/1 columns needs a column of record keys (no {key_column!r} here: name it with "
        "--key-column)"
    )


def build_labels(
    shards: Path | ShardSet,
    out: Path,
    *,
    source: str,
    file: Path,
    protocol: str = "shards",
    allow_missing: bool = False,
    column: str = "all_diag_all",
    min_count: int = 2000,
    top: int | None = None,
    distinct: bool = False,
    task: str = "superclass",
    min_likelihood: float = 0.0,
    key_column: str = "key",
) -> LabelReport:
    """Read ``file`` as ``source`` (one of SOURCES), join it to ``shards`` and write ``out``; how the join went.

    ``file`` is records_w_diag_icd10.csv, ptbxl_database.csv, a directory of WFDB headers, or any CSV with 0/1 columns.

    ``protocol`` "shards" keeps the shard set's split; the others are the source's own, see the readers, as are the
    options below ``allow_missing``. Raises UsageError when the file does not fit the source or the shard set.
    """
    shard_set = shards if isinstance(shards, ShardSet) else ShardSet.open(shards)
    if source == "mimic-icd10":
        table = read_mimic_icd10(
            file, column=column, min_count=min_count, top=top, distinct=distinct, protocol=protocol
        )
    elif source == "ptbxl":
        table = read_ptbxl(file, task=task, min_likelihood=min_likelihood, protocol=protocol)
    elif source == "snomed":
        _require_choice("protocol", protocol, ("shards",))
        table = read_snomed_headers(file, min_count=min_count, top=top)
    elif source == "csv":
        _require_choice("protocol", protocol, ("shards",))
        table = read_label_csv(file, key_column=key_column, min_count=min_count, top=top)
    else:
        raise UsageError(f"label source {source!r} is none of {', '.join(SOURCES)}")
    return join_labels(shard_set, table, out, file=file, allow_missing=allow_missing)


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
    codes: list[frozenset[str] | None] = []
    split: list[int] = []
    normal: dict[str, frozenset[str]] = {}
    flag = {"ed2all": "ecg_taken_in_ed", "all2all": "ecg_taken_in_ed_or_hosp"}.get(protocol)
    wanted = ["study_id", column] + (["strat_fold", "ecg_no_within_stay", flag] if flag else [])
    for line, row in read_rows(file, wanted):
        where = f"{file}, line {line}"
        keys.append(integer_key(row["study_id"], "study_id", where))
        found: set[str] = set()
        for code in code_list(row[column], column, where):
            if code not in normal:
                normal[sys.intern(code)] = icd10_ancestors(code)
            found |= normal[code]
        codes.append(frozenset(found) or None)
        if flag:
            fold = integer(row["strat_fold"], "strat_fold", where)
            first = integer(row["ecg_no_within_stay"], "ecg_no_within_stay", where) == 0
            taken = row[flag].strip().lower() in ("true", "1", "1.0")
            split.append(_strodthoff_split(fold, first) if taken else NO_SPLIT)
    vocabulary = choose_vocabulary(count_codes(codes), min_count=min_count, top=top, distinct=distinct)
    return LabelTable(
        key_choices=(keys,),
        codes=codes,
        vocabulary=vocabulary,
        split=np.array(split, dtype=np.uint8),
        uses_own_split=flag is not None,
        descriptions={},
        protocol=f"MIMIC-IV-ECG-Ext-ICD {column}, 5 characters with ancestors, at least {min_count} records"
        + (f", {top} most frequent" if top else "")
        + (", distinct" if distinct else "")
        + f"; protocol {protocol}",
    )


def icd10_ancestors(code: str) -> frozenset[str]:
    """An ICD-10-CM code cut to 5 characters without trailing X, and its ancestors down to 3; empty for a blank."""
    code = code.strip().replace(".", "").upper()[:ICD_DIGITS].rstrip("X")
    return frozenset(sys.intern(code[:length]) for length in range(ICD_ROOT_DIGITS, len(code) + 1))


def read_ptbxl(
    file: Path, *, task: str = "superclass", min_likelihood: float = 0.0, protocol: str = "shards"
) -> LabelTable:
    """``ptbxl_database.csv`` of PTB-XL, with ``scp_statements.csv`` beside it (Wagner et al., doi:10.13026/kfzx-aw45).

    ``task`` selects SCP statements: superclass and subclass gather the diagnostic ones, diagnostic, form and rhythm
    take them as they are, all takes every one. A statement counts from ``min_likelihood`` percent on; 0, which PTB-XL
    writes where the likelihood is not known, counts by default as in the published benchmarks. A record without any
    statement of the task is unlabelled. ``protocol`` "folds": strat_fold 1 to 8 / 9 / 10 as train / val / test.
    """
    _require_choice("protocol", protocol, PTBXL_PROTOCOLS)
    _require_choice("task", task, PTBXL_TASKS)
    translate, descriptions = _scp_translation(file.with_name("scp_statements.csv"), task)
    high_names, low_names = [], []
    codes: list[frozenset[str] | None] = []
    split: list[int] = []
    for line, row in read_rows(file, ["scp_codes", "strat_fold", "filename_hr", "filename_lr"]):
        where = f"{file}, line {line}"
        high_names.append(Path(row["filename_hr"]).name)
        low_names.append(Path(row["filename_lr"]).name)
        statements = literal(row["scp_codes"], dict, "scp_codes", where)
        likely = (code for code, likelihood in statements.items() if float(likelihood) >= min_likelihood)
        codes.append(frozenset(translate[code] for code in likely if code in translate) or None)
        fold = integer(row["strat_fold"], "strat_fold", where)
        split.append(TEST if fold == 10 else VAL if fold == 9 else TRAIN)
    return LabelTable(
        key_choices=(high_names, low_names),
        codes=codes,
        vocabulary=choose_vocabulary(count_codes(codes), min_count=1),
        split=np.array(split, dtype=np.uint8),
        uses_own_split=protocol == "folds",
        descriptions=descriptions,
        protocol=f"PTB-XL {task}, likelihood at least {min_likelihood:g} %; protocol {protocol}",
    )


def read_snomed_headers(folder: Path, *, min_count: int = 1, top: int | None = None) -> LabelTable:
    """SNOMED CT codes of the ``#Dx:`` comments of all WFDB headers below ``folder`` (PhysioNet/CinC Challenge 2020/21).

    A record without such a comment is unlabelled. Names are the header's stem, or its path where a stem repeats.
    """
    headers = sorted(folder.rglob("*.hea")) if folder.is_dir() else []
    if not headers:
        raise UsageError(f"{folder}: no directory with WFDB headers (*.hea)")
    codes: list[frozenset[str] | None] = []
    for header in headers:
        found: set[str] = set()
        for line in header.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.lstrip("# ").partition(":")
            if line.startswith("#") and name.strip().lower() == "dx":
                found.update(code.strip() for code in value.split(",") if code.strip())
        codes.append(frozenset(found) or None)
    return LabelTable(
        key_choices=([_header_key(header.stem) for header in headers], [_path_key(h, folder) for h in headers]),
        codes=codes,
        vocabulary=choose_vocabulary(count_codes(codes), min_count=min_count, top=top),
        split=np.zeros(len(headers), dtype=np.uint8),
        uses_own_split=False,
        descriptions={},
        protocol=f"SNOMED CT codes of #Dx headers, at least {min_count} records; protocol shards",
    )


def read_label_csv(file: Path, *, key_column: str = "key", min_count: int = 1, top: int | None = None) -> LabelTable:
    """Any CSV with a column of record keys; every other column whose cells are all 0, 1 or empty is a label.

    A record whose label cells are all empty is unlabelled; a single empty cell in a labelled record counts as 0.
    """
    rows = list(read_rows(file, [key_column]))
    names = [name for name in (rows[0][1] if rows else {}) if name and name != key_column]
    values = {name: [_BINARY.get(row[name].strip().lower()) for _, row in rows] for name in names}
    labels = [name for name in names if all(value is not None for value in values[name])]
    if not labels:
        raise UsageError(f"{file}: no column besides {key_column} holds only 0, 1 or empty cells")
    codes: list[frozenset[str] | None] = []
    for number, (_, row) in enumerate(rows):
        known = any(row[name].strip() for name in labels)
        codes.append(frozenset(name for name in labels if values[name][number] == 1) if known else None)
    return LabelTable(
        key_choices=([row[key_column].strip() for _, row in rows],),
        codes=codes,
        vocabulary=choose_vocabulary(count_codes(codes), min_count=min_count, top=top),
        split=np.zeros(len(rows), dtype=np.uint8),
        uses_own_split=False,
        descriptions={},
        protocol=f"columns of a CSV, at least {min_count} records; protocol shards",
    )


_BINARY = {"": 0, "0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}


def _header_key(stem: str) -> str:
    return stem.replace(".", "_")


def _path_key(header: Path, folder: Path) -> str:
    return header.relative_to(folder).with_suffix("").as_posix().replace("/", "__").replace(".", "_")


SUPERCLASSES = {
    "NORM": "normal ECG",
    "MI": "myocardial infarction",
    "STTC": "ST/T change",
    "CD": "conduction disturbance",
    "HYP": "hypertrophy",
}


def _scp_translation(file: Path, task: str) -> tuple[dict[str, str], dict[str, str]]:
    """Statement to label of the task, and label to description."""
    translate, descriptions = {}, dict(SUPERCLASSES)
    wanted = ["description", "diagnostic", "form", "rhythm", "diagnostic_class", "diagnostic_subclass"]
    for _, row in read_rows(file, wanted):
        code = next(iter(row.values()))
        group = {"superclass": "diagnostic_class", "subclass": "diagnostic_subclass"}.get(task)
        if group:
            if row["diagnostic"].strip() and row[group].strip():
                translate[code] = row[group]
        elif task == "all" or row[task].strip():
            translate[code] = code
            descriptions[code] = row["description"]
    return translate, descriptions


def _strodthoff_split(fold: int, first_of_stay: bool) -> int:
    if fold <= 17:
        return TRAIN
    if not first_of_stay:
        return NO_SPLIT
    return VAL if fold == 18 else TEST


def _require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"{name} {value!r} is none of {', '.join(choices)}")
