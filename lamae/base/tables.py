"""CSV tables that come with the data or out of a spreadsheet, read strictly: a refusal names the file and the line.

Taken as they are: a byte order mark, any line ends, blanks around names and cells, empty lines, quoted cells, and names
of columns in upper or lower case.
"""

import csv
import hashlib
import io
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

from lamae.base.errors import UsageError

MAX_CELL_CHARS = 1 << 24
NO_VALUE = {"", "-", "?", "unknown", "anonymous", "missing", "none", "null"}
NO_VALUE |= {"nan", "-nan", "nat", "na", "<na>", "n/a", "#n/a", "#na"}
"""What pandas, R, SQL, Python, Excel and people write where there is nothing, in lower case."""
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]{1,2})?")


class Table:
    """A CSV whose heading has been read; iterating gives (line number, {column: cell}) of every row, once.

    ``content`` stands for the bytes of ``path`` where that is no file on disk. Raises UsageError, also while iterating.
    """

    def __init__(self, path: Path, content: bytes | None = None) -> None:
        self.path = path
        csv.field_size_limit(MAX_CELL_CHARS)
        if content is None and path.exists() and not path.is_file():  # a pipe would be waited for
            raise UsageError(f"{path}: not a regular file; give a table as CSV")
        try:
            stream = io.BytesIO(content) if content is not None else path.open("rb")
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror or error}") from None
        text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
        self._reader = csv.reader(text, skipinitialspace=True)
        self.names = next(self._cells(), [])
        """Names of the columns; what ``require`` and ``first_of`` found carries the name they were given."""
        while self.names and not self.names[-1]:  # a spreadsheet's empty columns at the right
            self.names.pop()
        if not self.names:
            raise UsageError(f"{path}: is empty; a table begins with the names of its columns")
        if len(self.names) == 1 and (separator := re.search(r"[;\t|]", self.names[0])):
            raise UsageError(
                f"{path}: its columns are separated by {separator[0]!r}; save it with commas between them and points "
                f"in numbers"
            )

    def require(self, *names: str) -> None:
        """Raise UsageError where one of the columns is not there, or there twice."""
        absent = [name for name in names if self.first_of(name) is None]
        if absent:
            raise UsageError(
                f"{self.path}: no column {', '.join(absent)}; is this the right file? It has {self._heading()}"
            )

    def first_of(self, *choices: str) -> str | None:
        """The first of the names that a column has, None where none does."""
        for choice in choices:
            matches = [k for k, name in enumerate(self.names) if name == choice] or [
                k for k, name in enumerate(self.names) if name.casefold() == choice.casefold()
            ]
            if len(matches) > 1:
                raise UsageError(f"{self.path}: {len(matches)} columns are named {choice}; keep one")
            if matches:
                self.names[matches[0]] = choice
                return choice
        return None

    def require_one_of(self, *choices: str) -> str:
        """The first of the names that a column has; raises UsageError where none does."""
        found = self.first_of(*choices)
        if found is None:
            raise UsageError(f"{self.path}: needs a column {' or '.join(choices)}; it has {self._heading()}")
        return found

    def refuse_repeated_names(self) -> None:
        """Raise UsageError where two columns have one name, whichever they are."""
        for name in self.names:
            self.first_of(name)

    def rows(self, *names: str) -> Iterator[tuple[int, dict[str, str]]]:
        """As iterating, once these columns are known to be there."""
        self.require(*names)
        return iter(self)

    def where(self, line: int) -> str:
        """File and line, as errors begin."""
        return f"{self.path}, line {line}"

    def __iter__(self) -> Iterator[tuple[int, dict[str, str]]]:
        width = len(self.names)
        for cells in self._cells():
            if len(cells) != width and (len(cells) < width or any(cells[width:])):
                number = "fewer" if len(cells) < width else "more"
                raise UsageError(
                    f"{self.where(self._reader.line_num)}: {number} cells than the heading's {width}; was the file "
                    f"cut, or a cell with a comma written without quotes?"
                )
            yield self._reader.line_num, dict(zip(self.names, cells, strict=False))

    def _cells(self) -> Iterator[list[str]]:
        try:
            for row in self._reader:
                cells = [cell.strip() for cell in row]
                if any(cells):
                    yield cells
        except UnicodeDecodeError:
            raise UsageError(f"{self.where(self._reader.line_num + 1)} or soon after: not UTF-8 text") from None
        except (OSError, csv.Error) as error:
            raise UsageError(f"{self.where(self._reader.line_num)}: not readable as CSV ({error})") from None

    def _heading(self) -> str:
        return ", ".join(self.names[:12]) + (", …" if len(self.names) > 12 else "")


def whole_number(text: str) -> int | None:
    """The number that ``text`` spells, "00017", "17.0" and "1.7e1" alike; None where it spells no whole number."""
    text = text.strip()
    if not _NUMBER.fullmatch(text):
        return None
    value = Decimal(text)
    return int(value) if value == value.to_integral_value() else None


def subject_number(text: str) -> int | None:
    """The id of a subject whom a table, a comment or a path calls ``text``; None where that means unknown, as -1 does.

    A number is itself; anything else becomes 62 bits of its sha256 over 2**62, where no data set has numbers.
    """
    text = text.strip()
    if text.casefold() in NO_VALUE:
        return None
    number = whole_number(text)
    if number is not None and number < 2**62:
        return number if number >= 0 else None
    return 2**62 | int.from_bytes(hashlib.sha256(text.encode(errors="surrogateescape")).digest()[:8], "big") >> 2
