"""The options of ``lamae finetune``."""

from dataclasses import dataclass

from lamae.base.validate import above, at_least, is_share, one_of
from lamae.evaluate.finetune.classifier import READOUTS
from lamae.train.config import PRECISIONS, ZERO_STAGES, EngineConfig


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
    """Factor of the learning rate per block from the head down; with ``from_scratch``, too, better than 1."""
    weight_decay: float = 0.05
    """Decoupled weight decay of matrices."""
    warmup_share: float = 0.1
    """Share of the steps over which the learning rate rises."""
    evaluate_every: int = 100
    """Steps between scores of the val split."""
    readout: str = "record"
    """record (the model's own pooling) or mean."""
    from_scratch: bool = False
    """Take the checkpoint's architecture with fresh weights: the supervised baseline."""
    precision: str = "fp32"
    """fp32 or bf16."""
    zero_stage: int = 1
    """0 to 3: what is partitioned over ranks, see ``EngineConfig``."""
    seed: int = 0
    """Seeds the head, fresh weights and the order of records."""

    def check(self) -> None:
        """Raises ValueError naming the option."""
        at_least(self, "finetune", steps=1, global_batch_size=1, micro_batch_size=1, evaluate_every=1)
        at_least(self, "finetune", weight_decay=0, seed=0)
        one_of(self, "finetune", readout=READOUTS, zero_stage=ZERO_STAGES, precision=PRECISIONS)
        above(self, "finetune", lr=0, layer_decay=0)
        is_share(self, "finetune", "layer_decay", "warmup_share")
        EngineConfig(zero_stage=self.zero_stage, precision=self.precision).check()
