"""The mixed corpus: nobody who is scored is pretrained on, and every source keeps its labels."""

import csv

import numpy as np
import pytest

from lamae.evaluate.labels.store import read_labels
from lamae.sharding.format import ShardSet
from lamae.study.corpus import build_corpus
from lamae.study.plan import CorpusConfig

PATIENTS = [(1, 11, "{'NORM': 100.0}"), (2, 11, "{'NORM': 80.0}"), (3, 12, "{'IMI': 100.0}"), (4, 13, "{'SR': 0.0}"),
            (5, 14, "{'NORM': 50.0}"), (6, 15, "{'IMI': 0.0}")]  # fmt: skip


def write_record(folder, name):
    times = np.arange(5000) / 500
    phase = np.random.default_rng(int(name[:5])).uniform(0, 6, size=2)
    I, II = 600 * np.sin(2 * np.pi * 1.3 * times + phase[:, None])  # noqa: E741
    limb = [I, II, II - I, -(I + II) / 2, I - II / 2, II - I / 2]
    adc = np.stack([*limb, *(k / 6 * I + II for k in range(6))], axis=1).round().clip(-32767, 32767).astype("<i2")
    folder.mkdir(parents=True, exist_ok=True)
    adc.tofile(folder / f"{name}.dat")
    leads = ("I", "II", "III", "AVR", "AVL", "AVF", "V1", "V2", "V3", "V4", "V5", "V6")
    lines = [f"{name}.dat 16 1000.0(0)/mV 16 0 {adc[0, k]} 0 0 {lead}" for k, lead in enumerate(leads)]
    (folder / f"{name}.hea").write_text("\n".join([f"{name} 12 500 5000", *lines]) + "\n")


@pytest.fixture
def sources(tmp_path):
    """A PTB-XL of six records of five patients, and a folder of one other recording."""
    ptbxl = tmp_path / "ptbxl"
    rows = []
    for number, patient, codes in PATIENTS:
        write_record(ptbxl / "records500" / "00000", f"{number:05d}_hr")
        high = f"records500/00000/{number:05d}_hr"
        rows.append(
            [number, f"{patient}.0", 300 if patient == 15 else 60, patient % 2, codes, 1, high[:-2] + "lr", high]
        )
    with (ptbxl / "ptbxl_database.csv").open("w", newline="") as stream:
        heading = ["ecg_id", "patient_id", "age", "sex", "scp_codes", "strat_fold", "filename_lr", "filename_hr"]
        csv.writer(stream).writerows([heading, *rows])
    (ptbxl / "scp_statements.csv").write_text(
        ",description,diagnostic,form,rhythm,diagnostic_class,diagnostic_subclass\n"
        "NORM,normal,1.0,,,NORM,NORM\nIMI,inferior,1.0,,,MI,IMI\nSR,sinus,,,1.0,,\n"
    )
    write_record(tmp_path / "others", "00001_hr")
    return ptbxl, tmp_path / "others"


def test_parts_keep_their_patients_out_of_pretraining(sources, tmp_path):
    ptbxl, others = sources
    config = CorpusConfig(
        synthetic_records=24, synthetic_subjects=12, seed=3, ptbxl=str(ptbxl), others=[str(others)], rate_hz=100
    )
    build = lambda: build_corpus(config, tmp_path / "corpus", workers=1, progress=lambda *_: None)
    parts = build()
    held_out = []
    for part in parts:
        shard_set = ShardSet.open(part.shards)
        keys, subjects = np.array(shard_set.keys), shard_set.column("subject")
        assert shard_set.rate_hz == 100
        assert shard_set.num_records >= 24 + 6 + 1 - shard_set.manifest["rejects"].get("no_usable_lead", 0)
        is_ptbxl, is_other = np.char.startswith(keys, "5"), np.char.startswith(keys, "6")
        train = np.isin(np.arange(len(keys)), shard_set.rows_of_split("train"))
        test = np.isin(np.arange(len(keys)), shard_set.rows_of_split("test"))
        assert not set(subjects[train]) & set(subjects[~train])
        assert train[is_other].all()
        assert (train | test)[is_ptbxl].all()
        assert subjects[keys == "50000001"] == subjects[keys == "50000002"]
        held_out.append(set(keys[is_ptbxl & test]))

        truth = read_labels(part.labels["ptbxl"])
        assert truth.codes == ["MI", "NORM"]
        by_key = {key: row for row, key in enumerate(shard_set.keys)}
        assert truth.label_NK[[by_key[f"5000000{n}"] for n in (1, 3)]].tolist() == [[0, 1], [1, 0]]
        assert set(np.flatnonzero(truth.labelled_N)) == {by_key[f"5000000{n}"] for n in (1, 2, 3, 5, 6)}
        synthetic = read_labels(part.labels["synthetic"])
        assert not synthetic.labelled_N[is_ptbxl | is_other].any()
    assert held_out[0] | held_out[1] == {f"5000000{n}" for n in range(1, 7)}
    assert not held_out[0] & held_out[1]

    before = [(path, path.stat().st_mtime_ns) for path in sorted((tmp_path / "corpus").rglob("*")) if path.is_file()]
    assert build() == parts
    assert before == [
        (path, path.stat().st_mtime_ns) for path in sorted((tmp_path / "corpus").rglob("*")) if path.is_file()
    ], "what was complete was made again"


def test_a_corpus_that_is_there_is_taken_as_it_is(corpus, tmp_path):
    config = CorpusConfig(shards=str(corpus["shards"]))
    (part,) = build_corpus(config, tmp_path / "corpus", workers=1, progress=lambda *_: None)
    assert part.shards == corpus["shards"]
    assert not (tmp_path / "corpus").exists()
