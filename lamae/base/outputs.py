"""May a command write there? The place is free, or holds what the same command began or made, or it is refused."""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lamae.base.errors import UsageError
from lamae.base.files import writing
from lamae.base.text import few

MAX_DIFFERENCES = 3
_DIGEST = re.compile(r"[0-9a-f]{12,64}")


def differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(dotted key, old value, new value) wherever two nested mappings differ; a missing key counts as None."""
    for key in sorted({*before, *now}):
        dotted, old, new = f"{prefix}{key}", before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from differences(old, new, f"{dotted}.")
        elif old != new:
            yield dotted, old, new


def refuse_other(
    found: Mapping[str, Any],
    wanted: Mapping[str, Any],
    complaint: str,
    *,
    remedy: str = "remove it or choose another name",
    words: Mapping[str, str] | None = None,
) -> None:
    """Raise UsageError unless what was ``found`` in a file is what a file would keep of ``wanted``.

    The message is ``COMPLAINT (KEY: OLD -> NEW; …); REMEDY``. ``words``: what to say instead of a key's values.
    """
    found_differences = [
        (words or {}).get(key) or _in_words(key, old, new)
        for key, old, new in differences(found, json.loads(json.dumps(wanted)))
    ]
    if found_differences:
        raise UsageError(f"{complaint} ({few(found_differences, MAX_DIFFERENCES, between='; ')}); {remedy}")


def _in_words(key: str, old: Any, new: Any) -> str:
    if all(isinstance(value, str) and _DIGEST.fullmatch(value) for value in (old, new)):
        return f"{key} differs"
    return f"{key}: {old!s:.60} -> {new!s:.60}"


def refuse_foreign(out: Path, *, what: str = "", is_own: Callable[[Path], bool] = lambda _: False) -> None:
    """Raise UsageError where ``out`` is no directory, or holds anything that is not ``is_own``."""
    if out.is_symlink() and not out.exists():
        raise UsageError(f"{out}: a link to {os.readlink(out)}, which does not exist; make that or remove the link")
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: exists and is no directory; choose another one")
    if out.is_dir() and not all(map(is_own, out.iterdir())):
        kind = f" and no {what}" if what else ""
        raise UsageError(f"{out}: not empty{kind}; choose an empty or new directory")


def make_or_resume(out: Path, *, what: str, found: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> None:
    """Make directory ``out`` for ``what`` with settings ``wanted``, or go on with that whose settings were ``found``.

    Raises UsageError where those are others, where ``out`` holds anything else, or cannot be made.
    """
    if found is not None:
        return refuse_other(found, wanted, f"{out}: holds a {what} with other settings", remedy="take another --out")
    with writing(out, UsageError):
        refuse_foreign(out, what=what)
        out.mkdir(parents=True, exist_ok=True)
    return None
