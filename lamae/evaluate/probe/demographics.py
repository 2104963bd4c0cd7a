"""Age and sex as if they were an embedding: the reference row that any representation of the ECG has to beat.

record = [age, age squared, age unknown, male, female]      (age in decades)
"""

import math
from pathlib import Path

import numpy as np

from lamae.base.tables import Table
from lamae.evaluate.embeddings.embed import Embeddings, pretrained_flags, write_records
from lamae.sharding.format import ShardSet
from lamae.sharding.join import coverage, values_by_key
from lamae.sharding.keys import RecordNames

AGE_AND_SEX = "age and sex"
OLDEST_YEARS = 89.0  # PTB-XL writes 300 for everyone older, MIMIC shifts them likewise
_SEX = {"m": 0, "male": 0, "0": 0, "0.0": 0, "f": 1, "female": 1, "1": 1, "1.0": 1}


def embed_demographics(file: Path, shards: Path | ShardSet, out: Path) -> int:
    """Write ``out`` from ``records_w_diag_icd10.csv`` or ``ptbxl_database.csv``; how many records were found there.

    Others count as of unknown age and sex, with a warning. Raises UsageError when the file is neither or nothing
    matches.
    """
    shard_set = ShardSet.open(shards)
    table = Table(file)
    key_columns, columns = ["study_id"], ["age", "gender"]
    if "filename_hr" in table.names:
        key_columns, columns = ["filename_hr", "filename_lr"], ["age", "sex"]
    table.require(*key_columns, *columns)
    row_by_key = shard_set.row_by_record
    people = values_by_key(table, key_columns, columns, RecordNames(row_by_key))
    coverage(file, AGE_AND_SEX, list(row_by_key), people, others="the others count as unknown", allow_few=True)
    record = np.zeros((shard_set.num_records, 5), dtype=np.float32)
    record[:, 2] = 1
    found = row_by_key.keys() & people
    for key in found:
        record[row_by_key[key]] = _features(*people[key])
    write_records(
        out,
        shard_set,
        record[shard_set.first_row],
        embedded_N=np.ones(shard_set.num_records, dtype=bool),
        pretrained_N=pretrained_flags(shard_set, None),
        attributes={"model": AGE_AND_SEX, "made_by": AGE_AND_SEX},
    )
    return len(found)


def describe_known(people: Embeddings) -> str:
    """Of how many records what ``embed_demographics`` wrote has age and sex."""
    has_age, has_sex = people.x_ND[:, 2] == 0, people.x_ND[:, 3:].any(1)
    return f"age of {has_age.sum():,} and sex of {has_sex.sum():,} of {len(people.x_ND):,} records"


def _features(age: str, sex: str) -> list[float]:
    try:
        years = float(age)
    except ValueError:
        years = math.nan
    known = math.isfinite(years) and years >= 0
    decades = min(years, OLDEST_YEARS) / 10 if known else 0.0
    code = _SEX.get(sex.strip().lower())
    return [decades, decades**2, float(not known), float(code == 0), float(code == 1)]
