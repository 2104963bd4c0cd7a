"""Fine-tuning: the encoder and a linear head on labels, with the statistics of the probe.

    checkpoint (or the same architecture from scratch) ──DeepSpeed──▶ val macro AUROC every so often ──best──▶ test

Runs in one process or under a launcher; every rank trains on its share of each global batch. The best weights by val
are kept, test records are scored once, and the result compares with any probe on the same labels.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from lamae import config as run_config
from lamae.data.config import DataConfig
from lamae.data.loader import RingLoader
from lamae.data.transforms import SignalTransform
from lamae.evaluate import store
from lamae.evaluate.auroc import auroc, macro
from lamae.evaluate.classifier import READOUTS, Classifier
from lamae.evaluate.embed import pretrained_flags, subject_numbers
from lamae.evaluate.inference import load_for_inference, read_signals, withhold_leads
from lamae.evaluate.labels import read_labels
from lamae.evaluate.protocol import split_rows, usable_codes
from lamae.evaluate.readouts import Fit
from lamae.evaluate.result import ProbeResult, evaluate_scores
from lamae.train import distributed
from lamae.train.config import EngineConfig, OptimConfig
from lamae.train.distributed import Ranks
from lamae.train.engine import Engine
from lamae.train.schedule import learning_rate, plan_batch, weight_decay
from sharding.errors import LamaeError, UsageError
from sharding.format import ShardSet
from sharding.progress import Progress, ignore

MAX_SKIPPED_IN_A_ROW = 8
WEIGHTS_NAME, RESULT_NAME = "classifier.safetensors", "finetune.json"


@dataclass
class FinetuneOptions:
    """What decides a fine-tuning run."""

    steps: int = 1000
    """Optimiser steps."""
    global_batch_size: int = 64
    """Records per step over all ranks."""
    micro_batch_size: int = 64
    """Largest number of records a rank puts through the model at once."""
    lr: float = 1e-3
    """Learning rate of the head; blocks below get less, see ``layer_decay``."""
    layer_decay: float = 0.75
    """Factor of the learning rate per block from the head down."""
    weight_decay: float = 0.05
    """Decoupled weight decay of matrices."""
    warmup_share: float = 0.1
    """Share of the steps over which the learning rate rises."""
    evaluate_every: int = 100
    """Steps between scores of the val split."""
    readout: str = "record"
    """record (the model's own pooling) or mean."""
    from_scratch: bool = False
    """Take the checkpoint's architecture with fresh weights: the supervised reference row."""
    precision: str = "fp32"
    """fp32 or bf16."""
    zero_stage: int = 1
    """0, 1 or 2; weights stay whole on every rank."""
    seed: int = 0
    """Seeds the head, fresh weights and the order of records."""

    def check(self) -> None:
        """Raises ValueError naming the option."""
        for name in ("steps", "global_batch_size", "micro_batch_size", "evaluate_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"finetune.{name}={getattr(self, name)} must be at least 1")
        if self.readout not in READOUTS:
            raise ValueError(f"finetune.readout={self.readout!r} is none of {', '.join(READOUTS)}")
        if not 0 < self.layer_decay <= 1 or not 0 <= self.warmup_share <= 1:
            raise ValueError("finetune.layer_decay must lie in (0, 1] and finetune.warmup_share in [0, 1]")
        if self.zero_stage not in (0, 1, 2):
            raise ValueError(f"finetune.zero_stage={self.zero_stage} is none of 0, 1, 2")
        EngineConfig(zero_stage=self.zero_stage, precision=self.precision).check()


def finetune(
    run: Path,
    shards: Path | ShardSet,
    labels: Path,
    out: Path,
    *,
    options: FinetuneOptions | None = None,
    leads: tuple[int, ...] | None = None,
    transductive: bool = False,
    progress: Progress | None = None,
) -> ProbeResult:
    """Fine-tune the model of ``run`` on ``labels`` and test it; writes weights and result to directory ``out``.

    ``leads`` (canonical indices) trains and tests on these only. Raises UsageError for options that cannot work, labels
    of another shard set, or test subjects that were in pretraining (unless ``transductive``), and LamaeError when
    training does not get on.
    """
    options, progress = options or FinetuneOptions(), progress or ignore
    try:
        options.check()
    except ValueError as error:
        raise UsageError(str(error)) from None
    store.refuse_existing(out)
    shard_set = shards if isinstance(shards, ShardSet) else ShardSet.open(shards)
    truth = read_labels(labels)
    store.require_same_rows(labels, truth.index_hash, shard_set.root, shard_set.index_hash)
    ranks = distributed.start(timeout_s=EngineConfig().timeout_s, num_threads=torch.get_num_threads())
    loaded, model, transform = load_for_inference(
        run, shard_set, random_weights=options.from_scratch, seed=options.seed
    )
    pretrained = pretrained_flags(shard_set, None if options.from_scratch else loaded)
    subject = subject_numbers(shard_set)
    name = f"{loaded.config.model.kind}, {'from scratch' if options.from_scratch else 'fine-tuned'}"
    rows, contamination = split_rows(truth, subject, pretrained, name=name, transductive=transductive)
    kept, left_out = usable_codes(truth, rows, name=name)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        classifier = Classifier(model, num_codes=len(kept), readout=options.readout, layer_decay=options.layer_decay)
    trainer = _Trainer(options, shard_set, transform, truth.label_NK[:, kept], rows, ranks, leads)
    best_val, val_macro, odds = trainer.run(classifier, progress)
    fit = Fit(
        setting=float(best_val),
        val_macro=val_macro,
        val_NK=odds["val"],
        test_NK=odds["test"],
        probability=lambda log_odds: 0.5 + 0.5 * np.tanh(0.5 * log_odds),
    )
    result = evaluate_scores(
        fit, truth, rows, kept, left_out, subject, name=name, method="finetune", contamination=contamination
    )
    if ranks.is_main:
        _write(out, trainer.best_weights, result, options, run_config.config_hash(loaded.config), leads)
    ranks.barrier()
    return result


class _Trainer:
    def __init__(
        self,
        options: FinetuneOptions,
        shard_set: ShardSet,
        transform: SignalTransform,
        label_NK: np.ndarray,
        rows: dict[str, np.ndarray],
        ranks: Ranks,
        leads: tuple[int, ...] | None,
    ) -> None:
        self._options, self._shard_set, self._transform = options, shard_set, transform
        self._rows, self._ranks, self._leads = rows, ranks, leads
        self._label_NK = torch.from_numpy(label_NK.astype(np.float32))
        self.best_weights: dict[str, torch.Tensor] = {}

    def run(self, classifier: Classifier, progress: Progress) -> tuple[int, dict[float, float], dict[str, np.ndarray]]:
        """(step with the best val, val macro AUROC by step, log-odds of val and test under the best weights)."""
        options, ranks = self._options, self._ranks
        plan = plan_batch(
            options.global_batch_size, micro_batch_size=options.micro_batch_size, world_size=ranks.world_size
        )
        optim = OptimConfig(
            lr=options.lr,
            final_lr=1e-3 * options.lr,
            warmup_steps=round(options.warmup_share * options.steps),
            weight_decay=options.weight_decay,
            beta2=0.999,
        )
        engine = Engine(
            classifier,
            ranks=ranks,
            engine=EngineConfig(zero_stage=options.zero_stage, precision=options.precision),
            optim=optim,
            plan=plan,
        )
        val_macro: dict[float, float] = {}
        best_step, best_val, skipped_in_a_row = 0, np.zeros(0), 0
        loader = RingLoader(
            self._shard_set,
            self._rows["train"],
            config=DataConfig(path=str(self._shard_set.root)),
            seed=options.seed,
            global_batch_size=options.global_batch_size,
            rank=ranks.rank,
            world_size=ranks.world_size,
            num_batches=options.steps,
        )
        try:
            with loader:
                for step, batch in enumerate(loader):
                    for index, part in enumerate(batch.micro_batches(plan.accumulation)):
                        signal = self._transform(part.to(ranks.device), seed=options.seed, train=True)
                        if self._leads is not None:
                            signal = withhold_leads(signal, keep=self._leads)
                        y_BK = self._label_NK[signal.row.cpu()].to(ranks.device)
                        output = engine.forward(signal.x_BLT, signal.valid_BLT, signal.lead_mask_BL, y_BK)
                        engine.backward(output.loss)
                        engine.step(
                            learning_rate=learning_rate(step, optim, steps=options.steps),
                            weight_decay=weight_decay(step, optim, steps=options.steps),
                            last=index + 1 == plan.accumulation,
                        )
                    skipped_in_a_row = 0 if engine.step_was_applied else skipped_in_a_row + 1
                    if skipped_in_a_row == MAX_SKIPPED_IN_A_ROW:
                        raise LamaeError(
                            f"{skipped_in_a_row} steps in a row, up to step {step + 1}, had a loss or gradient that is "
                            f"not finite; use a lower lr than {options.lr:g}, or precision=fp32"
                        )
                    if (step + 1) % options.evaluate_every == 0 or step + 1 == options.steps:
                        odds = self._score(engine, classifier, "val")
                        y_val = self._label_NK[self._rows["val"]].numpy()
                        val_macro[float(step + 1)] = float(macro(auroc(odds, y_val)))
                        if not best_step or val_macro[float(step + 1)] > val_macro[float(best_step)]:
                            best_step, best_val = step + 1, odds
                            self.best_weights = _copy(classifier)
                    progress("finetune", step + 1, options.steps)
            classifier.load_state_dict(self.best_weights)
            return best_step, val_macro, {"val": best_val, "test": self._score(engine, classifier, "test")}
        finally:
            engine.close()

    def _score(self, engine: Engine, classifier: Classifier, split: str) -> np.ndarray:
        """Log-odds of a split, every rank scoring its share."""
        rows, ranks = self._rows[split], self._ranks
        mine = rows[ranks.rank :: ranks.world_size]
        found = [np.zeros((0, self._label_NK.shape[1]), dtype=np.float32)]
        with engine.evaluating():
            for signal in read_signals(
                self._shard_set,
                mine,
                transform=self._transform,
                batch_size=self._options.micro_batch_size,
                device=str(ranks.device),
                leads=self._leads,
            ):
                odds_BK, _ = classifier.score(signal.x_BLT, signal.valid_BLT, signal.lead_mask_BL)
                found.append(odds_BK.cpu().numpy())
        odds = np.zeros((len(rows), self._label_NK.shape[1]), dtype=np.float32)
        for rank, share in enumerate(ranks.gather(np.concatenate(found))):
            odds[rank :: ranks.world_size] = share
        return odds


def _copy(classifier: Classifier) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in classifier.state_dict().items()}


def _write(
    out: Path,
    weights: dict[str, torch.Tensor],
    result: ProbeResult,
    options: FinetuneOptions,
    config_hash: str,
    leads: tuple[int, ...] | None,
) -> None:
    partial = store.partial_path(out)
    partial.mkdir(parents=True, exist_ok=True)
    save_file(weights, partial / WEIGHTS_NAME)
    content = {
        "options": dataclasses.asdict(options),
        "leads": leads,
        "pretraining_config_hash": config_hash,
        "codes": result.codes,
        "val_macro_by_step": result.val_macro,
        "result": result.to_dict(),
    }
    (partial / RESULT_NAME).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    partial.rename(out)
