"""Self-contained HTML pages: everything inline, nothing fetched, readable on paper too."""

import base64
import io
import re
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from lamae.base import files
from lamae.base.errors import UsageError
from lamae.base.text import slug
from lamae.reports.tables import Table, to_html, to_markdown

# A cell may break before its interval, not within: ten columns fit a page so.
_INTERVAL, _KEPT_WHOLE = re.compile(r"\([^()]* to [^()]*\)"), r'<span class="whole">\g<0></span>'
VERDICTS = {"holds": "good", "does not hold": "bad", "not decided": "open"}


class Page:
    """A page built from top to bottom, and what of it is shown in Markdown too. All text is escaped."""

    def __init__(self, title: str, *, subtitle: str = "") -> None:
        self.title = title
        self._sections: list[str] = []
        self._markdown = [f"# {to_markdown(title)}", to_markdown(subtitle)]
        self._body = [f"<header><h1>{to_html(title)}</h1>{_paragraph(subtitle, 'subtitle')}</header>"]

    def section(self, title: str, *, lead: str = "") -> None:
        """Start a section; ``lead`` says in a sentence or two what is to be seen."""
        anchor = slug(title.lower())
        self._sections.append(f'<a href="#{anchor}">{to_html(title)}</a>')
        self._body.append(f'<h2 id="{anchor}">{to_html(title)}</h2>{_paragraph(lead, "lead")}')

    def paragraph(self, text: str) -> None:
        self._body.append(_paragraph(text, ""))

    def cards(self, entries: Sequence[tuple[str, str, str]]) -> None:
        """Key figures: (label, value, note)."""
        cells = "".join(
            f'<div class="card"><div class="label">{to_html(label)}</div><div class="value">{to_html(value)}</div>'
            f'<div class="note">{to_html(note)}</div></div>'
            for label, value, note in entries
        )
        self._body.append(f'<div class="cards">{cells}</div>')

    def verdicts(self, entries: Sequence[tuple[str, str, str]]) -> None:
        """Claims: (verdict from VERDICTS, claim, the numbers behind it)."""
        items = "".join(
            f'<li><span class="badge {VERDICTS[verdict]}">{to_html(verdict)}</span>'
            f"<div><strong>{to_html(claim)}</strong><br><span>{to_html(evidence)}</span></div></li>"
            for verdict, claim, evidence in entries
        )
        self._body.append(f'<ul class="verdicts">{items}</ul>')

    def table(
        self, heads: Sequence[str], rows: Sequence[Sequence[str]], *, caption: str = "", strong_rows: Sequence[int] = ()
    ) -> None:
        """A table whose first column is text and whose others are numbers, aligned right."""
        head = "".join(f"<th>{to_html(name)}</th>" for name in heads)
        lines = ""
        for r, row in enumerate(rows):
            cells = "".join(f"<td>{_INTERVAL.sub(_KEPT_WHOLE, to_html(cell))}</td>" for cell in row)
            lines += f'<tr class="strong">{cells}</tr>' if r in strong_rows else f"<tr>{cells}</tr>"
        self._body.append(
            f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'
            + _paragraph(caption, "caption")
        )

    def add(self, table: Table) -> None:
        """A section that is a table, in Markdown too."""
        self.section(table.title, lead=table.note)
        self.table(table.heads, table.rows)
        self._markdown.append(table.to_markdown())

    def figure(
        self, figure: Figure, *, caption: str = "", raster: bool = False, alt: str = "", file: Path | None = None
    ) -> None:
        """A plot, as SVG or (``raster``, for plots with very many points) as PNG; saved as ``file`` for Markdown."""
        if file is not None:
            figure.savefig(file, dpi=100, metadata={"Software": None})
            self._markdown.append(f"![{to_markdown(caption)}]({file.name})")
        source = figure_to_data_uri(figure, raster=raster)
        self._body.append(
            f'<figure><img src="{source}" alt="{to_html(alt or caption)}">'
            f"<figcaption>{to_html(caption)}</figcaption></figure>"
        )

    def html(self) -> str:
        menu = f"<nav>{''.join(self._sections)}</nav>"
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{to_html(self.title)}</title><style>{_CSS}</style></head><body><main>"
            f"{self._body[0]}{menu}{''.join(self._body[1:])}</main></body></html>\n"
        )

    def write(self, path: Path) -> None:
        """Raises UsageError when ``path`` cannot be written."""
        with files.writing(path, UsageError):
            files.write_text(path, self.html())

    def write_markdown(self, path: Path) -> None:
        """Raises UsageError when ``path`` cannot be written."""
        with files.writing(path, UsageError):
            files.write_text(path, "\n\n".join(filter(None, self._markdown)) + "\n")


