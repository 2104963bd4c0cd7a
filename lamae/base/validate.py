"""Rules for the values of a configuration. Each raises ValueError naming the key to change; None always passes."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any


def at_least(config: Any, section: str = "", **bounds: float) -> None:
    """``at_least(config, "train", steps=1)``: the field ``steps`` of ``config`` is 1 or more, and not infinite."""
    _check(config, section, bounds, lambda value, bound: value >= bound, "must be at least {}")
    _is_finite(config, section, bounds)


def above(config: Any, section: str = "", **bounds: float) -> None:
    """Fields that are more than a bound, and not infinite."""
    _check(config, section, bounds, lambda value, bound: value > bound, "must be above {}")
    _is_finite(config, section, bounds)


def below(config: Any, section: str = "", **bounds: float) -> None:
    """Fields from 0 on, that are less than a bound."""
    _check(config, section, bounds, lambda value, bound: 0 <= value < bound, "must lie in [0, {})")


def is_share(config: Any, section: str = "", *names: str) -> None:
    """Fields from 0 to 1, both allowed."""
    _check(config, section, dict.fromkeys(names), lambda value, _: 0 <= value <= 1, "must lie in 0..1")


def one_of(config: Any, section: str = "", **choices: Collection[Any]) -> None:
    """Fields that have one of a few values."""
    for name, allowed in choices.items():
        words = f"is none of {', '.join(map(str, allowed))}"
        _check(config, section, {name: allowed}, lambda value, allowed: value in allowed, words)


def _is_finite(config: Any, section: str, names: Iterable[str]) -> None:
    _check(config, section, dict.fromkeys(names), lambda value, _: abs(value) < math.inf, "must be finite")


def _check(config: Any, section: str, rules: Mapping[str, Any], holds: Callable[[Any, Any], bool], words: str) -> None:
    for name, rule in rules.items():
        value = getattr(config, name)
        if value is not None and not holds(value, rule):
            raise ValueError(f"{section}.{name}={value!r} {words.format(rule)}".lstrip("."))
