"""Fine-tuning: the encoder and a linear head on labels, with the statistics of the probe.

    checkpoint (or the same architecture from scratch) ──DeepSpeed──▶ val macro AUROC every so often ──best──▶ test

Runs in one process or under a launcher; every rank trains on its share of each global batch. The best weights by val
are kept, test records are scored once, and the result compares with any probe on the same labels. Interrupted, the same
call goes on from the latest score on val; what is unfinished lies beside OUT, which appears whole:

    OUT/classifier.safetensors   the best weights by val
    OUT/scores.safetensors       log-odds of the val and test records, in the order of the labels' rows
    OUT/finetune.json            what was asked for, and the result
"""

import dataclasses
import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load, save

from lamae.base import files
from lamae.base.errors import LamaeError, UsageError
from lamae.base.files import put_in_place, sync, writing
from lamae.base.lock import Lock
from lamae.base.outputs import refuse_other
from lamae.base.progress import Progress, ignore
from lamae.evaluate import store
from lamae.evaluate.embeddings.embed import has_any_lead, pretrained_flags, subject_numbers, weights_hash
from lamae.evaluate.embeddings.inference import load_for_inference
from lamae.evaluate.finetune.classifier import Classifier
from lamae.evaluate.finetune.options import FinetuneOptions
from lamae.evaluate.finetune.tuning import CHECKPOINTS_NAME, Tuned, Tuner
from lamae.evaluate.labels.store import Labels, labels_hash, read_labels
from lamae.evaluate.probe.methods import Fit
from lamae.evaluate.probe.protocol import split_rows, usable_codes
from lamae.evaluate.probe.result import ProbeResult, evaluate_scores
from lamae.evaluate.probe.scores import Scores
from lamae.sharding.format import ShardSet
from lamae.train import runconfig
from lamae.train.config import EngineConfig
from lamae.train.ranks import distributed

WEIGHTS_NAME, SCORES_NAME, RESULT_NAME = "classifier.safetensors", "scores.safetensors", "finetune.json"
REQUEST_NAME = "request.json"
# Options that may change from start to start: they decide how, not what.
FREE_OPTIONS = ("micro_batch_size", "zero_stage")


@dataclass
class _Content:
    """What reading needs of finetune.json."""

    request: dict[str, Any]
    name: str
    codes: list[str]
    left_out: dict[str, str]
    contamination: str
    step: int
    val_macro_by_step: dict[str, float]


def finetune(
    run: Path,
    shards: Path | ShardSet,
    labels: Path,
    out: Path,
    *,
    options: FinetuneOptions | None = None,
    leads: tuple[int, ...] | None = None,
    transductive: bool = False,
    progress: Progress = ignore,
) -> ProbeResult:
    """Fine-tune the model of ``run`` on ``labels`` and test it; writes weights and result to directory ``out``.

    ``leads`` (canonical indices) trains and tests on these only. Where ``out`` holds the result of the same request
    already, that is what is returned. Raises UsageError for options that cannot work, labels of another shard set,
    labelled records that have none of the leads, an ``out`` that holds or began something else, or test subjects that
    were in pretraining (unless ``transductive``), and LamaeError when training does not get on.
    """
    options = options or FinetuneOptions()
    try:
        options.check()
    except ValueError as error:
        raise UsageError(str(error)) from None
    shard_set = ShardSet.open(shards)
    truth = read_labels(labels)
    store.require_same_rows(labels, truth.index_hash, shard_set.root, shard_set.index_hash)
    ranks = distributed.start(timeout_s=EngineConfig().timeout_s, num_threads=torch.get_num_threads())
    loaded, model, transform = load_for_inference(
        run, shard_set, random_weights=options.from_scratch, seed=options.seed
    )
    pretrained = pretrained_flags(shard_set, None if options.from_scratch else loaded)
    subject = subject_numbers(shard_set)
    name = f"{loaded.config.model.kind}, {'from scratch' if options.from_scratch else 'fine-tuned'}"
    shown = has_any_lead(shard_set, leads)
    rows, contamination = split_rows(truth, subject, pretrained, shown, name=name, transductive=transductive)
    kept, left_out = usable_codes(truth, rows, name=name)
    request = {
        "options": {key: value for key, value in dataclasses.asdict(options).items() if key not in FREE_OPTIONS},
        "leads": leads,
        "model": weights_hash(model),
        "pretraining_config_hash": runconfig.config_hash(loaded.config),
        "labels_sha256": labels_hash(truth),
    }
    if ranks.decide(lambda: _is_finished(out, request)):
        return read_finetuned(out, truth, subject)
    with store.lock(out) as lock:
        if not ranks.decide(lambda: _begin(out, lock, request)):
            return read_finetuned(out, truth, subject)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            classifier = Classifier(
                model, num_codes=len(kept), readout=options.readout, layer_decay=options.layer_decay
            )
        tuner = Tuner(
            classifier,
            options,
            shard_set=shard_set,
            transform=transform,
            label_NC=truth.label_NC[:, kept],
            rows=rows,
            ranks=ranks,
            leads=leads,
            folder=store.partial_path(out),
        )
        tuned = tuner.run(progress)
        content = {
            "request": request,
            "name": name,
            "codes": [truth.codes[k] for k in kept],
            "left_out": left_out,
            "contamination": contamination,
            "step": tuned.best_step,
            "val_macro_by_step": tuned.val_macro,
        }
        result = _result(content, tuned.odds, truth, subject)
        ranks.decide(lambda: _finish(out, tuned, content | {"result": result.to_dict()}))
    return result


