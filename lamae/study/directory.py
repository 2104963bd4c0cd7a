"""Where everything of a study lies.

plan.yaml                   the plan, resolved; a study is never continued under another
corpus/                     see lamae.study.corpus
runs/STAGE/NAME/            a run directory of ``lamae train``, and beside it
    run.json                what the run is
    embeddings-VIEW.zarr    of a shard set that some task is about, with all leads or some
    reconstruction.npz      errors of scored records (final runs)
    scores.npz              AUROC, and AUROC in every bootstrap draw (final runs)
    done.json               written last: seconds by stage, and what the scores depend on
references/                 age and sex, alone and beside the first method's embeddings
results.json, report.html, report.md, *.png
"""

import dataclasses
from pathlib import Path
from typing import Any

from lamae.base import files, settings
from lamae.base.errors import UsageError
from lamae.base.outputs import make_or_resume
from lamae.base.text import slug
from lamae.study.plan import StudyPlan, load_plan
from lamae.study.runs import Run

PLAN_NAME = "plan.yaml"
RUN_NAME = "run.json"
DONE_NAME = "done.json"


@dataclasses.dataclass(frozen=True)
class StudyDirectory:
    """Paths below ``root``."""

    root: Path

    @property
    def plan(self) -> Path:
        return self.root / PLAN_NAME

    @property
    def corpus(self) -> Path:
        return self.root / "corpus"

    def run(self, name: str) -> Path:
        return self.root / "runs" / name

    def embeddings(self, name: str, view: str) -> Path:
        """What a run made of a view of some shard set."""
        return self.run(name) / f"embeddings-{slug(view)}.zarr"

    def reference(self, name: str) -> Path:
        """What is beside the methods: age and sex."""
        return self.root / "references" / name

    def reconstruction(self, name: str) -> Path:
        return self.run(name) / "reconstruction.npz"

    def scored(self, name: str) -> Path:
        return self.run(name) / "scores.npz"

    def done(self, name: str) -> Path:
        return self.run(name) / DONE_NAME

    def scored_by(self, name: str) -> dict[str, str]:
        """What the scores of a finished run depend on; empty where an older lamae did not note it."""
        found = files.read_json(self.done(name)).get("scored")
        return found if isinstance(found, dict) else {}

    def write_run(self, run: Run) -> None:
        files.write_json(self.run(run.name) / RUN_NAME, dataclasses.asdict(run))

    def read_run(self, name: str) -> Run:
        values = files.read_json(self.run(name) / RUN_NAME)
        return Run(**{**values, "overrides": tuple(values["overrides"])})

    def make_or_resume(self, plan: StudyPlan) -> None:
        """Take the directory for ``plan``, or go on with it. Raises UsageError where it holds something else.

        Seeds may be added or left out, methods and tasks added at the end: no run depends on which others there are.
        The order of some sections may not change: the others are compared with the first method.
        """
        found = None
        if self.plan.exists():
            try:
                there = load_plan(self.plan)
            except UsageError as error:
                raise UsageError(
                    f"{self.root}: made by another version of lamae; use another --out ({error})"
                ) from None
            added = {name: getattr(plan, name) for name in ("methods", "tasks") if _begins(plan, there, name)}
            found = _settings(dataclasses.replace(there, seeds=plan.seeds, **added))
        make_or_resume(self.root, what="study", found=found, wanted=_settings(plan))
        with files.writing(self.plan, UsageError):
            files.write_text(self.plan, settings.to_yaml(plan))


def _begins(plan: StudyPlan, there: StudyPlan, section: str) -> bool:
    """Whether a section of ``plan`` starts with all that it has ``there``, unchanged."""
    before, now = (list(getattr(of, section).items()) for of in (there, plan))
    return now[: len(before)] == before


def _settings(plan: StudyPlan) -> dict[str, Any]:
    """What a study keeps to: its plan, and the order of the sections whose order has a meaning."""
    ordered = {name: getattr(plan, name) for name in ("methods", "masks", "tasks", "reconstruct")}
    ordered["corpus.sources"] = plan.corpus.sources
    order = {f"order of {section}": ", ".join(names) for section, names in ordered.items()}
    return dataclasses.asdict(plan) | order
