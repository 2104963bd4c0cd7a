"""Record keys: one for every path, fit for a tar and for webdataset, the same in whatever order paths are listed.

And the other way: which record a table means, however it spells the key.
"""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from itertools import chain, repeat

from lamae.base.tables import whole_number

_MAX_KEY = 90  # KEY.json must fit the 100 bytes of a tar name
_FILE_SUFFIX = re.compile(r"\.(hea|dat|mat)$", re.IGNORECASE)


def keys_of(paths: Iterable[str]) -> list[str]:
    """A unique key for every path: the stem; where stems repeat, the path with ``/`` as ``__``.

    A key is ASCII without ``.`` (webdataset cuts there); what that would make equal or too long gets 8 hex digits of
    the path's sha256, or all of them where that is somebody's key.
    """
    paths = list(paths)
    keys = [_clean(path.rpartition("/")[2]) for path in paths]
    for form in chain((_path_form, _short_form), repeat(_digest)):  # a crafted name may be another's digest
        repeated = Counter(keys)
        if len(repeated) == len(keys) and len(max(keys, key=len, default="")) <= _MAX_KEY:
            break
        keys = [
            key if repeated[key] == 1 and len(key) <= _MAX_KEY else form(path)
            for key, path in zip(keys, paths, strict=True)
        ]
    return keys


class RecordNames:
    """The records that cells of tables mean.

    Tables go through spreadsheets and pandas, which write study 40000000 as 40000000.0 where a column has gaps, and
    record 00017 as 17. PTB-XL's ecg_id 1 is record 00001_hr or 00001_lr. Other tables have paths.
    """

    def __init__(self, keys: Collection[str], paths: Mapping[str, str] | None = None) -> None:
        """``paths``: by key, where they are known."""
        self.keys = keys
        self._paths = paths or {}

    def find(self, text: str) -> str | None:
        """The key that ``text`` spells: as it stands, as a number, or as a path; None where it spells none."""
        text = text.strip()
        if text in self.keys:
            return text
        number = whole_number(text)
        return self._of_path(text) if number is None else self._of_number(number)

    def _of_number(self, number: int) -> str | None:
        if str(number) in self.keys:
            return str(number)
        padded = {key for width in self._widths if (key := f"{number:0{width}d}") in self.keys}
        if padded:
            return padded.pop() if len(padded) == 1 else None
        return next((key for end in ("hr", "lr") if (key := f"{number:05d}_{end}") in self.keys), None)

    def _of_path(self, text: str) -> str | None:
        words = _FILE_SUFFIX.sub("", text).split("/")
        for start in range(len(words)):
            key = _path_form("/".join(words[start:]))
            if key in self.keys and _end_alike(_path_form("/".join(words)), _path_form(self._paths.get(key, key))):
                return key
        return None

    @cached_property
    def _widths(self) -> set[int]:
        return {len(key) for key in self.keys if key.isdecimal()}


def _end_alike(*forms: str) -> bool:
    """Whether one of two paths, with ``__`` for ``/``, is the end of the other: they may start at different folders."""
    short, long = sorted((f"__{form}" for form in forms), key=len)
    return long.endswith(short)


def _path_form(path: str) -> str:
    return _clean(path.replace("/", "__"))


def _short_form(path: str) -> str:
    return f"{_path_form(path)[: _MAX_KEY - 9]}-{_digest(path)[:8]}"


def _digest(path: str) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()


def _clean(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_+=@-]", "_", name)