def read_finetuned(out: Path, truth: Labels, subject_N: np.ndarray) -> ProbeResult:
    """The result of a finished fine-tuning on these labels, from its scores.

    Raises UsageError when ``out`` is none or was made on other labels, LamaeError when it is damaged.
    """
    if not (out / RESULT_NAME).is_file():
        raise UsageError(f"{out}: no {RESULT_NAME}, so this is no finished fine-tuning; make one with 'lamae finetune'")
    content = files.read_json(out / RESULT_NAME)
    files.check_shape(out / RESULT_NAME, content, _Content)
    if content["request"].get("labels_sha256") != labels_hash(truth):
        raise UsageError(f"{out}: was fine-tuned on other labels; use the same, or fine-tune again")
    try:
        found = (out / SCORES_NAME).read_bytes()
        if content.get("scores_sha256", hashlib.sha256(found).hexdigest()) != hashlib.sha256(found).hexdigest():
            raise LamaeError(f"{out / SCORES_NAME}: its sha256 is not the one in {RESULT_NAME}; fine-tune again")
        odds = load(found)
        shapes = {split: odds[split].shape for split in ("val", "test")}
    except (OSError, KeyError, SafetensorError) as error:
        raise LamaeError(f"{out / SCORES_NAME}: not readable ({error}); fine-tune again") from None
    expected = {split: (len(truth.rows(split)), len(content["codes"])) for split in shapes}
    if shapes != expected or not set(content["codes"]) <= set(truth.codes):
        raise LamaeError(f"{out}: holds scores {shapes}, the labels give {expected}; fine-tune again")
    if not all(np.isfinite(of).all() for of in odds.values()):
        raise LamaeError(f"{out}: holds scores that are not finite; fine-tune again with a lower lr")
    return _result(content, odds, truth, subject_N)


def _result(content: dict[str, Any], odds: dict[str, np.ndarray], truth: Labels, subject_N: np.ndarray) -> ProbeResult:
    return evaluate_scores(
        Fit(
            setting=float(content["step"]),
            val_macro={float(step): value for step, value in content["val_macro_by_step"].items()},
            val=Scores.of(odds["val"]),
            test=Scores.of(odds["test"]),
            probability=lambda log_odds: 0.5 + 0.5 * np.tanh(0.5 * log_odds),
        ),
        truth,
        {split: truth.rows(split) for split in ("train", "val", "test")},
        np.array([truth.codes.index(code) for code in content["codes"]], dtype=np.int64),
        content["left_out"],
        subject_N,
        name=content["name"],
        method="finetune",
        contamination=content["contamination"],
    )


def _is_finished(out: Path, request: dict[str, Any]) -> bool:
    """Whether ``out`` holds the result of this request; anything else there is refused."""
    if not out.exists():
        return False
    if not (out / RESULT_NAME).is_file():
        raise UsageError(f"{out}: exists and is no fine-tuning; remove it or choose another name")
    content = files.read_json(out / RESULT_NAME)
    files.check_shape(out / RESULT_NAME, content, _Content)
    refuse_other(content["request"], request, f"{out}: exists and is another fine-tuning")
    return True


def _begin(out: Path, lock: Lock, request: dict[str, Any]) -> bool:
    """Make a folder for this request, or take up what it holds of it; False where another process has finished it."""
    folder = store.take_lock(lock, out)
    if _is_finished(out, request):
        return False
    if (folder / REQUEST_NAME).is_file():
        begun = files.read_json(folder / REQUEST_NAME)
        refuse_other(begun, request, f"{folder}: holds another, unfinished fine-tuning for {out.name}")
        return True
    shutil.rmtree(folder, ignore_errors=True)
    with writing(out, UsageError):
        folder.mkdir(parents=True)
        files.write_json(folder / REQUEST_NAME, request)
    return True


def _finish(out: Path, tuned: Tuned, content: dict[str, Any]) -> None:
    """Turn the folder of an unfinished fine-tuning into ``out``."""
    folder = store.partial_path(out)
    with writing(out):
        scores = save(tuned.odds)
        content["scores_sha256"] = hashlib.sha256(scores).hexdigest()
        (folder / SCORES_NAME).write_bytes(scores)
        shutil.copyfile(tuned.best_path, folder / WEIGHTS_NAME)
        files.write_json(folder / RESULT_NAME, content)
        for name in (SCORES_NAME, WEIGHTS_NAME):
            sync(folder / name)
        put_in_place(folder, out)
        # The result is whole; what only a restart needed goes.
        shutil.rmtree(out / CHECKPOINTS_NAME, ignore_errors=True)
        for path in (out / tuned.best_path.name, out / REQUEST_NAME):
            path.unlink()
