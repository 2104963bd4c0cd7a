"""The one object of resume: where a run is. Weights and moments are the engine's; these are the numbers beside them."""

from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass
class TrainState:
    """Counters after a whole number of steps."""

    step: int = 0
    """Optimiser steps taken, the skipped ones included: schedules are functions of it."""

    samples_consumed: int = 0
    """Records taken from the global order: the whole state of the loader."""

    applied_steps: int = 0
    """Steps that changed the weights: AdamW's own counter, which its bias correction uses."""

    skipped_in_a_row: int = 0
    """Skipped steps since the last applied one."""

    @property
    def skipped_steps(self) -> int:
        return self.step - self.applied_steps

    def advance(self, *, samples_consumed: int, applied: bool) -> None:
        """Count one step."""
        self.step += 1
        self.samples_consumed = samples_consumed
        self.applied_steps += applied
        self.skipped_in_a_row = 0 if applied else self.skipped_in_a_row + 1

    def to_dict(self) -> dict[str, int]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrainState":
        return cls(**{entry.name: int(values[entry.name]) for entry in fields(cls)})
