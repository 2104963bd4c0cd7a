"""A titled table, the same on a page and in Markdown; and text from elsewhere in either, as nothing but text."""

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lamae.base.text import one_line, visible


def to_html(text: str) -> str:
    """Text in HTML, in attributes too."""
    return html.escape(visible(str(text)), quote=True)


def to_markdown(text: str) -> str:
    """Text in Markdown, in cells of tables too: no HTML, link, picture, code or line break of its own."""
    plain = html.escape(one_line(str(text)), quote=False)
    return re.sub(r"[\\`*|]|\](?=[(\[:])", lambda found: "\\" + found[0], plain)


def markdown_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lines of a table in Markdown, of cells as plain text."""
    lines = ["| " + " | ".join(map(to_markdown, row)) + " |" for row in (heads, *rows)]
    lines.insert(1, "|" + "---|" * len(heads))
    return "\n".join(lines)


@dataclass(frozen=True)
class Table:
    """Cells as text, with what to know before reading them."""

    title: str
    note: str
    heads: list[str]
    rows: list[list[str]]

    @classmethod
    def of(cls, title: str, note: str, entries: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> "Table":
        """A row per entry; ``columns`` gives each heading the form of its cells, such as "{lr:g}" or "{gap:+.3f}"."""
        rows = [[form.format(**entry) for form in columns.values()] for entry in entries]
        return cls(title, note, list(columns), rows)

    def to_markdown(self) -> str:
        """A section: title, note, table."""
        table = markdown_table(self.heads, self.rows)
        return "\n\n".join([f"## {to_markdown(self.title)}", to_markdown(self.note), table])
