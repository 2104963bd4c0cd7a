"""Ranks for tests: those of the benchmarks, calling functions of test modules by name."""

import importlib
from pathlib import Path
from typing import Any

from lamae.base.errors import LamaeError
from lamae.benchmarks import ranks

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 200.0


class RankPool(ranks.RankPool):
    """``world_size`` processes on CPUs, on any cores: other tests run beside them."""

    def __init__(self, world_size: int) -> None:
        super().__init__(world_size, pin=False, use_gpus=False, timeout_s=TIMEOUT_S)

    def run(self, module: str, function: str, **arguments: Any) -> list[Any]:
        """``module.function(**arguments)`` on every rank at once; the results in rank order.

        Raises LamaeError where a rank raised, died or hung; the next call gets new ranks.
        """
        try:
            return self.call(_run, module=module, function=function, arguments=arguments)
        except LamaeError:
            self._start()
            raise


def _run(_session: ranks.Session, *, module: str, function: str, arguments: dict[str, Any]) -> Any:
    return getattr(importlib.import_module(module), function)(**arguments)
