"""What the keys of a configuration mean and hold: the string literal below each field of its dataclass, read from the
source, and the field's type."""

import ast
import dataclasses
import inspect
import re
import textwrap
import typing
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

_NUMBER = re.compile(r"[-+]?(?:(?:0|[1-9][\d_]*)(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?|[-+]?\.(?:inf|nan)", re.IGNORECASE)
_SCALARS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}


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
    if typing.get_origin(typing.get_type_hints(cls)[section]) is dict:  # what follows is a name of the user's own
        _, _, rest = rest.partition(".")
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


def misfits(kind: Any, value: Any, key: str = "", *, exactly: bool = False) -> Iterator[str]:
    """``KEY: expected WHAT, not VALUE`` wherever plain values are of another shape than a type: a list for a mapping,
    one value for a list, nothing for a number.

    ``exactly``, nothing without a default may be missing and a number be no text, either. Unknown keys may be there.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        hints = typing.get_type_hints(kind)
        for field in dataclasses.fields(kind):
            inner = f"{key}.{field.name}".strip(".")
            if field.name in value:
                yield from misfits(hints[field.name], value[field.name], inner, exactly=exactly)
            elif exactly and field.default is field.default_factory is dataclasses.MISSING:
                yield f"{inner}: missing"
    elif origin is dict and isinstance(value, Mapping):
        for name, entry in value.items():
            yield from misfits(arguments[1], entry, f"{key}.{name}", exactly=exactly)
    elif origin is list and isinstance(value, list):
        for place, entry in enumerate(value):
            yield from misfits(arguments[0], entry, f"{key}[{place}]", exactly=exactly)
    elif not _may_be(kind, value, exactly):
        yield f"{key}: expected {_in_words(kind)}, not {value!r:.80}"


def as_written(kind: Any, value: Any, text: Any) -> Any:
    """``value``, as YAML understands it, with the words of ``text`` where the type takes text, and where YAML alone
    takes them for a number: 0012 for 10, 1:30 for 90. ``text`` is the same, every scalar a string.
    """
    kinds = (kind, *typing.get_args(kind))
    if isinstance(value, dict) and isinstance(text, dict):
        hints = next((typing.get_type_hints(one) for one in kinds if dataclasses.is_dataclass(one)), {})
        named = next((typing.get_args(one)[1] for one in kinds if typing.get_origin(one) is dict), Any)
        return {name: as_written(hints.get(name, named), one, text.get(name)) for name, one in value.items()}
    if isinstance(value, list) and isinstance(text, list):
        of = next((typing.get_args(one)[0] for one in kinds if typing.get_origin(one) is list), Any)
        return [as_written(of, one, words) for one, words in zip(value, text, strict=True)]
    if not isinstance(value, bool | int | float) or not isinstance(text, str):
        return value
    is_misread = not isinstance(value, bool) and not _NUMBER.fullmatch(text)
    return text if str in kinds or is_misread else value


def _may_be(kind: Any, value: Any, exactly: bool) -> bool:
    if kind is Any or (value == "???" and not exactly):
        return True
    if typing.get_args(kind) and typing.get_origin(kind) not in (dict, list):
        return any(_may_be(choice, value, exactly) for choice in typing.get_args(kind))
    if kind not in _SCALARS or (isinstance(value, int) and abs(value) >> 63):
        return False
    if exactly:
        return isinstance(value, (int, float) if kind is float else kind) and (kind is bool) == isinstance(value, bool)
    return value is None if kind is type(None) else value is not None and not isinstance(value, list | Mapping)


def _in_words(kind: Any) -> str:
    """A type, as one would write it in YAML."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is dict:
        return f"a mapping of names to {_in_words(arguments[1])}"
    if origin is list:
        return f"a list, each {_in_words(arguments[0])}"
    if arguments:
        return " or ".join(map(_in_words, arguments))
    return _SCALARS.get(kind, "a mapping of keys" if dataclasses.is_dataclass(kind) else "any value")
