"""The verbs that evaluate models: bad input is one line and exit code 2; good input reaches their functions."""

import json
import re

import numpy as np
import pytest

from lamae.evaluate.embeddings.embed import read_embeddings
from lamae.evaluate.labels.store import read_labels
from lamae.evaluate.probe.fit import probe_arrays
from lamae.sharding.format import ShardSet
from tests.evaluate.test_probe import simulate, write_stores
from tests.shardsets import random_adc, write_shard_set


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("export", "absent", "out"), "absent: neither a checkpoint nor a run directory"),
        (("finetune", "absent", "shards", "labels.zarr", "out"), "labels.zarr: no such store"),
        (("finetune", "absent", "shards", "labels.zarr", "out", "step=3"), "did you mean steps?"),
        (("finetune", "absent", "shards", "labels.zarr", "out", "steps=0"), "steps"),
        (("finetune", "absent", "shards", "labels.zarr", "out", "--leads", "I,X"), "--leads: 'X' is no lead"),
        (("compare", "absent", "--shards", "shards", "--labels", "labels.zarr"), "labels.zarr: no such store"),
        (("compare", "a", "--shards", "s", "--labels", "l", "--store", "x"), "--store 'x': write NAME=PATH"),
        (("compare", "a", "b/a", "--shards", "s", "--labels", "l"), "two rows of the comparison would be named 'a'"),
        (("compare", "a", "--shards", "s", "--labels", "l", "--store", "a=x"), "would be named 'a'; give another NAME"),
        (("compare", "a", "--shards", "s", "--labels", "l", "--store", "X=x", "--store", "X=y"), "would be named 'X'"),
        (("compare", "a", "--shards", "s", "--labels", "l", "--store", "X=x", "--finetuned", "X=y"), "be named 'X'"),
        (("compare", "a", "--shards", "s", "--labels", "l", "--store", "random weights=x"), "named 'random weights'"),
        (
            ("compare", "a", "--shards", "s", "--labels", "l", "--demographics", "d", "--store", "age and sex=x"),
            "would be named 'age and sex'",
        ),
        (
            ("compare", *2 * ["a/checkpoints/step-00000008"], "--shards", "s", "--labels", "l"),
            "would be named 'a/step-00000008'",
        ),
        (
            ("compare", *(f"{run}/checkpoints/step-00000008" for run in "ab"), "--shards", "shards", "--labels", "l"),
            "l: no such store",
        ),
        (
            ("compare", "a", "--shards", "shards", "--labels", "l", "--demographics", "absent.csv"),
            "absent.csv: not readable (No such file or directory)",
        ),
        (("import-embeddings", "absent.npz", "shards", "out.zarr"), "absent.npz: no such file"),
        (("import-embeddings", "absent.npz", "nowhere", "out.zarr"), "nowhere: no such directory"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(lamae, tmp_path, arguments, message):
    write_shard_set(tmp_path / "shards", random_adc(3, 500))
    code, _, error = lamae(*arguments)
    assert code == 2
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_imported_embeddings_land_in_a_store(lamae, tmp_path):
    shards = ShardSet.open(write_shard_set(tmp_path / "shards", random_adc(3, 500)))
    np.savez(tmp_path / "x.npz", embeddings=np.eye(3), keys=np.array(shards.keys[::-1]))
    code, out, _ = lamae("import-embeddings", "x.npz", "shards", "e.zarr")
    assert code == 0
    assert "3 records" in out
    np.testing.assert_array_equal(read_embeddings(tmp_path / "e.zarr").x_ND, np.eye(3)[::-1])


@pytest.mark.parametrize("lost", ["shards/index.zarr/gain/c/0/0", "l.zarr/label/c/0/0", "e.zarr/record/c/0/0"])
def test_no_verb_reads_a_store_that_lost_a_chunk(lamae, tmp_path, lost):
    keys = ShardSet.open(write_shard_set(tmp_path / "shards", random_adc(8, 5000))).keys
    (tmp_path / "l.csv").write_text("key,MI\n" + "".join(f"{key},{row % 2}\n" for row, key in enumerate(keys)))
    np.savez(tmp_path / "x.npz", embeddings=np.eye(8), keys=np.array(keys))
    assert lamae("labels", "shards", "l.csv", "l.zarr")[0] == 0
    assert lamae("import-embeddings", "x.npz", "shards", "e.zarr")[0] == 0
    (tmp_path / lost).unlink()
    readers = {
        "shards": [
            ("train", "tiny", "data.path=shards", "run.dir=run", "train.steps=1", "train.global_batch_size=4"),
            ("embed", "run", "shards", "out.zarr"),
            ("labels", "shards", "l.csv", "out.zarr"),
            ("import-embeddings", "x.npz", "shards", "out.zarr"),
            ("inspect", "shards", "--save", "out.png"),
            ("verify", "shards"),
        ],
        "l.zarr": [
            ("probe", "e.zarr", "l.zarr"),
            ("finetune", "run", "shards", "l.zarr", "out"),
            ("compare", "run", "--shards", "shards", "--labels", "l.zarr", "--out", "out"),
        ],
        "e.zarr": [("probe", "e.zarr", "l.zarr")],
    }
    for arguments in readers[lost.partition("/")[0]]:
        code, _, error = lamae(*arguments)
        assert code == 1, arguments
        assert f"{lost}: missing" in error, arguments
        assert "Traceback" not in error
    assert not list(tmp_path.glob("out*"))


def test_another_demographics_file_is_embedded_anew(lamae, tmp_path):
    shards = ShardSet.open(write_shard_set(tmp_path / "shards", random_adc(3, 500), keys=["10", "11", "12"]))
    for age in (40, 50, 50):
        (tmp_path / "d.csv").write_text("study_id,age,gender\n" + "".join(f"{key},{age},F\n" for key in shards.keys))
        code, out, error = lamae("compare", "a", "--shards", "shards", "--labels", "l.zarr", "--demographics", "d.csv")
        assert "d.csv: age of 3 and sex of 3 of 3 records" in out
        assert (code, "l.zarr: no such store" in error) == (2, True), "it stops there, which is far enough"
    stores = (tmp_path / "compare" / "embeddings").iterdir()
    assert sorted(read_embeddings(store).x_ND[0, 0] for store in stores) == [4, 5]


def test_options_of_the_label_sources_reach_them(lamae, tmp_path):
    write_shard_set(tmp_path / "shards", random_adc(2, 50), keys=["10", "11"])
    (tmp_path / "d.csv").write_text("study_id,ed_diag_ed,all_diag_all\n10,['I48'],['I48']\n11,['E11'],[]\n")
    assert lamae("labels", "shards", "d.csv", "l.zarr", "--column", "ed_diag_ed", "--min-count", 0)[0] == 0
    assert read_labels(tmp_path / "l.zarr").codes == ["E11", "I48"]

    (tmp_path / "ptbxl_database.csv").write_text(
        "scp_codes,strat_fold,filename_hr,filename_lr\n"
        "\"{'AFIB': 100.0, 'PVC': 35.0}\",1,a/10,b/10\n\"{'PVC': 50.0}\",1,a/11,b/11\n"
    )
    (tmp_path / "scp_statements.csv").write_text(
        ",description,diagnostic,form,rhythm,diagnostic_class,diagnostic_subclass\nAFIB,,,,1.0,,\nPVC,,,1.0,,,\n"
    )
    options = ("--task", "all", "--min-likelihood", 50)
    assert lamae("labels", "shards", "ptbxl_database.csv", "p.zarr", *options)[0] == 0
    labels = read_labels(tmp_path / "p.zarr")
    assert dict(zip(labels.codes, labels.label_NC.T.tolist(), strict=True)) == {"AFIB": [1, 0], "PVC": [0, 1]}


def test_any_csv_can_be_labels(lamae, tmp_path):
    shards = ShardSet.open(write_shard_set(tmp_path / "shards", random_adc(3, 500)))
    (tmp_path / "mine.csv").write_text("id,paced\n" + "".join(f"{key},1\n" for key in shards.keys))
    for said in ("3 of 3 records matched", "l.zarr: already complete; 3 of 3 records matched"):
        code, out, _ = lamae("labels", "shards", "mine.csv", "l.zarr", "--key-column", "id")
        assert code == 0
        assert "mine.csv: read as --source csv" in out
        assert said in out
    assert lamae("labels", "shards", "mine.csv", "l.zarr")[0] == 2
    code, _, error = lamae("probe", "shards", "l.zarr")
    assert (code, "shards: is a shard set, not embeddings" in error) == (2, True)


def test_a_probe_of_snomed_codes_says_their_names(lamae, tmp_path):
    splits = ["train", "val", "test"] * 4
    shards = ShardSet.open(write_shard_set(tmp_path / "shards", random_adc(12, 50), splits=splits))
    (tmp_path / "headers").mkdir()
    for n, key in enumerate(shards.keys):
        (tmp_path / f"headers/{key}.hea").write_text(f"{key} 0 500 50\n#Dx: {(164889003, 426783006)[n // 3 % 2]}\n")
    np.savez(tmp_path / "x.npz", embeddings=np.eye(12), keys=np.array(shards.keys))
    assert lamae("import-embeddings", "x.npz", "shards", "e.zarr")[0] == 0
    assert lamae("labels", "shards", "headers", "l.zarr")[0] == 0
    code, out, _ = lamae("probe", "e.zarr", "l.zarr")
    assert code == 0
    assert re.search(r"164889003 .*atrial fibrillation \(AF\).* 0\.500 ", out)


def test_codes_are_listed_with_their_records_and_options_of_another_source_are_refused(lamae, tmp_path):
    splits = ["train", "val", "test"]
    shards = ShardSet.open(write_shard_set(tmp_path / "shards", random_adc(3, 500), splits=splits))
    codes = [f"D{k:02d}" for k in range(25)]
    rows = [f"{key},{n},{n % 2}," + ",".join("1" * 25) for n, key in enumerate(shards.keys)]
    (tmp_path / "mine.csv").write_text("\n".join([f"key,age,sex,{','.join(codes)}", *rows]) + "\n")
    code, out, _ = lamae("labels", "shards", "mine.csv", "l.zarr", "--except", "D03")
    assert code == 0
    assert "columns left: age ('2' in line 4 is not 0 or 1), sex (its name" in out
    assert ("D20" in out.split("labelled records")[1], "D21" in out.split("labelled records")[1]) == (True, False)
    assert "and 4 more, which --all-codes lists" in out
    code, out, _ = lamae("labels", "shards", "mine.csv", "l.zarr", "--except", "D03", "--all-codes")
    assert code == 0
    assert "D24" in out
    assert "l.zarr: already complete" in out
    (tmp_path / "words.csv").write_text(
        "key,study_id,all_diag_all,d\n" + "".join(f"{key},5,[],AF\n" for key in shards.keys)
    )
    code, out, _ = lamae("labels", "shards", "words.csv", "w.zarr", "--label-column", "d", "--key-column", "key")
    assert code == 0, "the column that is asked for says that this is any CSV"
    assert read_labels(tmp_path / "w.zarr").codes == ["AF"]
    code, _, error = lamae("labels", "shards", "mine.csv", "x.zarr", "--column", "D03")
    assert (code, "--column is for mimic-icd10; mine.csv is read as --source csv" in error) == (2, True)


def test_fine_tuning_says_which_codes_are_left_out_and_whether_subjects_were_seen(lamae, tmp_path, monkeypatch):
    features, truth = simulate()
    truth.label_NC[truth.rows("test"), 1] = 0
    truth.label_NC[truth.rows("val"), 2] = 0
    write_stores(tmp_path, features, truth)
    result = probe_arrays(features, truth)
    monkeypatch.setattr("lamae.evaluate.finetune.finetune.finetune", lambda *arguments, **options: result)
    code, out, _ = lamae("finetune", "run", "shards", "l.zarr", "out")
    assert code == 0
    assert "175 subjects, subjects seen in pretraining: none" in out
    assert "left out of the macro (no positive record in test): FAINT" in out
    assert "left out of the macro F1 (no positive record in val, which chooses the threshold): NOISE" in out


def test_probing_few_labels_against_another(lamae, tmp_path):
    rng = np.random.default_rng(0)
    splits = ["train"] * 60 + ["val"] * 30 + ["test"] * 30
    shards = ShardSet.open(write_shard_set(tmp_path / "shards", random_adc(120, 50), splits=splits))
    y = rng.integers(2, size=120)
    lines = [f"{key},{value},{value}" for key, value in zip(shards.keys, y, strict=True)]
    (tmp_path / "y.csv").write_text("\n".join(["key,I48,E11", *lines]) + "\n")
    for name, noise in (("good", 0.5), ("poor", 2.0)):
        x = y[:, None] + noise * rng.normal(size=(120, 3))
        np.savez(tmp_path / f"{name}.npz", embeddings=x, keys=np.array(shards.keys))
        assert lamae("import-embeddings", f"{name}.npz", "shards", f"{name}.zarr")[0] == 0
    assert lamae("labels", "shards", "y.csv", "l.zarr")[0] == 0
    code, _, error = lamae("probe", "absent.zarr", "l.zarr", "--json", "y.csv/r.json")
    assert (code, "--json y.csv/r.json: nothing can be written there" in error) == (2, True), "said before the work"
    options = ("--against", "poor.zarr", "--fraction", "0.2,1", "--seeds", 2, "--json", "r.json")
    code, out, _ = lamae("probe", "good.zarr", "l.zarr", *options)
    assert code == 0
    for told in ("cardiac chapter", "ECG-salient", "macro AUPRC", "macro BRIER", "share of training subjects"):
        assert told in out
    found = json.loads((tmp_path / "r.json").read_text())
    assert set(found["few_labels"]["probe"]) == {"0.2", "1"}
    assert re.search(r" 0.2 +│ +12 +│ +12 +│", out)
    assert found["few_labels_difference"]["1"]["low"] > 0
    assert found["difference"]["macro_auprc"]["low"] > 0
    code, _, error = lamae("probe", "good.zarr", "l.zarr", "--fraction", "5")
    assert (code, "label fraction 5 must lie above 0" in error) == (2, True)


def test_a_probe_is_fitted_on_one_shard_set_and_tested_on_another(lamae, tmp_path):
    rng = np.random.default_rng(0)
    splits = ["train"] * 60 + ["val"] * 30 + ["test"] * 30
    for place, (name, codes) in enumerate((("north", "I48,E11"), ("south", "E11,I48,G20"))):
        adc = random_adc(120, 50, seed=place)
        keys = ShardSet.open(write_shard_set(tmp_path / name, adc, splits=splits)).keys
        y = rng.integers(2, size=(120, codes.count(",") + 1))
        lines = [f"{key},{','.join(map(str, row))}" for key, row in zip(keys, y, strict=True)]
        (tmp_path / f"{name}.csv").write_text("\n".join([f"key,{codes}", *lines]) + "\n")
        shown = y[:, [codes.split(",").index("I48")]]
        for noise in (0.5, 2.0):
            x = shown + noise * rng.normal(size=(120, 3))
            np.savez(tmp_path / "e.npz", embeddings=x, keys=np.array(keys))
            model = ("--model", f"noise {noise}")
            assert lamae("import-embeddings", "e.npz", name, f"{name}-{noise}.zarr", *model)[0] == 0
        assert lamae("labels", name, f"{name}.csv", f"{name}-l.zarr")[0] == 0
    there = ("--test", "south-0.5.zarr", "south-l.zarr")
    other = ("--against", "north-2.0.zarr", "--against-test", "south-2.0.zarr", "--json", "r.json")
    code, out, _ = lamae("probe", "north-0.5.zarr", "north-l.zarr", *there, *other, "--fraction", "0.5,1", "--seeds", 1)
    assert code == 0
    assert "left out of the macro (not among the codes of the set fitted on): G20" in out
    found = json.loads((tmp_path / "r.json").read_text())
    assert set(found["probe"]["auroc"]) == {"I48", "E11"}
    assert found["probe"]["auroc"]["I48"]["low"] > 0.6
    assert found["difference"]["auroc"]["I48"]["low"] > 0
    for arguments, message in (
        (("--test", "south-2.0.zarr", "south-l.zarr"), "are of different models"),
        (("--test", "north-2.0.zarr", "north-l.zarr"), "are labels of one shard set; leave --test or test_labels away"),
        (("--test", "north-2.0.zarr", "south-l.zarr"), "belong to different shard sets"),
        ((*there, "--against", "north-2.0.zarr"), "--against-test goes with --test and --against"),
        ((*there, "--test-split", "val"), "--test-split 'val' is none of test, all"),
    ):
        code, _, error = lamae("probe", "north-0.5.zarr", "north-l.zarr", *arguments)
        assert (code, message in error) == (2, True), error
