"""What a run trains for, how it steps and what it keeps: the sections from ``train:`` to ``profile:`` of a run.

Imports nothing heavy: every process that only reads a configuration loads this module.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lamae.base.validate import above, at_least, below, one_of

AUTO = "auto"
PRECISIONS = ("fp32", "bf16")
ZERO_STAGES = (0, 1, 2, 3)
COMPILE_MODES = ("off", "blocks")
# What raw DeepSpeed options may not touch: what other keys decide, and what no parity test has shown to be right.
NOT_FOR_RAW_OPTIONS = {
    "train_batch_size": "set train.global_batch_size",
    "train_micro_batch_size_per_gpu": "set train.micro_batch_size",
    "gradient_accumulation_steps": "it follows from train.global_batch_size and train.micro_batch_size",
    "gradient_clipping": "set optim.clip_norm",
    "optimizer": "AdamW is set up by the optim section",
    "scheduler": "the optim section holds the schedule",
    "bf16": "set engine.precision",
    "fp16": "fp16 is not offered: its loss scaling is not proven here; set engine.precision=bf16",
    "amp": "set engine.precision",
    "torch_autocast": "set engine.precision",
    "zero_optimization.stage": "set engine.zero_stage",
    "data_types.grad_accum_dtype": "it follows from engine.precision and engine.zero_stage",
    "zero_optimization.cpu_offload": "offloading is not offered: its gradients are not proven here",
    "zero_optimization.cpu_offload_param": "offloading is not offered: its gradients are not proven here",
    "zero_optimization.offload_optimizer": "offloading is not offered: its gradients are not proven here",
    "zero_optimization.offload_param": "offloading is not offered: its gradients are not proven here",
}


def _is_set(options: Mapping[str, Any], path: str) -> bool:
    """Whether a dotted path leads anywhere in nested mappings."""
    key, _, rest = path.partition(".")
    if key not in options:
        return False
    inner = options[key]
    return not rest or (isinstance(inner, Mapping) and _is_set(inner, rest))


@dataclass
class TrainConfig:
    """How long to train and on how large a batch."""

    steps: int = 10_000
    """Optimiser steps of the whole run; the schedules end here."""

    stop_at: int | None = None
    """Save and leave cleanly (exit code 0) after this step; the schedules still span ``steps``. Resuming without it,
    or with a later one, goes on from there."""

    seed: int = 0
    """Seeds the initial weights, the order of records, the masks and the augmentations."""

    global_batch_size: int = 256
    """Records per optimiser step over all ranks; must be a multiple of the world size."""

    micro_batch_size: int = 64
    """Largest number of records a rank puts through the model at once. Accumulation is derived: the fewest equal
    micro-batches that respect this."""

    num_threads: int = 0
    """Threads of torch's CPU operations per process; 0 is the cores this process may use, shared out among the local
    ranks."""

    activation_checkpointing: bool = False
    """Recompute the blocks' activations in the backward pass: less memory, about a third more arithmetic."""

    compile: str = "off"
    """``off``, or ``blocks`` to run torch.compile on each transformer block (needs a compiler on the machine)."""

    validate_every: int = 0
    """Steps between validation losses on a fixed subset of the ``val`` split with fixed masks; 0 never validates."""

    validate_records: int = 256
    """Records of the fixed validation subset, fewer where the split is smaller."""

    max_skipped_in_a_row: int = 8
    """Stop with a report after this many consecutive steps with a non-finite loss or gradient."""

    def check(self) -> None:
        at_least(self, "train", steps=1, stop_at=1, seed=0, global_batch_size=1, micro_batch_size=1, num_threads=0)
        at_least(self, "train", validate_every=0, validate_records=1, max_skipped_in_a_row=1)
        one_of(self, "train", compile=COMPILE_MODES)


