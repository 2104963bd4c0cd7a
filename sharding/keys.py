"""Record keys: one for every path, fit for a tar and for webdataset, the same in whatever order paths are listed."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable
from itertools import chain, repeat

_MAX_KEY = 90  # KEY.json must fit the 100 bytes of a tar name


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


def _path_form(path: str) -> str:
    return _clean(path.replace("/", "__"))


def _short_form(path: str) -> str:
    return f"{_path_form(path)[: _MAX_KEY - 9]}-{_digest(path)[:8]}"


def _digest(path: str) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()


def _clean(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_+=@-]", "_", name)
