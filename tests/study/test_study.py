"""A whole study, stopped and started, and what it refuses."""

import json
import shutil

import numpy as np
import pytest
import yaml

from lamae.base import lock as locks
from lamae.evaluate import store
from lamae.evaluate.embeddings.embed import PRETRAINED, read_embeddings
from lamae.evaluate.labels.sources import build_labels
from lamae.sharding.format import ShardSet
from lamae.study import pool
from lamae.study.directory import StudyDirectory


def test_from_the_plan_to_the_report(lamae, write_plan, tmp_path, monkeypatch):
    plan, out = write_plan(), tmp_path / "study"
    started = []
    run_one = pool.worker.run_one

    def dies_at_the_seventh(study, name):
        started.append(name)
        if len(started) == 7:
            raise KeyboardInterrupt
        return run_one(study, name)

    monkeypatch.setattr(pool.worker, "run_one", dies_at_the_seventh)
    code, _, error = lamae("study", plan, "--out", out, "--workers", 0)
    assert code == 130, error
    assert not (out / "results.json").exists()

    code, _, error = lamae("study", plan, "--out", out, "--report-only", "--workers", 0)
    assert code == 0, error
    assert json.loads((out / "results.json").read_text())["seeds"] == {
        "equal records": [0],
        "equal FLOPs": [0],
        "sweep": [],
    }
    code, printed, error = lamae("study", plan, "--out", out, "--workers", 0)
    assert code == 0, error
    assert "random weights: 2 of 2" in printed
    assert started.count(started[0]) == 1, "a finished run was run again"
    assert started.count(started[6]) == 2

    results = json.loads((out / "results.json").read_text())
    assert {entry["method"] for entry in results["search"]} == {"lamae", "joint"}
    names = {
        (entry["task"], entry["readout"], entry["labels"], entry["budget"]): [row["name"] for row in entry["rows"]]
        for entry in results["comparisons"]
    }
    assert names["patients", "mean", 1.0, "equal records"] == ["lamae", "joint", "random weights"]
    assert ("splits", "record", 0.5, "equal FLOPs") not in names, "two steps are two steps in either budget"
    together = {(one["readout"], one["budget"], one["name"], one["task"]): one for one in results["headline"]}
    assert len(together) == 2 * 2 * 2, "two read-outs of joint and of random weights, two tasks"
    usual = next(
        row["difference"]
        for entry in results["comparisons"]
        if (entry["task"], entry["readout"], entry["labels"]) == ("patients", "mean", 1.0)
        for row in entry["rows"]
        if row["name"] == "joint"
    )
    assert together["mean", "equal records", "joint", "patients"]["difference"]["value"] == usual["value"]
    levels = {(entry["task"], entry["name"], entry["labels"]): entry for entry in results["readouts"]}
    assert set(levels) >= {("splits", "lamae", 0.5), ("patients", "joint", 1.0)}
    assert [row["name"] for row in results["sweep"][0]["rows"]] == ["base", "scope summary"]
    steps = {(row["stage"], row["name"]): row for row in results["costs"]["rows"]}
    cheaper, dearer = steps["equal FLOPs", "lamae"], steps["equal FLOPs", "joint"]
    assert cheaper["tflops_per_run"] == pytest.approx(steps["equal records", "lamae"]["tflops_per_run"])
    assert dearer["gflops_per_record"] > cheaper["gflops_per_record"]
    fast = results["codes"]["patients"]["lamae"]["FAST"]
    assert fast["value"] > 0.9, "any embedding of two rates of oscillation tells them apart"
    assert {row["mask"] for row in results["reconstruction"]} == {"whole leads"}

    written = (out / "report.md").read_text() + (out / "report.html").read_text() + json.dumps(results)
    assert "1000" not in json.dumps(results["codes"])
    assert "differences.png" in written
    for name in ("differences.png", "few-labels.png"):
        assert 0 < (out / name).stat().st_size < 150_000