@dataclass
class OptimConfig:
    """AdamW and its schedules: linear warm-up, then a cosine down to ``final_lr``."""

    lr: float = 1e-3
    """Learning rate at the end of the warm-up."""

    final_lr: float = 1e-5
    """Learning rate at the last step."""

    warmup_steps: int = 500
    """Steps of linear warm-up: step n, counted from 0, takes ``lr * (n + 1) / (warmup_steps + 1)``."""

    decay_end: int | None = None
    """Number of steps after which ``final_lr`` is reached and kept; None is ``train.steps``. To train on after a
    finished schedule, set it to the old ``train.steps``."""

    restart_from: int | None = None
    """After this many steps the learning rate falls along a second cosine, to ``final_lr`` at the last step; needs
    ``decay_end``."""

    restart_lr: float | None = None
    """Learning rate at ``restart_from``; None is the one that the schedule has there, so that nothing jumps."""

    weight_decay: float = 0.05
    """Decoupled weight decay of matrices at the first step; norms, biases, tokens and embeddings have none."""

    final_weight_decay: float | None = None
    """Weight decay at the last step, reached by a cosine; None keeps ``weight_decay`` throughout."""

    beta1: float = 0.9
    """Decay of the first moment."""

    beta2: float = 0.95
    """Decay of the second moment."""

    eps: float = 1e-8
    """Added to the root of the second moment."""

    clip_norm: float = 1.0
    """Gradients are scaled down to this global L2 norm; 0 never clips."""

    def check(self) -> None:
        above(self, "optim", lr=0, eps=0)
        at_least(self, "optim", warmup_steps=0, decay_end=1, restart_from=0, weight_decay=0, final_weight_decay=0)
        at_least(self, "optim", clip_norm=0, restart_lr=0)
        below(self, "optim", beta1=1, beta2=1)
        if not 0 <= self.final_lr <= self.lr:
            raise ValueError(f"optim.final_lr={self.final_lr} must lie between 0 and optim.lr={self.lr}")
        if self.restart_from is not None and self.decay_end is None:
            raise ValueError(
                f"optim.restart_from={self.restart_from} needs optim.decay_end: where the schedule before it ends, "
                "train.steps as it was"
            )
        if self.restart_lr is not None:
            if self.restart_from is None:
                raise ValueError(f"optim.restart_lr={self.restart_lr} needs optim.restart_from: the step it is for")
            if not self.final_lr <= self.restart_lr:
                raise ValueError(f"optim.restart_lr={self.restart_lr} must not be below optim.final_lr={self.final_lr}")


def check_schedule(optim: OptimConfig, *, steps: int) -> None:
    """Raises ValueError where the schedule does not fit into ``steps``."""
    if optim.restart_from is not None and optim.restart_from >= steps:
        raise ValueError(f"optim.restart_from={optim.restart_from} must lie before the end, train.steps={steps}")
    if optim.restart_from is None and (optim.decay_end or 0) > steps:
        raise ValueError(f"optim.decay_end={optim.decay_end} lies beyond train.steps={steps}: leave it away")


@dataclass
class EngineConfig:
    """Precision and DeepSpeed's ZeRO stage."""

    zero_stage: int = 1
    """What is partitioned over ranks: 0 nothing, 1 optimiser state, 2 and gradients, 3 and weights."""

    precision: str = AUTO
    """``bf16`` (weights and activations bfloat16, master weights and moments float32), ``fp32``, or ``auto``: bf16
    where the device computes it faster."""

    timeout_s: float = 1800.0
    """How long a collective may wait for a rank before the first step is done, and how long ranks may then spend
    between steps (saving, probing)."""

    step_timeout_s: float = 600.0
    """How long a collective may wait within steps, suspended time included, in runs without the watchdog
    (``monitor.hang_factor=0``)."""

    deepspeed: dict[str, Any] = field(default_factory=dict)
    """Raw DeepSpeed options, merged last over the generated configuration. Those that other keys decide, and those not
    offered (fp16, offloading), are refused."""

    def check(self) -> None:
        one_of(self, "engine", zero_stage=ZERO_STAGES)
        above(self, "engine", timeout_s=0, step_timeout_s=0)
        if self.precision not in (AUTO, *PRECISIONS):
            reason = "; fp16 is not offered: its loss scaling is not proven here" if self.precision == "fp16" else ""
            raise ValueError(f"engine.precision={self.precision!r} is none of {', '.join((AUTO, *PRECISIONS))}{reason}")
        if self.precision == "bf16" and self.zero_stage == 0:
            raise ValueError(
                "engine.zero_stage=0 with engine.precision=bf16 is refused: DeepSpeed 0.19.8 then follows a wrong loss "
                "curve; take engine.zero_stage=1 (same memory on one rank) or engine.precision=fp32"
            )
        for path, reason in NOT_FOR_RAW_OPTIONS.items():
            section = path.partition(".")[0]
            if section != path and not isinstance(self.deepspeed.get(section, {}), Mapping):
                raise ValueError(f"engine.deepspeed.{section}={self.deepspeed[section]!r} must be a mapping of options")
            if _is_set(self.deepspeed, path):
                raise ValueError(f"engine.deepspeed.{path} is refused: {reason}")


