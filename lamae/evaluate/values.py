"""Results as plain values for JSON."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from lamae.evaluate.statistics import Interval


def finite(values: Mapping[Any, Any]) -> dict[str, Any]:
    """For JSON, which has no NaN: undefined numbers become null, intervals mappings."""
    return {str(key): _finite(value) for key, value in values.items()}


def _finite(value: Any) -> Any:
    if isinstance(value, Interval):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return finite(value)
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
