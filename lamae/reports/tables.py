"""A titled table, the same on a page and in Markdown; and text from elsewhere in either, as nothing but text."""

import html
import re
from dataclasses import dataclass

from lamae.base.text import one_line, visible


def to_html(text: str) -> str:
    """Text in HTML, in attributes too."""
    return html.escape(visible(str(text)), quote=True)


def to_markdown(text: str) -> str:
    """Text in Markdown, in cells of tables too: no HTML, link, picture, code or line break of its own."""
    plain = html.escape(one_line(str(text)), quote=False)
    return re.sub(r"[\\`*|]|\](?=[(\[:])", lambda found: "\\" + found[0], plain)


@dataclass(frozen=True)
class Table:
    """Cells as text, with what to know before reading them."""

    title: str
    note: str
    heads: list[str]
    rows: list[list[str]]

    def to_markdown(self) -> str:
        """A section: title, note, table."""
        lines = ["| " + " | ".join(map(to_markdown, row)) + " |" for row in (self.heads, *self.rows)]
        lines.insert(1, "|" + "---|" * len(self.heads))
        return "\n\n".join([f"## {to_markdown(self.title)}", to_markdown(self.note), "\n".join(lines)])
