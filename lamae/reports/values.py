"""Results as plain values for JSON."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from lamae.evaluate.statistics import Interval


def finite(value: Any) -> Any:
    """For JSON, which has no NaN: undefined numbers become null, intervals mappings."""
    if isinstance(value, Interval):
        value = value.to_dict()
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
