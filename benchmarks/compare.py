"""Two results of the same benchmark, ratio by ratio: what moved by more than either was scattered."""

from dataclasses import dataclass
from typing import Any

from lamae.base.outputs import differences

MOVED, WITHIN, ONLY_ONE = "moved", "within spread", "only in one"
# What has to agree for absolute figures to be comparable, and is named when ratios are compared all the same.
CONDITIONS = ("benchmark", "quick", "hardware", "versions", "revision")


@dataclass(frozen=True)
class Change:
    """One ratio before and after."""

    name: str
    before: float | None
    after: float | None
    before_spread: tuple[float, float] | None
    after_spread: tuple[float, float] | None

    @property
    def factor(self) -> float | None:
        """After over before."""
        return self.after / self.before if self.before and self.after is not None else None

    @property
    def verdict(self) -> str:
        """``moved`` where the two spreads, from the least to the largest repeat, do not touch."""
        if self.before_spread is None or self.after_spread is None:
            return ONLY_ONE
        apart = self.before_spread[1] < self.after_spread[0] or self.after_spread[1] < self.before_spread[0]
        return MOVED if apart else WITHIN


def compare(before: dict[str, Any], after: dict[str, Any]) -> list[Change]:
    """Every ratio of either result; those of ``before`` first, in its order."""
    names = list(dict.fromkeys([*before["ratios"], *after["ratios"]]))
    return [
        Change(name, before["ratios"].get(name), after["ratios"].get(name), _spread(before, name), _spread(after, name))
        for name in names
    ]


def differing_conditions(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What differs between the circumstances of two results, one line each."""
    then, now = ({key: result.get(key) for key in CONDITIONS} for result in (before, after))
    return [f"{key}: {old} -> {new}" for key, old, new in differences(then, now)]


def _spread(result: dict[str, Any], name: str) -> tuple[float, float] | None:
    """A ratio without a spread of its own has none: its value stands for both ends."""
    if name not in result["ratios"]:
        return None
    value = result["ratios"][name]
    least, most = result.get("ratio_spread", {}).get(name, (value, value))
    return least, most