def across(elsewhere, **more):
    """A task that fits on the corpus and tests on another set."""
    values = {"test_shards": str(elsewhere["shards"]), "test_labels": str(elsewhere["labels"]), **more}
    return [f"tasks.splits.{key}={value}" for key, value in values.items()]


def test_fitted_on_one_hospital_and_tested_on_another(lamae, write_plan, corpus, elsewhere, tmp_path):
    changes = [change.replace("splits", "abroad") for change in across(elsewhere)]
    changes += [f"tasks.abroad.labels={corpus['labels']}", "sweep={}", "seeds=[0]", "steps=9"]
    out = tmp_path / "study"
    code, _, error = lamae("study", write_plan(*changes), "--out", out, "--workers", 0)
    assert code == 2
    assert "records have 7 s and the corpus's 5 s; give all runs one length with 'set: [signal.seconds=5]'" in error
    assert not list(out.glob("runs/*")), "said before anything is trained"

    out = tmp_path / "study of one length"
    code, _, error = lamae("study", write_plan("set=[signal.seconds=5]", *changes), "--out", out, "--workers", 0)
    assert code == 0, error
    results = json.loads((out / "results.json").read_text())
    rows = {row["name"]: row for entry in results["comparisons"] if entry["task"] == "abroad" for row in entry["rows"]}
    assert list(rows) == ["lamae", "joint", "random weights"]
    budgets = {entry["budget"]: [row["name"] for row in entry["rows"]] for entry in results["comparisons"]}
    assert budgets["equal FLOPs"] == ["lamae", "joint"], "fewer steps of what costs more"
    assert "low" in rows["joint"]["difference"]
    assert results["codes"]["abroad"]["lamae"]["FAST"]["value"] > 0.9
    (run, *_) = out.glob("runs/final/lamae-*")
    embedded = read_embeddings(run / "embeddings-tested-abroad.zarr", readout="mean").embedded_N
    assert embedded[40:].all()
    assert not embedded[:40].any(), "of the other hospital nothing but its test split is looked at"


def test_pretrained_patients_of_the_other_hospital_are_refused(lamae, write_plan, elsewhere, corpus, tmp_path):
    changes = [change.replace("splits", "abroad") for change in across(elsewhere, test_split="all")]
    changes += [f"tasks.abroad.labels={corpus['labels']}", "sweep={}", "seeds=[0]", "set=[signal.seconds=5]"]
    both = f"methods.lamae=['data.path=[{corpus['shards']},{elsewhere['shards']}]']"
    plan = write_plan(*changes, both)
    code, _, error = lamae("study", plan, "--out", tmp_path / "study", "--workers", 0)
    assert code == 2
    assert "subjects to be scored were in pretraining" in error


def test_a_directory_keeps_to_its_plan(lamae, write_plan, tmp_path):
    out = tmp_path / "study"
    StudyDirectory(out).make_or_resume(_load(write_plan()))
    code, _, error = lamae("study", write_plan("steps=3", "tasks.patients.folds=4"), "--out", out)
    assert code == 2
    assert "(steps: 2 -> 3; tasks.patients.folds: 3 -> 4)" in error
    StudyDirectory(out).make_or_resume(_load(write_plan("seeds=[0,1,2]")))
    assert _load(out / "plan.yaml").seeds == [0, 1, 2], "seeds may be added"
    more = ["methods.mean=[model.kind=mean]", "tasks.more={labels: x, protocol: patients}", "seeds=[0,1,2]"]
    StudyDirectory(out).make_or_resume(_load(write_plan(*more)))
    assert list(_load(out / "plan.yaml").methods) == ["lamae", "joint", "mean"], "and so may methods and tasks"
    code, _, error = lamae("study", write_plan(*more[1:]), "--out", out)
    assert code == 2
    assert "methods.mean" in error, "but not be left out"

    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    code, _, error = lamae("study", write_plan(), "--out", tmp_path / "other")
    assert code == 2
    assert "not empty and no study" in error


