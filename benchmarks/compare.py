"""Two results of the same benchmark, ratio by ratio: what moved by more than either was scattered."""

from dataclasses import dataclass
from typing import Any

from lamae.base.outputs import differences
from lamae.benchmarks.result import Spread, spread_of_ratios

MOVED, WITHIN, ONLY_ONE = "moved", "within spread", "only in one"
# What has to agree for absolute figures to be comparable, and is named when ratios are compared all the same.
CONDITIONS = ("benchmark", "quick", "hardware", "versions", "revision")


@dataclass(frozen=True)
class Change:
    """One ratio before and after."""

    name: str
    before: Spread | None
    after: Spread | None

    @property
    def factor(self) -> float | None:
        """After over before."""
        return self.after[0] / self.before[0] if self.after and self.before and self.before[0] else None

    @property
    def verdict(self) -> str:
        """``moved`` where the two spreads, from the least to the largest repeat, do not touch."""
        if self.before is None or self.after is None:
            return ONLY_ONE
        apart = self.before[2] < self.after[1] or self.after[2] < self.before[1]
        return MOVED if apart else WITHIN


def compare(before: dict[str, Any], after: dict[str, Any]) -> list[Change]:
    """Every ratio of either result; those of ``before`` first, in its order."""
    then, now = spread_of_ratios(before), spread_of_ratios(after)
    return [Change(name, then.get(name), now.get(name)) for name in dict.fromkeys([*then, *now])]


def differing_conditions(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """What differs between the circumstances of two results, one line each."""
    then, now = ({key: result.get(key) for key in CONDITIONS} for result in (before, after))
    return [f"{key}: {old} -> {new}" for key, old, new in differences(then, now)]
