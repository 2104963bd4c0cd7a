"""The mixed corpus: nobody who is scored is pretrained on, and every source keeps its labels."""

import csv

import numpy as np
import pytest

from lamae.base.errors import UsageError
from lamae.evaluate.labels.store import read_labels
from lamae.sharding.format import ShardSet
from lamae.study.corpus import build_corpus, check_labels
from lamae.study.plan import CorpusConfig, SourceConfig, StudyPlan, TaskConfig

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
def ptbxl(tmp_path):
    """A PTB-XL of six records of five patients."""
    folder, rows = tmp_path / "PTB-XL", []
    for number, patient, codes in PATIENTS:
        write_record(folder / "records500" / "00000", f"{number:05d}_hr")
        high = f"records500/00000/{number:05d}_hr"
        rows.append(
            [number, f"{patient}.0", 300 if patient == 15 else 60, patient % 2, codes, 1, high[:-2] + "lr", high]
        )
    with (folder / "ptbxl_database.csv").open("w", newline="") as stream:
        heading = ["ecg_id", "patient_id", "age", "sex", "scp_codes", "strat_fold", "filename_lr", "filename_hr"]
        csv.writer(stream).writerows([heading, *rows])
    (folder / "scp_statements.csv").write_text(
        ",description,diagnostic,form,rhythm,diagnostic_class,diagnostic_subclass\n"
        "NORM,normal,1.0,,,NORM,NORM\nIMI,inferior,1.0,,,MI,IMI\nSR,sinus,,,1.0,,\n"
    )
    return folder


def make_plan(**corpus):
    tasks = {
        "superclass": TaskConfig(source="ptbxl", protocol="patients"),
        "diagnostic": TaskConfig(source="ptbxl", protocol="patients", label_options=["task=diagnostic"]),
        "icd": TaskConfig(source="synthetic"),
    }
    return StudyPlan(corpus=CorpusConfig(synthetic_records=24, synthetic_subjects=12, seed=3, **corpus), tasks=tasks)


def test_parts_keep_their_patients_out_of_pretraining(ptbxl, tmp_path):
    write_record(tmp_path / "others", "00001_hr")
    places = {"ptbxl": SourceConfig(str(ptbxl)), "others": SourceConfig(str(tmp_path / "others"), ["seconds=5"])}
    plan = make_plan(sources={**places, "not there": SourceConfig()}, val_share=0.2)
    build = lambda: build_corpus(plan, tmp_path / "corpus", workers=1, progress=lambda *_: None)
    parts = build()
    held_out = []
    for part in parts:
        sets = {name: ShardSet.open(path) for name, path in part.sets.items()}
        assert [(name, one.num_samples, one.rate_hz) for name, one in sets.items()] == [
            ("ptbxl", 1000, 100),
            ("others", 500, 100),
            ("synthetic", 1000, 100),
        ]
        assert set(part.demographics) == {"ptbxl", "synthetic"}
        assert len(sets["others"].rows_of_split("train")) == 1, "what no task scores is pretrained on whole"
        for name in ("ptbxl", "synthetic"):
            subjects = sets[name].column("subject")
            train, test = (subjects[sets[name].rows_of_split(split)] for split in ("train", "test"))
            assert not set(train) & set(test)
            assert len(train) + len(test) <= len(subjects)
        keys = np.array(sets["ptbxl"].keys)
        held_out.append(set(keys[sets["ptbxl"].rows_of_split("test")]))

        truth = read_labels(part.labels["superclass"])
        assert truth.codes == ["MI", "NORM"]
        assert truth.label_NC[[list(keys).index(f"0000{n}_hr") for n in (1, 3)]].tolist() == [[0, 1], [1, 0]]
        assert set(keys[truth.labelled_N]) == {f"0000{n}_hr" for n in (1, 2, 3, 5, 6)}
        assert read_labels(part.labels["diagnostic"]).codes == ["IMI", "NORM"]
        assert read_labels(part.labels["icd"]).labelled_N.any()
    assert not held_out[0] & held_out[1]
    in_val = {keys[row] for row in sets["ptbxl"].rows_of_split("val")}
    assert held_out[0] | held_out[1] | in_val == {f"0000{n}_hr" for n in range(1, 7)}
    assert all(len({"00001_hr", "00002_hr"} & part) != 1 for part in held_out), "one patient on two sides"

    before = [(path, path.stat().st_mtime_ns) for path in sorted((tmp_path / "corpus").rglob("*")) if path.is_file()]
    assert build() == parts
    assert before == [
        (path, path.stat().st_mtime_ns) for path in sorted((tmp_path / "corpus").rglob("*")) if path.is_file()
    ], "what was complete was made again"


def test_val_is_the_same_in_every_part_and_held_out_of_all(ptbxl, tmp_path):
    plan = make_plan(sources={"ptbxl": SourceConfig(str(ptbxl))}, val_share=0.5)
    parts = build_corpus(plan, tmp_path / "corpus", workers=1, progress=lambda *_: None)
    val = []
    for part in parts:
        shard_set = ShardSet.open(part.sets["synthetic"])
        val.append({shard_set.keys[row] for row in shard_set.rows_of_split("val")})
    assert val[0] == val[1]
    assert 0 < len(val[0]) < 24


def test_a_task_of_a_source_that_was_pretrained_on_whole_is_refused(ptbxl, tmp_path):
    plan = make_plan(sources={"ptbxl": SourceConfig(path=str(ptbxl))})
    icd = plan.tasks.pop("icd")
    build_corpus(plan, tmp_path / "corpus", workers=1, progress=lambda *_: None)
    plan.tasks["icd"] = icd
    parts = build_corpus(plan, tmp_path / "corpus", workers=1, progress=lambda *_: None)
    with pytest.raises(UsageError, match=r"tasks\.icd: none of its labelled records is held out of pretraining"):
        check_labels(plan, parts)


def test_a_corpus_that_is_there_is_taken_as_it_is(corpus, tmp_path):
    plan = StudyPlan(corpus=CorpusConfig(shards=str(corpus["shards"])), tasks={"a": TaskConfig(labels="labels.zarr")})
    (part,) = build_corpus(plan, tmp_path / "corpus", workers=1, progress=lambda *_: None)
    assert part.sets == {"shards": corpus["shards"]}
    assert not (tmp_path / "corpus").exists()