@pytest.mark.parametrize("section", ["methods", "masks", "tasks", "reconstruct"])
def test_a_section_whose_order_has_a_meaning_may_not_change_it(lamae, write_plan, tmp_path, section):
    out, more = tmp_path / "study", "reconstruct={a: [mask.kind=lead], b: [mask.kind=time]}"
    StudyDirectory(out).make_or_resume(_load(write_plan(more)))
    before = (out / "plan.yaml").read_text()
    there = dict(reversed(yaml.safe_load(before)[section].items()))
    code, _, error = lamae("study", write_plan(more, f"{section}={json.dumps(there)}"), "--out", out)
    assert code == 2
    assert f"(order of {section}: {', '.join(reversed(there))} -> {', '.join(there)})" in error
    assert (out / "plan.yaml").read_text() == before


def test_a_shard_set_that_was_made_again_is_refused(lamae, write_plan, tmp_path):
    study, plan = StudyDirectory(tmp_path / "study"), write_plan()
    study.make_or_resume(_load(plan))
    study.run("search/lamae-grid-0.001").mkdir(parents=True)
    study.done("search/lamae-grid-0.001").write_text('{"cpu_s": {}, "scored": {"shard set shards": "another"}}')
    code, _, error = lamae("study", plan, "--out", study.root, "--workers", 0)
    assert code == 2
    assert "shard set shards changed since its runs were trained; take another --out" in error


SMALLEST = ("seeds=[0]", "sweep={}", "masks={grid: [mask.kind=grid]}", "tasks={splits: {}}")


def relabel(corpus, labels, codes):
    """Labels of the corpus under the path ``labels``: ``codes(record)`` are its cells of FAST and COIN, or nothing."""
    keys, file = ShardSet.open(corpus["shards"]).keys, labels.with_suffix(".csv")
    rows = [",".join([key, *codes(record)]) for record, key in enumerate(keys) if codes(record)]
    file.write_text("\n".join(["key,FAST,COIN", *rows]) + "\n")
    shutil.rmtree(labels, ignore_errors=True)
    build_labels(corpus["shards"], labels, source="csv", file=file, min_count=1, allow_missing=True)


def test_labels_made_again_under_the_same_path_are_what_every_run_is_scored_on(
    lamae, write_plan, corpus, tmp_path, caplog
):
    labels, out = tmp_path / "relabelled.zarr", tmp_path / "study"
    plan = write_plan(*SMALLEST, f"tasks.splits.labels={labels}")
    relabel(corpus, labels, lambda record: f"{record % 2}{record % 3 // 2}" if record % 5 else "")
    code, _, error = lamae("study", plan, "--out", out, "--workers", 0)
    assert code == 0, error
    for run in out.glob("runs/final/joint-*"):  # as if it had been stopped there
        (run / "done.json").unlink()
        (run / "scores.npz").unlink()
    relabel(corpus, labels, lambda record: f"{record % 2}{record * record // 7 % 2}")
    weights = {path: path.stat().st_mtime_ns for path in out.rglob("rank-*.safetensors")}
    code, _, error = lamae("study", plan, "--out", out, "--workers", 0)
    assert code == 0, error
    assert "equal records: finished runs that are scored again: 1 (labels of splits changed)" in caplog.text
    assert {path: path.stat().st_mtime_ns for path in out.rglob("rank-*.safetensors")} == weights, "nothing is trained"
    code, _, error = lamae("study", plan, "--out", tmp_path / "anew", "--workers", 0)
    assert code == 0, error
    found, anew = (json.loads((root / "results.json").read_text()) for root in (out, tmp_path / "anew"))
    for key in ("search", "comparisons", "codes", "reconstruction"):
        assert found[key] == anew[key]
    caplog.clear()
    assert lamae("study", plan, "--out", out, "--workers", 0)[0] == 0
    assert "again" not in caplog.text


