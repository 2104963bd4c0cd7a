"""The loop of fine-tuning: gradient steps, scores on val, the best weights by them, and checkpoints to go on from.

FOLDER/checkpoints/          as in pretraining: weights and moments at the latest score, for any number of ranks
FOLDER/best-STEP.safetensors what the classifier computed with when val was best
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from scipy.sparse import csr_array

from lamae.base.errors import LamaeError
from lamae.base.files import new_file, writing
from lamae.base.progress import Progress
from lamae.data.batch import Batch
from lamae.data.config import DataConfig
from lamae.data.loader import RingLoader
from lamae.data.transforms import SignalTransform
from lamae.evaluate.embeddings.inference import read_signals, withhold_leads
from lamae.evaluate.finetune.classifier import Classifier
from lamae.evaluate.finetune.options import FinetuneOptions
from lamae.evaluate.probe.auroc import auroc
from lamae.evaluate.statistics import macro
from lamae.evaluate.store import dense
from lamae.sharding.format import ShardSet
from lamae.train.checkpoint.format import CheckpointReader, Piece, newest_whole
from lamae.train.checkpoint.saver import Saver
from lamae.train.checkpoint.tensorfile import save_tensors
from lamae.train.checkpoint.writing import clear_unfinished
from lamae.train.config import CheckpointConfig, EngineConfig, OptimConfig
from lamae.train.engine import Engine
from lamae.train.ranks.distributed import Ranks
from lamae.train.schedule import learning_rate, plan_batch, weight_decay
from lamae.train.state import TrainState

MAX_SKIPPED_IN_A_ROW = 8
CHECKPOINTS_NAME = "checkpoints"


@dataclass(frozen=True)
class Tuned:
    """What fine-tuning came to."""

    best_step: int
    val_macro: dict[float, float]
    """Macro AUROC on val by step."""
    odds: dict[str, np.ndarray]
    """Log-odds of the val and test records under the best weights, float32 [N, C]."""
    best_path: Path
    """The best weights."""


class Tuner:
    """Fine-tunes ``classifier`` on ``label_NC`` [N, codes]; ``rows`` are those of train, val and test."""

    def __init__(
        self,
        classifier: Classifier,
        options: FinetuneOptions,
        *,
        shard_set: ShardSet,
        transform: SignalTransform,
        label_NC: np.ndarray | csr_array,
        rows: dict[str, np.ndarray],
        ranks: Ranks,
        leads: tuple[int, ...] | None,
        folder: Path,
    ) -> None:
        self._classifier, self._options, self._folder = classifier, options, folder
        self._shard_set, self._transform = shard_set, transform
        self._rows, self._ranks, self._leads = rows, ranks, leads
        self._label_NC = label_NC
        self._plan = plan_batch(
            options.global_batch_size, micro_batch_size=options.micro_batch_size, world_size=ranks.world_size
        )
        self._optim = OptimConfig(
            lr=options.lr,
            final_lr=1e-3 * options.lr,
            warmup_steps=round(options.warmup_share * options.steps),
            weight_decay=options.weight_decay,
            beta2=0.999,
        )
        self._val_macro: dict[float, float] = {}
        self._best_step = 0

    def run(self, progress: Progress) -> Tuned:
        """Train from the newest checkpoint in the folder on, if there is one, and score val and test.

        Raises LamaeError when steps in a row are not applied.
        """
        options, ranks = self._options, self._ranks
        # Scores come from a copy that DeepSpeed has not partitioned: any rank runs it on any number of records.
        scorer = copy.deepcopy(self._classifier).eval().requires_grad_(False)
        scorer.to(ranks.device, torch.bfloat16 if options.precision == "bf16" else torch.float32)
        reader = self._find_checkpoint()
        state = reader.state if reader is not None else TrainState()
        engine = self._build_engine(reader)
        about: dict[str, Any] = {"shapes": engine.shapes()}
        saver = Saver(
            self._folder / CHECKPOINTS_NAME,
            ranks=ranks,
            config=CheckpointConfig(keep=1),
            about=about,
            subjects=np.zeros(0, dtype=np.uint64),
        )
        try:
            with self._loader(state) as loader:
                for batch in loader:
                    self._step(engine, batch, state)
                    if state.step % options.evaluate_every == 0 or state.step == options.steps:
                        weights = engine.whole_weights()
                        scorer.load_state_dict(weights)
                        self._note(state.step, self._score(scorer, "val"), weights)
                        about |= {"val_macro": self._val_macro, "best_step": self._best_step}
                        saver.begin(engine, state)
                        if not saver.finish():
                            raise LamaeError(
                                f"{self._folder}: a checkpoint could not be written; free some space there"
                            )
                        self._drop_older_weights()
                    progress("finetune", state.step, options.steps)
        finally:
            engine.close()
        scorer.load_state_dict(load_file(self._best_path))
        odds = {split: self._score(scorer, split) for split in ("val", "test")}
        return Tuned(self._best_step, self._val_macro, odds, self._best_path)

    @property
    def _best_path(self) -> Path:
        return self._folder / f"best-{self._best_step:08d}.safetensors"

    def _find_checkpoint(self) -> CheckpointReader | None:
        """Of an earlier, interrupted call; takes up its scores."""

        def find() -> Path | None:
            clear_unfinished(self._folder / CHECKPOINTS_NAME)
            return newest_whole(self._folder / CHECKPOINTS_NAME)

        path = self._ranks.decide(find)
        if path is None:
            return None
        reader = CheckpointReader(path)
        self._val_macro = {float(step): value for step, value in reader.manifest["val_macro"].items()}
        self._best_step = int(reader.manifest["best_step"])
        return reader

    def _build_engine(self, reader: CheckpointReader | None) -> Engine:
        if reader is not None:
            # The weights that are computed with are cast from these; frozen ones are in no checkpoint.
            trained = [name for name, entry in reader.manifest["parameters"].items() if entry["fragments"]]
            parameters = dict(self._classifier.named_parameters())
            reader.fill([Piece("master", name, 0, parameters[name]) for name in trained])
        engine = Engine(
            self._classifier,
            ranks=self._ranks,
            engine=EngineConfig(zero_stage=self._options.zero_stage, precision=self._options.precision),
            optim=self._optim,
            plan=self._plan,
        )
        if reader is not None:
            engine.restore(reader.fill, applied_steps=reader.state.applied_steps)
        return engine

    def _loader(self, state: TrainState) -> RingLoader:
        return RingLoader(
            self._shard_set,
            self._rows["train"],
            config=DataConfig(path=str(self._shard_set.root)),
            seed=self._options.seed,
            global_batch_size=self._options.global_batch_size,
            rank=self._ranks.rank,
            world_size=self._ranks.world_size,
            samples_consumed=state.samples_consumed,
            num_batches=self._options.steps - state.step,
        )

    def _step(self, engine: Engine, batch: Batch, state: TrainState) -> None:
        options, device = self._options, self._ranks.device

        def prepared() -> Iterator[tuple[torch.Tensor, ...]]:
            for part in batch.micro_batches(self._plan.accumulation):
                signal = self._transform(part.to(device), seed=options.seed, train=True)
                if self._leads is not None:
                    signal = withhold_leads(signal, keep=self._leads)
                y_BC = torch.from_numpy(dense(self._label_NC[signal.row.cpu().numpy()])).to(device, torch.float32)
                yield signal.x_BLT, signal.valid_BLT, signal.lead_mask_BL, y_BC

        engine.take_step(
            prepared(),
            learning_rate=learning_rate(state.step, self._optim, steps=options.steps),
            weight_decay=weight_decay(state.step, self._optim, steps=options.steps),
        )
        state.advance(samples_consumed=batch.samples_consumed, applied=engine.step_was_applied)
        if state.skipped_in_a_row == MAX_SKIPPED_IN_A_ROW:
            raise LamaeError(
                f"{state.skipped_in_a_row} steps in a row, up to step {state.step}, had a loss or gradient that is "
                f"not finite; use a lower lr than {options.lr:g}, or precision=fp32"
            )

    def _note(self, step: int, odds_NC: np.ndarray, weights: dict[str, torch.Tensor]) -> None:
        """Take down the val score of a step, and its weights if it is the best so far."""
        y_NC = dense(self._label_NC[self._rows["val"]])
        self._val_macro[float(step)] = float(macro(auroc(odds_NC, y_NC)))
        if self._best_step and self._val_macro[float(step)] <= self._val_macro[float(self._best_step)]:
            return
        self._best_step = step
        self._ranks.decide(lambda: _save(weights, self._best_path))

    def _drop_older_weights(self) -> None:
        if self._ranks.is_main:
            for path in self._folder.glob("best-*.safetensors"):
                if path != self._best_path:
                    path.unlink()

    def _score(self, scorer: Classifier, split: str) -> np.ndarray:
        """Log-odds of a split, every rank scoring its share. Raises LamaeError where they are not finite."""
        rows, ranks = self._rows[split], self._ranks
        found = [np.zeros((0, self._label_NC.shape[1]), dtype=np.float32)]
        with torch.no_grad():
            for signal in read_signals(
                self._shard_set,
                rows[ranks.rank :: ranks.world_size],
                transform=self._transform,
                batch_size=self._options.micro_batch_size,
                device=str(ranks.device),
                leads=self._leads,
            ):
                odds_BC, _ = scorer.score(signal.x_BLT, signal.valid_BLT, signal.lead_mask_BL)
                found.append(odds_BC.cpu().numpy())
        odds = np.zeros((len(rows), self._label_NC.shape[1]), dtype=np.float32)
        for rank, share in enumerate(ranks.gather(np.concatenate(found))):
            odds[rank :: ranks.world_size] = share
        diverged = int((~np.isfinite(odds).all(1)).sum())
        if diverged:
            raise LamaeError(
                f"the odds of {diverged} of {len(rows)} {split} records are not finite: the weights have diverged, or "
                f"the run's are not finite; use a lower lr than {self._options.lr:g}, or an earlier checkpoint",
                all_ranks=True,
            )
        return odds


def _save(weights: dict[str, torch.Tensor], path: Path) -> None:
    with writing(path), new_file(path) as partial:
        save_tensors(weights, partial)
