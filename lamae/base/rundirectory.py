"""A run directory as everything finds it: the names of its files, and what they say. Nothing else spells them.

RUN/
  config.yaml       the resolved configuration
  manifest.json     machine, versions, data
  metrics.jsonl     a row per logged step
  log.txt           what the console says
  checkpoints/      step-…, latest (lamae.train.checkpoint)
  tensorboard/      events
  quarantine.jsonl  records of skipped steps
  spikes.jsonl      losses far above the recent ones, with their records
  stragglers.jsonl  ranks that hold the others up
  profile.now       put there by a person: profile the next steps; profile/ holds what came of it
  hang-rank-N.txt   stacks of a rank that the watchdog ended
  jobs/NNN          submitted jobs (lamae.cluster)
"""

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lamae.base import files, rowfile

STEP_NAME = re.compile(r"step-(\d{8,})")


def step_name(step: int) -> str:
    """Name of a checkpoint, and of a profile: it matches ``STEP_NAME``."""
    return f"step-{step:08d}"


@dataclass(frozen=True)
class RunDirectory:
    """Paths below ``root``, and the newest of what is there."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def manifest(self) -> Path:
        return self.root / "manifest.json"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def log(self) -> Path:
        return self.root / "log.txt"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        return self.root / "tensorboard"

    @property
    def quarantine(self) -> Path:
        return self.root / "quarantine.jsonl"

    @property
    def spikes(self) -> Path:
        return self.root / "spikes.jsonl"

    @property
    def stragglers(self) -> Path:
        return self.root / "stragglers.jsonl"

    @property
    def profile_request(self) -> Path:
        return self.root / "profile.now"

    @property
    def profiles(self) -> Path:
        return self.root / "profile"

    @property
    def jobs(self) -> Path:
        return self.root / "jobs"

    def hang(self, rank: int) -> Path:
        return self.root / f"hang-rank-{rank:05d}.txt"

    def last_published(self) -> tuple[int, int]:
        """When the last checkpoint was published (its directory's time, ns) and its step; (0, -1) where there is none.

        Steps alone do not say which: past a damaged checkpoint a run goes on from an earlier one.
        """
        found = [(0, -1)]
        for path in self.checkpoints.glob("step-*"):
            if match := STEP_NAME.fullmatch(path.name):
                with suppress(FileNotFoundError):  # pruned meanwhile
                    found.append((path.stat().st_mtime_ns, int(match[1])))
        return max(found)

    def newest_step(self) -> int:
        """Step of the last published checkpoint, -1 where there is none."""
        return self.last_published()[1]

    def last_metrics(self, *, with_key: str = "step") -> dict[str, Any]:
        """The newest row of metrics that has ``with_key``; empty where there is none."""
        return rowfile.last_row(self.metrics, with_key=with_key)

    def read_metrics(self) -> list[dict[str, Any]]:
        """Every row of metrics, oldest first."""
        return rowfile.read_rows(self.metrics)

    def read_manifest(self) -> dict[str, Any]:
        """Raises FileNotFoundError, and LamaeError where it is no manifest."""
        return files.read_json(self.manifest)