@dataclass
class CheckpointConfig:
    """When state is saved and what is kept."""

    every: int = 500
    """Steps between checkpoints; the last step, a stop and a signal always save. 0 saves only then."""

    keep: int = 3
    """Newest whole checkpoints to keep; 0 keeps all. A checkpoint holding a file named ``pinned`` is never removed."""

    keep_every: int = 0
    """Checkpoints whose step is a multiple of this are kept for good; 0 for none."""

    notice_s: float = 0.0
    """Seconds between the scheduler's signal and its kill; a warning says when saving takes longer than that. 0 where
    it is not known."""

    background: bool = True
    """Write on a thread after a snapshot to host memory, while training goes on."""

    allow_changes: bool = False
    """Resume although the model, the mask, the signal, the data (split, order and weights too), the seed or the batch
    size differs from the checkpoint's; the differences are logged."""

    def check(self) -> None:
        at_least(self, "checkpoint", every=0, keep=0, keep_every=0, notice_s=0)


@dataclass
class MonitorConfig:
    """What a run logs, and how often."""

    log_every: int = 10
    """Steps between log lines, metrics and TensorBoard scalars."""

    figures_every: int = 0
    """Steps between figures in TensorBoard (reconstruction per lead, lead weights); 0 draws none."""

    probe_every: int = 0
    """Steps between online probes of the representation (macro AUROC on val records of ``probe_labels``); 0 never."""

    probe_labels: str | None = None
    """labels.zarr of this shard set, as ``lamae labels`` writes it, for ``probe_every``."""

    probe_records: int = 512
    """Labelled train records that the online probe is fitted on; it is scored on half as many val records."""

    tensorboard: bool = True
    """Write TensorBoard events below the run directory."""

    spike_zscore: float = 8.0
    """A loss this many robust standard deviations above the recent median is logged with its records; 0 never."""

    hang_factor: float = 50.0
    """No step for this many median step times (never sooner than ``hang_floor_s``) writes every rank's stacks into the
    run directory and ends the job; 0 never watches."""

    hang_floor_s: float = 300.0
    """The watchdog never fires sooner than this; the limit of the first steps, which have no median yet (0: they have
    none)."""

    peak_tflops: float | None = None
    """Peak dense TFLOP/s of one device in this precision, for model FLOP utilisation; unknown devices report none."""

    def check(self) -> None:
        at_least(self, "monitor", log_every=1, figures_every=0, probe_every=0, probe_records=2)
        at_least(self, "monitor", spike_zscore=0, hang_factor=0, hang_floor_s=0)
        above(self, "monitor", peak_tflops=0)


@dataclass
class ProfileConfig:
    """A close look at a few steps: a trace, a memory snapshot (CUDA) and a table, below ``profile`` in ``run.dir``."""

    steps: list[int] = field(default_factory=list)
    """``[first, last]``: the steps to profile, counted from 1, both included; ``[]`` profiles none."""

    on_demand_steps: int = 5
    """How many steps a file named ``profile.now`` in the run directory profiles."""

    ranks: int = 1
    """How many ranks, from 0 on, write a trace; the table is over all of them."""

    def check(self) -> None:
        if self.steps and not (len(self.steps) == 2 and 1 <= self.steps[0] <= self.steps[1]):
            raise ValueError(f"profile.steps={self.steps} must be [first, last] with 1 <= first <= last, or []")
        at_least(self, "profile", on_demand_steps=1, ranks=1)
