"""Every file below a directory, linked folders too, each folder once; what is left out is logged, never silent."""

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

from lamae.base.errors import LamaeError

logger = logging.getLogger(__name__)

# Files and folders that operating systems and version control put beside others: ._x.hea, .git, __MACOSX.
_HIDDEN = re.compile(r"(?:^|/)(?:\.|(?:__MACOSX|lost\+found|\$RECYCLE\.BIN|System Volume Information|@eaDir)(?:/|$))")
_RECORD_SUFFIXES = (".hea", ".dat", ".mat")


def is_hidden(path: str) -> bool:
    """Whether a relative path is, or is below, what is never a record, though copies of records may be in it."""
    return _HIDDEN.search(path) is not None


def paths_below(root: Path) -> Iterator[str]:
    """Path relative to ``root`` of every file that is not hidden, in no particular order.

    Linked folders are followed, but no folder is entered twice: a link to one that is listed anyway, such as a link in
    a circle, is left out. Raises LamaeError naming a folder that cannot be listed.
    """
    entered: list[Path] = []  # real paths whose whole trees have been listed
    nowhere: list[str] = []
    waiting = [("", Path(os.path.realpath(root)))]
    while waiting:
        prefix, top = waiting.pop(0)
        if _is_listed(top, entered):
            logger.warning("%s: left out, a link to %s, which is listed already", root / prefix, top)
            continue
        links: list[tuple[str, Path]] = []
        yield from _tree(top, prefix, entered, links, nowhere)
        entered.append(top)
        waiting += sorted(links)
    nowhere = [path for path in nowhere if not path.endswith(_RECORD_SUFFIXES)]  # of those, reading will say so
    if nowhere:
        logger.warning(
            "%s: %d links lead nowhere, such as %s; records behind them are not found", root, len(nowhere), nowhere[0]
        )


def _tree(
    top: Path, prefix: str, entered: list[Path], links: list[tuple[str, Path]], nowhere: list[str]
) -> Iterator[str]:
    """The files below the real folder ``top``, as paths that begin with ``prefix``.

    Links to folders go into ``links``, those that lead nowhere into ``nowhere``.
    """
    folders = [(str(top), prefix)]
    stop = {str(folder) for folder in entered}  # met below a link to a folder around the root
    while folders:
        folder, prefix = folders.pop()
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if is_hidden(entry.name):
                        continue
                    path = prefix + entry.name
                    if entry.is_dir(follow_symlinks=False):
                        if entry.path not in stop:
                            folders.append((entry.path, path + "/"))
                    elif entry.is_symlink() and os.path.isdir(entry.path):
                        links.append((path + "/", Path(os.path.realpath(entry.path))))
                    else:
                        yield path
                        if entry.is_symlink() and not os.path.exists(entry.path):
                            nowhere.append(path)
        except OSError as error:
            raise LamaeError(
                f"{folder}: cannot be listed ({error.strerror or error}), and records may be in it; make it readable, "
                f"or move it out of the source"
            ) from None


def _is_listed(folder: Path, entered: list[Path]) -> bool:
    """Whether ``folder`` is in a tree that has been listed, and not in a hidden part of it."""
    return any(
        folder == top or (folder.is_relative_to(top) and not is_hidden(folder.relative_to(top).as_posix()))
        for top in entered
    )
