"""What the keys of a configuration mean: the string literal below each field of its dataclass, read from the source."""

import ast
import dataclasses
import inspect
import textwrap
import typing
from itertools import pairwise
from typing import Any


def docstrings(cls: type) -> dict[str, str]:
    """What stands below each field; below a section with nothing of its own, what its dataclass says of itself."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body  # type: ignore[attr-defined]
    below = {
        ast.unparse(field.target): inspect.cleandoc(ast.literal_eval(text.value))
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }
    found = {}
    for name in (field.name for field in dataclasses.fields(cls)):
        section = section_of(cls, name)
        found[name] = below.get(name) or (inspect.getdoc(section) if section else None) or ""
    return found


def first_sentence(cls: type, key: str) -> str:
    """What a dotted key is, as a part of a line."""
    section, _, rest = key.partition(".")
    if rest:
        return first_sentence(section_of(cls, section), rest)
    return " ".join(docstrings(cls)[section].partition(". ")[0].replace("``", "'").split()).rstrip(".")


def section_of(cls: type, name: str) -> Any:
    """The dataclass in a field: its type, or that of the values of a mapping; None where there is none."""
    kind = typing.get_type_hints(cls)[name]
    for candidate in (kind, *typing.get_args(kind)):
        if dataclasses.is_dataclass(candidate):
            return candidate
    return None
