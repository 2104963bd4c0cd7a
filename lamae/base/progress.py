"""How long work reports where it is, without knowing who shows it."""

from collections.abc import Callable

# (what is being done, how much of it is done, how much there is or None if unknown)
Progress = Callable[[str, int, int | None], None]


def ignore(_stage: str, _done: int, _total: int | None) -> None:
    """The progress callback of a caller who does not want to know."""
