"""MkDocs hook: what the pages link to in the repository, outside docs/, becomes plain text and has to exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
OUTSIDE = re.compile(r"\[([^\]]*)\]\(\.\./([^)#]*)(?:#[^)]*)?\)")


def on_page_markdown(markdown: str, page, **_) -> str:  # type: ignore[no-untyped-def]
    def plain(link: "re.Match[str]") -> str:
        if not (ROOT / link[2]).exists():
            raise FileNotFoundError(f"{page.file.src_path}: links to ../{link[2]}, which does not exist")
        return f"{link[1]} (`{link[2]}`)" if link[1].strip("`") != link[2] else link[1]

    return OUTSIDE.sub(plain, markdown)
