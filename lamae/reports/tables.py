"""A titled table, the same on a page and in Markdown."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Cells as text, with what to know before reading them."""

    title: str
    note: str
    heads: list[str]
    rows: list[list[str]]

    def to_markdown(self) -> str:
        """A section: title, note, table; bars within cells are escaped."""
        lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in (self.heads, *self.rows)]
        lines.insert(1, "|" + "---|" * len(self.heads))
        return "\n\n".join([f"## {self.title}", self.note, "\n".join(lines)])
