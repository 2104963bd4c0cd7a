"""Age and sex as if they were an embedding: the reference row that any representation of the ECG has to beat.

record = [age, age squared, age unknown, male, female]      (age in decades)
"""

import math
from pathlib import Path

import numpy as np

from lamae.base.errors import UsageError
from lamae.base.tables import Table
from lamae.evaluate.embeddings.embed import pretrained_flags, write_records
from lamae.evaluate.labels.csvrows import integer_key
from lamae.sharding.format import ShardSet

OLDEST_YEARS = 89.0  # PTB-XL writes 300 for everyone older, MIMIC shifts them likewise
_SEX = {"m": 0, "male": 0, "0": 0, "0.0": 0, "f": 1, "female": 1, "1": 1, "1.0": 1}


def embed_demographics(file: Path, shards: Path | ShardSet, out: Path) -> int:
    """Write ``out`` from ``records_w_diag_icd10.csv`` or ``ptbxl_database.csv``; how many records were found there.

    Others count as of unknown age and sex. Raises UsageError when the file is neither or nothing matches.
    """
    shard_set = ShardSet.open(shards)
    is_ptbxl = "filename_hr" in Table(file).names
    wanted = ["filename_hr", "filename_lr", "age", "sex"] if is_ptbxl else ["study_id", "age", "gender"]
    row_by_key = shard_set.row_by_record
    record = np.zeros((shard_set.num_records, 5), dtype=np.float32)
    record[:, 2] = 1
    num_found = 0
    for line, cells in Table(file).rows(*wanted):
        if is_ptbxl:
            keys = [Path(cells["filename_hr"]).name, Path(cells["filename_lr"]).name]
        else:
            keys = [integer_key(cells["study_id"], "study_id", f"{file}, line {line}")]
        row = next((row_by_key[key] for key in keys if key in row_by_key), None)
        if row is None:
            continue
        num_found += 1
        record[row] = _features(cells["age"], cells["sex" if is_ptbxl else "gender"])
    if not num_found:
        raise UsageError(f"{file}: none of its records is in {shard_set.root}")
    write_records(
        out,
        shard_set,
        record[shard_set.first_row],
        embedded_N=np.ones(shard_set.num_records, dtype=bool),
        pretrained_N=pretrained_flags(shard_set, None),
        attributes={"model": "age and sex", "made_by": "age and sex"},
    )
    return num_found


def _features(age: str, sex: str) -> list[float]:
    try:
        years = float(age)
    except ValueError:
        years = math.nan
    known = math.isfinite(years) and years >= 0
    decades = min(years, OLDEST_YEARS) / 10 if known else 0.0
    code = _SEX.get(sex.strip().lower())
    return [decades, decades**2, float(not known), float(code == 0), float(code == 1)]
