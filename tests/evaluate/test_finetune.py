"""Fine-tuning learns, keeps the best weights by val, and refuses what the probe refuses."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lamae.base.errors import LamaeError, UsageError
from lamae.evaluate import pretrained, store
from lamae.evaluate.embeddings.embed import embed, read_embeddings, subject_numbers
from lamae.evaluate.finetune.classifier import Classifier
from lamae.evaluate.finetune.finetune import (
    RESULT_NAME,
    SCORES_NAME,
    WEIGHTS_NAME,
    FinetuneOptions,
    finetune,
    read_finetuned,
)
from lamae.evaluate.labels.store import read_labels
from lamae.evaluate.probe.fit import probe_arrays
from lamae.evaluate.probe.result import difference
from tests.evaluate.conftest import make_loaded

OPTIONS = FinetuneOptions(steps=30, global_batch_size=10, evaluate_every=10, lr=1e-2)


@pytest.fixture
def labels(shard_set, tmp_path):
    """FAST is set for odd records, which oscillate twice as fast; ODDITY at random."""
    rng = np.random.default_rng(0)
    store.write(
        tmp_path / "labels.zarr",
        kind="labels",
        columns={
            "label": np.stack([np.arange(60) % 2, rng.integers(2, size=60)], 1).astype(np.uint8),
            "labelled": np.ones(60, dtype=bool),
            "split": shard_set.column("split"),
        },
        attributes={
            "index_sha256": shard_set.index_hash,
            "codes": ["FAST", "ODDITY"],
            "descriptions": {},
            "protocol": "waves",
        },
    )
    return tmp_path / "labels.zarr"


@pytest.fixture
def fresh(shard_set, monkeypatch):
    """A checkpoint that gives a new model each time it is loaded: fine-tuning changes it."""
    monkeypatch.setattr(pretrained, "load_model", lambda run, device="cpu": make_loaded(shard_set))


def test_it_learns_and_leaves_weights_and_result(fresh, shard_set, labels, tmp_path):
    result = finetune(tmp_path / "run", shard_set, labels, tmp_path / "out", options=OPTIONS)
    assert result.by_code()["FAST"].value > 0.9
    assert result.contamination == "none"
    assert result.val_macro[result.setting] == max(result.val_macro.values())
    content = json.loads((tmp_path / "out" / RESULT_NAME).read_text())
    assert content["result"]["macro_auroc"]["value"] == pytest.approx(result.macro.value)
    weights = load_file(tmp_path / "out" / WEIGHTS_NAME)
    assert weights["head.weight"].shape == (2, 16)
    assert not any("decoder" in name or "pool_instant" in name for name in weights)

    assert {path.name for path in (tmp_path / "out").iterdir()} == {RESULT_NAME, SCORES_NAME, WEIGHTS_NAME}


def test_stopped_and_started_again_it_ends_as_if_it_had_not_been_stopped(fresh, shard_set, labels, tmp_path):
    whole = finetune(tmp_path / "run", shard_set, labels, tmp_path / "whole", options=OPTIONS)
    steps = []

    def stop(_stage, done, _total):
        steps.append(done)
        if steps.count(17) == 1 and done == 17:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune(tmp_path / "run", shard_set, labels, tmp_path / "out", options=OPTIONS, progress=stop)
    assert not (tmp_path / "out").exists()
    other = dataclasses.replace(OPTIONS, lr=1e-3)
    with pytest.raises(UsageError, match=r"another, unfinished fine-tuning for out \(options\.lr: "):
        finetune(tmp_path / "run", shard_set, labels, tmp_path / "out", options=other)
    halves = dataclasses.replace(OPTIONS, zero_stage=2)
    result = finetune(tmp_path / "run", shard_set, labels, tmp_path / "out", options=halves, progress=stop)
    assert steps == [*range(1, 18), *range(11, 31)], "it goes on from the score at step 10"
    np.testing.assert_array_equal(result.probability_NC, whole.probability_NC)
    assert result.val_macro == whole.val_macro
    assert difference(result, whole).macro.value == 0


def test_a_finished_one_is_read_not_made_again(fresh, shard_set, labels, tmp_path):
    options = dataclasses.replace(OPTIONS, steps=4, evaluate_every=2)
    result = finetune(tmp_path / "run", shard_set, labels, tmp_path / "out", options=options)

    def never(*_):
        raise AssertionError("it trains again")

    again = finetune(tmp_path / "run", shard_set, labels, tmp_path / "out", options=options, progress=never)
    np.testing.assert_array_equal(again.probability_NC, result.probability_NC)
    assert again.to_dict() == result.to_dict()
    with pytest.raises(UsageError, match=r"exists and is another fine-tuning \(options\.seed: 0 -> 1\)"):
        finetune(tmp_path, shard_set, labels, tmp_path / "out", options=dataclasses.replace(options, seed=1))
    truth = read_labels(labels)
    truth.label_NC[0] = 1 - truth.label_NC[0]
    with pytest.raises(UsageError, match="other labels"):
        read_finetuned(tmp_path / "out", truth, subject_numbers(shard_set))
    with pytest.raises(UsageError, match="no finished fine-tuning"):
        read_finetuned(tmp_path / "absent", truth, subject_numbers(shard_set))


def test_a_damaged_result_is_one_line(fresh, shard_set, labels, tmp_path):
    options = dataclasses.replace(OPTIONS, steps=2, evaluate_every=1)
    out = tmp_path / "out"
    finetune(tmp_path / "run", shard_set, labels, out, options=options)
    truth = read_labels(labels)
    scores = (out / SCORES_NAME).read_bytes()
    for damaged in (scores[:-1] + bytes([scores[-1] ^ 1]), scores[:40], b""):
        (out / SCORES_NAME).write_bytes(damaged)
        with pytest.raises(LamaeError, match=f"{SCORES_NAME}: its sha256 is not the one in {RESULT_NAME}"):
            read_finetuned(out, truth, subject_numbers(shard_set))
    (out / SCORES_NAME).unlink()
    with pytest.raises(LamaeError, match=f"{SCORES_NAME}: not readable"):
        read_finetuned(out, truth, subject_numbers(shard_set))
    result = json.loads((out / RESULT_NAME).read_text())
    for damaged, message in ((result | {"codes": "FAST"}, "codes: expected a list"), ({}, "request: missing")):
        (out / RESULT_NAME).write_text(json.dumps(damaged))
        with pytest.raises(LamaeError, match=f"{RESULT_NAME}: {message}"):
            read_finetuned(out, truth, subject_numbers(shard_set))


def test_from_scratch_and_on_few_leads(fresh, shard_set, labels, tmp_path):
    options = dataclasses.replace(OPTIONS, from_scratch=True, steps=10)
    scratch = finetune(tmp_path / "run", shard_set, labels, tmp_path / "scratch", options=options)
    tuned = finetune(
        tmp_path / "run",
        shard_set,
        labels,
        tmp_path / "few",
        options=dataclasses.replace(OPTIONS, steps=10),
        leads=(0, 1),
    )
    assert scratch.name == "lamae, from scratch"
    assert scratch.codes == tuned.codes
    assert not np.array_equal(scratch.probability_NC, tuned.probability_NC)
    assert json.loads((tmp_path / "few" / RESULT_NAME).read_text())["request"]["leads"] == [0, 1]


def test_subjects_of_pretraining_are_refused_but_not_from_scratch(shard_set, labels, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "load_model", lambda run, device="cpu": make_loaded(shard_set, trained_on="all"))
    options = dataclasses.replace(OPTIONS, steps=2)
    with pytest.raises(UsageError, match="10 of 10 test subjects"):
        finetune(tmp_path / "run", shard_set, labels, tmp_path / "a", options=options)
    assert not (tmp_path / "a").exists()
    told = finetune(tmp_path / "run", shard_set, labels, tmp_path / "b", options=options, transductive=True)
    assert "10 of 10" in told.contamination
    scratch = dataclasses.replace(options, from_scratch=True)
    assert finetune(tmp_path / "run", shard_set, labels, tmp_path / "c", options=scratch).contamination == "none"


def test_steps_that_are_never_applied_end_it(fresh, shard_set, labels, tmp_path):
    options = dataclasses.replace(OPTIONS, lr=1e38, warmup_share=0.0)
    with pytest.raises(LamaeError, match=r"8 steps in a row, up to step \d+, .* lower lr than 1e\+38"):
        finetune(tmp_path / "run", shard_set, labels, tmp_path / "out", options=options)
    assert not (tmp_path / "out").exists()


def test_odds_that_are_not_finite_end_it(fresh, shard_set, labels, tmp_path):
    options = dataclasses.replace(OPTIONS, lr=1e38, warmup_share=0.0, steps=1, evaluate_every=1)
    with pytest.raises(LamaeError, match=r"odds of 10 of 10 val records are not finite.* lower lr than 1e\+38"):
        finetune(tmp_path / "run", shard_set, labels, tmp_path / "out", options=options)
    assert not (tmp_path / "out").exists()


def test_records_without_any_of_the_leads_are_refused_as_by_the_probe(fresh, shard_set, labels, tmp_path):
    with pytest.raises(UsageError) as refused:
        finetune(tmp_path / "run", shard_set, labels, tmp_path / "out", options=OPTIONS, leads=(8,))
    assert not (tmp_path / "out").exists()
    embed(tmp_path / "run", shard_set, tmp_path / "e.zarr", leads=(8,))
    with pytest.raises(UsageError) as by_probe:
        probe_arrays(read_embeddings(tmp_path / "e.zarr"), read_labels(labels))
    for error in (refused, by_probe):
        assert "1 of 30 labelled train records were not embedded, or have none of the leads" in str(error.value)


def test_learning_rates_fall_from_the_head_down(shard_set):
    model = make_loaded(shard_set).model
    classifier = Classifier(model, num_codes=2, readout="record", layer_decay=0.5)
    scales = {name: classifier.lr_scale(name) for name, _ in classifier.named_parameters()}
    assert scales["head.weight"] == scales["norm.bias"] == 1
    assert scales["encoder.pool_record.query"] == 1
    assert scales["encoder.exchange.blocks.0.qkv.weight"] == 0.5
    assert scales["encoder.encoder.blocks.0.qkv.weight"] == 0.25
    assert scales["encoder.encoder.embed.weight"] == scales["encoder.encoder.lead"] == 0.125


@pytest.mark.parametrize("readout", ["record", "mean"])
def test_every_trained_parameter_gets_a_gradient(shard_set, readout):
    classifier = Classifier(make_loaded(shard_set).model, num_codes=3, readout=readout, layer_decay=1.0)
    torch.nn.init.normal_(classifier.head.weight)
    x = torch.randn(4, 12, 500)
    present = torch.ones(4, 12, dtype=torch.bool)
    output = classifier(x, present[..., None].expand_as(x), present, torch.eye(4, 3))
    output.loss.backward()
    without = [n for n, p in classifier.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "finetune.steps"),
        ({"readout": "lead"}, "finetune.readout"),
        ({"layer_decay": 0.0}, "finetune.layer_decay"),
        ({"zero_stage": 4}, "finetune.zero_stage"),
        ({"precision": "fp8"}, "precision"),
    ],
)
def test_options_that_cannot_work_are_named(fresh, shard_set, labels, tmp_path, change, message):
    with pytest.raises(UsageError, match=message):
        finetune(tmp_path, shard_set, labels, tmp_path / "o", options=dataclasses.replace(OPTIONS, **change))
