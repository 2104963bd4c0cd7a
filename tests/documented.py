"""The commands that README and docs show, as lists of words: what fenced blocks and `inline code` hold of them."""

import re
import shlex
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:lamae|make) [^`]+)`")


@dataclass(frozen=True)
class Command:
    """One command of a page; ``words`` begin with the verb. ``inline`` ones may be abbreviated."""

    page: str
    words: tuple[str, ...]
    inline: bool

    def __str__(self) -> str:
        return f"{self.page}: {' '.join(self.words)}"


def lamae_commands() -> list[Command]:
    """Every call of lamae on every page, in order."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for line in _fenced_lines(text):
            words = _ours(shlex.split(line, comments=True))
            if words:
                found.append(Command(page.name, tuple(words), inline=False))
        for code in INLINE.findall(FENCE.sub("", text)):
            if code.startswith("lamae "):
                found.append(Command(page.name, tuple(code.split()[1:]), inline=True))
    return found


def make_targets() -> set[str]:
    """Targets of every ``make`` on every page."""
    targets = set()
    for page in PAGES:
        text = page.read_text()
        lines = [*_fenced_lines(text), *INLINE.findall(FENCE.sub("", text))]
        targets |= {line.split()[1] for line in lines if line.startswith("make ")}
    return targets


def _fenced_lines(text: str) -> list[str]:
    """Lines of blocks that are commands, those that a backslash continues joined."""
    blocks = [block for language, block in FENCE.findall(text) if language in ("", "sh", "bash")]
    return [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines() if _splits(line)]


def _splits(line: str) -> bool:
    """Whether a shell would take the line apart: drawings and prose stand in blocks too."""
    try:
        return bool(shlex.split(line, comments=True))
    except ValueError:
        return False


def _ours(words: list[str]) -> list[str]:
    """The words from the verb on, where the line calls lamae: bare, or by a launcher's ``-m`` or ``--module``."""
    if words[:1] == ["lamae"]:
        return words[1:]
    for flag, module in pairwise(words):
        if flag in ("-m", "--module") and module == "lamae":
            return words[words.index(module) + 1 :]
    return []