def test_a_study_of_an_older_lamae_is_scored_again_and_not_trained_again(
    lamae, write_plan, corpus, tmp_path, monkeypatch, caplog
):
    out, plan = tmp_path / "study", write_plan(*SMALLEST, f"tasks.splits.labels={corpus['labels']}")
    assert lamae("study", plan, "--out", out, "--workers", 0)[0] == 0
    results = json.loads((out / "results.json").read_text())
    for path in out.rglob("done.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"scored": "0123456789ab"}))
    for stage in ("embed", "reconstruction_errors"):
        monkeypatch.setattr(f"lamae.study.worker.{stage}", lambda *_, **__: pytest.fail("made again"))
    code, _, error = lamae("study", plan, "--out", out, "--workers", 0, "--report-only")
    assert code == 0, error
    assert "finished runs that are scored again: 2 (an older lamae did not note the labels)" in caplog.text
    assert json.loads((out / "results.json").read_text())["comparisons"] == results["comparisons"]


def test_dry_run_lists_runs_and_makes_nothing(lamae, write_plan, tmp_path):
    code, printed, error = lamae("study", write_plan("steps=20"), "--out", tmp_path / "study", "--dry-run")
    assert code == 0, error
    assert "search/lamae-random-0.001" in printed
    # search 2 + 2; claim 2 x 2; base is the claim's first method; one change x 2; joint at equal FLOPs x 2
    assert "12 runs" in printed
    assert not (tmp_path / "study").exists()


def test_a_study_packs_its_sources_and_scores_who_was_held_out(lamae, write_plan, tmp_path):
    tasks = {"icd": {"real": True, "codes": ["I4891", "R001"]}, "limb": {"leads": "I,II", "codes": ["I4891", "R001"]}}
    changes = {
        "corpus": {"synthetic_records": 120, "synthetic_subjects": 60},
        "seeds": [0, 1],
        "sweep": {},
        "tasks": tasks,
    }
    plan = write_plan(*(f"{key}={json.dumps(value)}" for key, value in changes.items()))
    code, _, error = lamae("study", plan, "--out", tmp_path / "study", "--workers", 0)
    assert code == 0, error
    results = json.loads((tmp_path / "study" / "results.json").read_text())
    reference = {
        "random weights": True,
        "age and sex": True,
        "lamae with age and sex": True,
        "lamae": False,
        "joint": False,
    }
    for entry in results["comparisons"]:
        if entry["budget"] == "equal records":
            assert {row["name"]: row["reference"] for row in entry["rows"]} == reference
    (run,) = (tmp_path / "study" / "runs" / "final").glob("lamae-*-seed1")
    tested = ShardSet.open(tmp_path / "study" / "corpus" / "part-1" / "sets" / "synthetic").rows_of_split("test")
    of_all, of_two = (
        read_embeddings(run / f"embeddings-{view}.zarr", readout="mean") for view in ("synthetic", "synthetic-I-II")
    )
    assert of_all.embedded_N[tested].sum() > 20
    assert not (of_all.pretrained_N[tested] == PRETRAINED).any()
    assert not np.array_equal(of_all.x_ND[tested], of_two.x_ND[tested])
    level = next(entry for entry in results["readouts"] if (entry["task"], entry["name"]) == ("icd", "joint"))
    pooled, mean = (
        next(row for row in entry["rows"] if row["name"] == "joint")["macro_auroc"]["value"]
        for readout in ("record", "mean")
        for entry in results["comparisons"]
        if (entry["task"], entry["readout"], entry["budget"]) == ("icd", readout, "equal records")
    )
    assert level["difference"]["value"] == pytest.approx(pooled - mean)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("{path: PLACE, pack: [gan=2]}", "[]", "corpus.sources.a.pack: unknown key gan; did you mean gain?"),
        ("{path: PLACE, pack: [workers=2]}", "[]", "corpus.sources.a.pack: workers is for the study to set"),
        ("{path: nowhere}", "[]", "corpus.sources.a.path=nowhere: not there; name what 'lamae shard' packs"),
        ("{path: PLACE}", "[file=b.csv]", "b.csv is not there"),
        ("{path: PLACE}", "[source=holter]", "label source 'holter' is none of mimic-icd10, ptbxl, snomed, csv"),
        ("{path: PLACE}", "[tsk=3]", "tasks.t.label_options: 'tsk=3' is no option of snomed labels with a value; they"),
        ("{path: PLACE}", "[top]", "'top=' is no option of snomed labels with a value"),
        ("{path: PLACE}", "[top=many]", "tasks.t.label_options: 'top=many' has a value of another kind"),
        ("{path: PLACE}", "[merge=perhaps]", "'merge=perhaps' has a value of another kind"),
        (
            "{path: PLACE.zip}",
            "[]",
            "PLACE.zip is no folder, so its labels are not found in it; name them with file=PATH",
        ),
    ],
)
def test_a_source_that_cannot_be_used_is_refused_before_anything_is_made(
    lamae, write_plan, tmp_path, source, options, message
):
    (tmp_path / "PLACE").mkdir()
    (tmp_path / "PLACE.zip").touch()
    source = source.replace("PLACE", str(tmp_path / "PLACE"))
    plan = write_plan(f"corpus={{sources: {{a: {source}}}}}", f"tasks={{t: {{label_options: {options}}}}}")
    code, _, error = lamae("study", plan, "--out", tmp_path / "study", "--workers", 0)
    assert code == 2
    assert message.replace("PLACE", str(tmp_path / "PLACE")) in error
    assert error.count("\n") == 1
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("search.task=nobody", "search.task=nobody is none of the tasks splits, patients"),
        ("search.steps=0", "search.steps=0 must be at least 1"),
        (
            "tasks.splits.source=elsewhere",
            "tasks.splits.source=elsewhere: no such source with a path; there",
        ),
        ("tasks.splits.labels=null", "tasks.splits.labels: with corpus.shards name a labels store of 'lamae labels'"),
        ("tasks.splits.leads=I,X", "tasks.splits: leads=I,X: 'X' is no lead"),
        ("corpus={sources: {a: {path: null}}}", "corpus: neither shards nor the path of a source nor synthetic"),
        ("corpus={parts: 1, synthetic_records: 9}", "corpus.parts=1 must be at least 2"),
        ("corpus={demographics: x, synthetic_records: 9}", "corpus.demographics goes with corpus.shards"),
        ("corpus={shards: null, synthetic_records: 9}", "tasks.splits.labels goes with corpus.shards"),
        ("tasks.splits.label_options=[top=3]", "tasks.splits.label_options go with corpus.sources"),
        ("corpus={sources: {a: {path: x}, b: {path: x}}}", "corpus.sources: two of them have the path x"),
        ("corpus={sources: {synthetic: {path: x}}}", "corpus.sources.synthetic: is the name of the ECGs of"),
        ("tasks.splits.protocol=guess", "tasks.splits: protocol='guess' is none of splits, patients"),
        ("tasks.splits.label_fractions=[0.5]", "tasks.splits: label_fractions"),
        ("tasks.splits.test_shards=x", "tasks.splits: test_shards and test_labels go together"),
        ("tasks.patients={labels: x, protocol: patients, test_shards: x, test_labels: x}", "needs protocol=splits"),
        ("tasks.splits={labels: x, test_shards: x, test_labels: x}", "search.task=splits must be of the corpus"),
        ("tasks.patients={labels: x, test_shards: x, test_labels: x, test_split: val}", "test_split='val' is none of"),
        ("seeds=[1,1]", "seeds=[1, 1] must be different"),
        ("stepz=3", "unknown key stepz; did you mean steps?"),
        ("methods.joint=[model.kind=joined]", "model.kind='joined' is none of"),
        ("sweep.wide=[mask.ratio=2]", "mask.ratio=2"),
        ("tasks.splits.codes=[SLOW]", "tasks.splits.codes: SLOW not in"),
        ("corpus.shards=nowhere", "nowhere"),
        ("methods=[a, b]", "methods: expected a mapping of names to a list, each text, not ['a', 'b']"),
        ("methods.joint={model.kind: joint}", "methods.joint: expected a list, each text, not {'model.kind': 'joint'}"),
        ("methods.joint=[nonsense]", "methods.joint under masks.grid: override 'nonsense' has no '='"),
        ("tasks=[a]", "tasks: expected a mapping of names to a mapping of keys, not ['a']"),
        ("tasks.splits.codes=FAST", "tasks.splits.codes: expected a list, each text, not 'FAST'"),
        ("seeds=3", "seeds: expected a list, each a whole number, not 3"),
        ("steps=0", "steps=0 must be at least 1"),
        ("flops_tolerance=nan", "flops_tolerance=nan must be at least 0"),
        ("corpus.val_share=1", "corpus.val_share=1.0 must lie in [0, 1)"),
        ("corpus.val_share=0", "corpus.val_share=0.0 must be above 0"),
        ("methods.joint=[train.global_batch_size=8]", "methods.joint: train.global_batch_size may not differ"),
        ("methods={a: [], a-b: []}\nmasks={b-c: [], c: []}", "methods.a-b under masks.c would share a directory"),
        ("masks={a-b: [], a+b: [mask.ratio=0.2]}", "masks: 'a-b' and 'a+b' would share the same directories"),
    ],
)
def test_bad_plans_get_one_line(lamae, write_plan, tmp_path, change, message):
    code, _, error = lamae("study", write_plan(*change.split("\n")), "--out", tmp_path / "study", "--workers", 0)
    assert code == 2
    assert message in error
    assert error.count("\n") == 1


