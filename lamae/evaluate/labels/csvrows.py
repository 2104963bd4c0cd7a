"""Rows and cells of label files, with errors that say the line."""

import ast
import json
import re
from itertools import accumulate

from lamae.base.errors import UsageError
from lamae.base.tables import NO_VALUE, whole_number

BINARY = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1, "f": 0, "t": 1, "no": 0, "yes": 1}
_NUMPY_SCALAR = re.compile(r"\bnp\.\w+\(([^()]*)\)")  # numpy 2 prints a list of its strings as [np.str_('I10')]
_CONTAINER = re.compile(r"(?:array|frozenset|set)\((.*?)(?:,\s*dtype=[^()]*)?\)", re.DOTALL)
_CLOSING = {"[": "]", "(": ")", "{": "}"}
_ITEM = re.compile(r"""'([^']*)'|"([^"]*)"|([^\s,;:|'"\[\](){}]++)(?!['"])""")


def integer_key(text: str, column: str, where: str) -> str:
    """A key that is an integer, in its one spelling: "00017", "17.0" and "17" are the same record."""
    return str(integer(text, column, where))


def integer(text: str, column: str, where: str) -> int:
    value = whole_number(text)
    if value is None:
        raise UsageError(f"{where}: {column} is {text!r}, not an integer")
    return value


def yes(text: str, column: str, where: str) -> bool:
    value = BINARY.get(text.casefold())
    if value is None:
        raise UsageError(f"{where}: {column} is {text!r}, neither true nor false")
    return value == 1


def items(text: str, column: str, where: str) -> list[str]:
    """The words of a list: as Python, numpy or JSON print it, or separated by commas, semicolons, bars or blanks.

    Python itself would join strings that no comma separates, as numpy prints them, into one. Raises UsageError where
    brackets or quotes are left open, or something is left out with ``...``: the cell was cut.
    """
    if text[:2] == "['" and text[-2:] == "']" and text.count("'") == 2 * text.count("', '") + 2:
        return text[2:-2].split("', '")  # the usual case, ten times as fast
    rest = _NUMPY_SCALAR.sub(r"\1", text.strip())
    if container := _CONTAINER.fullmatch(rest):
        rest = container[1].strip()
    while rest and rest[-1] == _CLOSING.get(rest[0]):
        rest = rest[1:-1].strip()
    found = [single or double or bare for single, double, bare in _ITEM.findall(rest)]
    if _ITEM.sub("", rest).strip(" \t\r\n,;|") or "..." in text or "…" in text:
        raise UsageError(f"{where}: {column} is {shortened(text)}, not a list of words, or one that was cut")
    return found


def text_items(text: str, column: str, where: str, separators: str) -> list[str]:
    """The names in a cell of free text: a list in brackets, or names between any of the ``separators``.

    Raises UsageError as ``items``.
    """
    if text[:1] in _CLOSING or _CONTAINER.match(text):
        if re.match(r"\{\s*(['\"]).*?\1\s*:", text):
            raise UsageError(
                f"{where}: {column} is {shortened(text)}, statements with likelihoods, which --source ptbxl reads from "
                f"ptbxl_database.csv; here write the statements alone: NORM;SR"
            )
        if "'" in text or '"' in text:
            return items(text, column, where)
        if _is_one_pair(text):
            text, separators = text[1:-1], separators + ","
    if "..." in text or "…" in text:
        raise UsageError(f"{where}: {column} is {shortened(text)}, which was cut")
    parts = re.split(f"[{re.escape(separators)}]", text) if separators else [text]
    return [" ".join(part.split()).rstrip(". ") for part in parts]


def _is_one_pair(text: str) -> bool:
    """Whether the bracket that ``text`` begins with closes at its end: [AF, old (?)], and not (AF), (LBBB)."""
    closing = _CLOSING.get(text[0])
    depths = list(accumulate((character == text[0]) - (character == closing) for character in text))
    return text[-1] == closing and 0 not in depths[:-1]


def likelihoods(text: str, column: str, where: str) -> dict[str, float]:
    """Statements with their likelihood in percent, as Python or JSON print a mapping. Raises UsageError."""
    if text.casefold() in NO_VALUE:
        return {}
    found = None
    for parse in (ast.literal_eval, json.loads):
        try:
            found = parse(_NUMPY_SCALAR.sub(r"\1", text))
            break
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    if not isinstance(found, dict):
        raise UsageError(f"{where}: {column} is {shortened(text)}, not statements with likelihoods, {{'NORM': 100.0}}")
    percent = {}
    for statement, value in found.items():
        try:
            percent[str(statement)] = -1.0 if isinstance(value, bool) else float(value)
        except (TypeError, ValueError):
            percent[str(statement)] = -1.0
        if not 0 <= percent[str(statement)] <= 100:
            raise UsageError(
                f"{where}: {column} is {shortened(text)}; the likelihood of {statement} is {value!r}, not a number "
                f"from 0 to 100"
            )
    return percent


def shortened(text: str, length: int = 60) -> str:
    """A cell as errors show it."""
    return repr(text if len(text) <= length else text[:length] + " [...]")
