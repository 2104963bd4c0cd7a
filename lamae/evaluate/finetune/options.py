"""The options of ``lamae finetune``."""

from dataclasses import dataclass

from lamae.evaluate.finetune.classifier import READOUTS
from lamae.train.config import ZERO_STAGES, EngineConfig


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
    """0 to 3: what is partitioned over ranks, see ``EngineConfig``."""
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
        if self.zero_stage not in ZERO_STAGES:
            raise ValueError(f"finetune.zero_stage={self.zero_stage} is none of {', '.join(map(str, ZERO_STAGES))}")
        EngineConfig(zero_stage=self.zero_stage, precision=self.precision).check()
