"""Which jobs this user has submitted from this machine: a list of folders, so that ``lamae jobs`` finds them all."""

import os
from pathlib import Path


def _path() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "lamae" / "jobs"


def add(folder: Path) -> None:
    """Note a job's folder; a home directory that cannot be written to costs the list, not the job."""
    try:
        _path().parent.mkdir(parents=True, exist_ok=True)
        with _path().open("a") as file:
            file.write(f"{folder}\n")
    except OSError:
        pass


def folders() -> list[Path]:
    """Folders noted here that still exist, oldest first."""
    try:
        lines = _path().read_text().splitlines()
    except OSError:
        return []
    return [path for path in map(Path, dict.fromkeys(lines)) if path.is_dir()]