def test_a_run_that_fails_is_named_with_its_log(lamae, write_plan, tmp_path, monkeypatch):
    monkeypatch.setattr(pool.worker, "run_one", lambda study, name: 1)
    code, _, error = lamae("study", write_plan(), "--out", tmp_path / "study", "--workers", 0)
    assert code == 1
    assert "run search/lamae-grid-0.001 ended with exit code 1" in error


def test_the_plans_that_ship_can_be_listed(lamae, tmp_path):
    (tmp_path / "ludb").mkdir()
    (tmp_path / "ptbxl_database.csv").write_text("ecg_id,scp_codes,filename_hr\n")
    ptbxl, ludb = f"corpus.sources.ptbxl.path={tmp_path}", f"corpus.sources.ludb.path={tmp_path / 'ludb'}"
    for name, changes, least in (("claim", [ptbxl], 35), ("hospitals", [ptbxl, ludb], 15), ("mimic", [], 30)):
        code, printed, error = lamae("study", name, *changes, "--out", "x", "--dry-run")
        assert code == 0, error
        assert int(printed.splitlines()[-1].split()[0]) >= least


def test_a_plan_that_needs_ptbxl_says_where_it_is_from(lamae, tmp_path):
    code, _, error = lamae("study", "claim", "--out", "x")
    assert code == 2
    assert "corpus.sources.ptbxl.path must be given" in error
    assert "https://physionet.org/content/ptb-xl/" in error
    code, _, error = lamae("study", "claim", "corpus.sources.ptbxl.path=nowhere", "--out", "x")
    assert code == 2
    assert "corpus.sources.ptbxl.path=nowhere: not there" in error
    assert not (tmp_path / "x").exists()


def _load(path):
    from lamae.study.plan import load_plan

    assert yaml.safe_load(path.read_text())
    return load_plan(path)


def test_a_second_driver_is_kept_out(lamae, write_plan, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE_S", 0.2)
    with store.lock(tmp_path / "study") as lock:
        store.take_lock(lock, tmp_path / "study")
        code, _, error = lamae("study", write_plan(), "--out", tmp_path / "study", "--workers", 0)
    assert code == 1
    assert "is writing there; wait for it, or end it" in error
    assert not (tmp_path / "study").exists()
