"""Two results of the same benchmark, ratio by ratio: what moved by more than either was scattered."""

from dataclasses import dataclass
from typing import Any

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
    lines = []
    for key in CONDITIONS:
        old, new = before.get(key), after.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            for part in sorted({*old, *new}):
                if old.get(part) != new.get(part):
                    lines.append(f"{part}: {old.get(part)} -> {new.get(part)}")
        elif old != new:
            lines.append(f"{key}: {old} -> {new}")
    return lines


def _spread(result: dict[str, Any], name: str) -> tuple[float, float] | None:
    """A ratio without a spread of its own has none: its value stands for both ends."""
    if name not in result["ratios"]:
        return None
    value = result["ratios"][name]
    least, most = result.get("ratio_spread", {}).get(name, (value, value))
    return least, most