def figure_to_data_uri(figure: Figure, *, raster: bool = False) -> str:
    """The figure as a data URI; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    kind = "png" if raster else "svg"
    metadata = {"Software": None} if raster else {"Date": None}
    with matplotlib.rc_context({"svg.hashsalt": "lamae"}):
        figure.savefig(buffer, format=kind, dpi=110, metadata=metadata)
    mime = "image/png" if raster else "image/svg+xml"
    return f"data:{mime};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _paragraph(text: str, css_class: str) -> str:
    return f'<p class="{css_class}">{to_html(text)}</p>' if text else ""


_CSS = """
:root { --ink: #1c2330; --muted: #667085; --rule: #e3e7ee; --accent: #c8102e; --paper: #ffffff; --wash: #f7f8fa; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--wash); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif; }
main { max-width: 1200px; margin: 0 auto; padding: 48px 56px 80px; background: var(--paper); }
header { border-bottom: 3px solid var(--accent); padding-bottom: 18px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 8px; letter-spacing: -0.01em; }
h2 { font-size: 21px; margin: 56px 0 6px; padding-top: 8px; letter-spacing: -0.005em; }
p { margin: 8px 0; max-width: 46em; }
.subtitle { font-size: 17px; color: var(--muted); max-width: 52em; }
.lead { color: #3a4354; margin-bottom: 16px; }
.caption, figcaption { color: var(--muted); font-size: 13.5px; line-height: 1.45; max-width: 62em; }
nav { display: flex; flex-wrap: wrap; gap: 4px 18px; padding: 12px 0; font-size: 14px; }
nav a { color: var(--muted); text-decoration: none; border-bottom: 1px solid var(--rule); }
nav a:hover { color: var(--accent); border-color: var(--accent); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(180px, 1fr)); gap: 14px; margin: 22px 0; }
.card { border: 1px solid var(--rule); border-radius: 8px; padding: 14px 16px; background: var(--wash); }
.card .label { font-size: 13px; color: var(--muted); }
.card .value { font-size: 25px; font-weight: 650; line-height: 1.25; margin: 2px 0; }
.card .note { font-size: 13px; color: var(--muted); line-height: 1.35; }
.verdicts { list-style: none; padding: 0; margin: 18px 0; border-top: 1px solid var(--rule); }
.verdicts li { display: grid; grid-template-columns: 132px 1fr; gap: 14px; padding: 12px 0;
  border-bottom: 1px solid var(--rule); align-items: start; }
.verdicts span { color: #3a4354; font-size: 15px; }
.verdicts .badge { display: inline-block; justify-self: start; padding: 2px 11px; border-radius: 999px; font-size: 13px;
  font-weight: 600; white-space: nowrap; }
.badge.good { background: #e3f4ea; color: #14713d; }
.badge.bad { background: #fde7e9; color: #a40e26; }
.badge.open { background: #eef0f4; color: #4d5666; }
/* What is wider than the page scrolls; a shadow at its edge says so. */
.scroll { overflow-x: auto; margin: 16px 0 4px; background:
  linear-gradient(to left, var(--paper) 60%, transparent) right / 48px 100% no-repeat local,
  linear-gradient(to left, #1c233033, transparent) right / 16px 100% no-repeat; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 0 6px 12px; text-align: right; border-bottom: 1px solid var(--rule); }
th { font-weight: 600; color: var(--muted); font-size: 13px; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; padding-left: 0; min-width: 9em; overflow-wrap: anywhere; }
td .whole { white-space: nowrap; color: var(--muted); }
tr.strong td { font-weight: 650; border-top: 1.5px solid var(--ink); }
figure { margin: 20px 0 10px; }
figure img { width: 100%; height: auto; display: block; }
figcaption { margin-top: 6px; }
code { font-family: ui-monospace, "SFMono-Regular", Menlo, Consolas, monospace; font-size: 0.92em; }
@media (max-width: 700px) { main { padding: 24px 18px; } .verdicts li { grid-template-columns: 1fr; gap: 4px; } }
@media print { body { background: none; } main { max-width: none; padding: 0; } nav { display: none; }
  .scroll { overflow: visible; } table { font-size: 11px; }
  figure, .cards, .verdicts li, tr { break-inside: avoid; } }
"""
