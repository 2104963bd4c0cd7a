"""Files that nobody ever sees half-written. Imports nothing heavy."""

import json
import os
from pathlib import Path
from typing import Any


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Replace ``path`` in one rename: a reader, on another node too, sees the old text or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(values, indent=1) + "\n")
    temporary.replace(path)
