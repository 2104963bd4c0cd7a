"""What has to be worked around in DeepSpeed 0.19.8, each in one place, with the test that notices when it is gone.

- The first collective compiles an extension, under a lock that a kill leaves: ``import_deepspeed``; train/test_engine.
- Importing ZeRO compiles an optimiser nobody asked for: ``_import_muon_uncompiled``; no test, it costs a second.
- Its logger warns of torch's AdamW and of inputs in dataclasses: ``EXPECTED_WARNINGS``; no test, a line in the log.
- It hooks tensors in tuples and dicts, not in dataclasses: ``TupleOutput``; distributed/test_parity at stage 3.
- Stage 3 replaces ``torch.nn.functional.linear`` for good: ``Engine.close``; benchmarks/test_forecast.
- Stage 0 applies a step whose gradient is not finite: ``Engine._check_gradients``; distributed/test_agreement.
- bf16 at stage 0 follows a wrong curve: refused by ``EngineConfig.check``; test_config.
- Its checkpoints are pickles bound to one topology: ``Engine.fragments``; distributed/test_portable.
- Its launcher puts --local_rank before the verb: ``lamae.cli.app``; distributed/test_launchers.
"""

import importlib
import logging
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

STALE_LOCK_S = 3600.0
# Chosen on purpose and held by the parity tests: torch's AdamW, and modules that pass masks and outputs as dataclasses.
EXPECTED_WARNINGS = ("untested ZeRO Optimizer", "unknown inputs or outputs type")

log = logging.getLogger(__name__)


def import_deepspeed() -> Any:
    """Import DeepSpeed without its compiler probes, and with its chatter down to warnings."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    # Left to itself, the first collective compiles a shared-memory extension, and a process killed meanwhile leaves a
    # lock on which every later one waits for ever. An empty table says "no extension fits this machine".
    deepspeed.ops.__compatible_ops__ = {}
    _import_muon_uncompiled()
    renamed = r".*`torch.distributed.(all_gather_into|reduce_scatter)_tensor` is deprecated"
    warnings.filterwarnings("ignore", message=renamed, category=FutureWarning)
    logger = logging.getLogger("DeepSpeed")
    logger.setLevel(logging.WARNING)
    for handler in logger.handlers:
        if type(handler) is logging.StreamHandler:
            handler.stream = sys.stderr  # setStream would flush the one before, which may be closed by now
    logger.addFilter(_is_unexpected)
    _warn_of_stale_locks()
    return deepspeed


def _import_muon_uncompiled() -> None:
    """Import an optimiser that is never used but that ZeRO imports all the same.

    Its functions ask torch.compile to wrap them as they are defined, and loading the compiler takes a second.
    """
    from deepspeed.runtime import compiler

    compile_decorator = compiler.compile
    compiler.compile = lambda: lambda function: function
    try:
        importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")
    finally:
        compiler.compile = compile_decorator


def _warn_of_stale_locks() -> None:
    """Name locks that a killed compilation left: whatever compiles that extension next waits for them for ever."""
    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR", "~/.cache/torch_extensions")).expanduser()
    for lock in (*root.glob("*/lock"), *root.glob("*/*/lock")):
        if time.time() - lock.stat().st_mtime > STALE_LOCK_S:
            log.warning("%s is left over from a compilation that was killed: remove it", lock)


def _is_unexpected(record: logging.LogRecord) -> bool:
    return not any(expected in record.getMessage() for expected in EXPECTED_WARNINGS)


class TupleOutput(nn.Module):
    """A model whose output is a dataclass, with its output as the pair ``(loss, the rest)``, the rest detached."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Any) -> tuple[torch.Tensor, dict[str, Any]]:
        values = dict(vars(self.model(*inputs)))
        loss = values.pop("loss")
        return loss, {name: _detached(value) for name, value in values.items()}


def _detached(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _detached(entry) for name, entry in value.items()}
    return value.detach() if isinstance(value, torch.Tensor) else value
