"""All that was scored of one run, as it is kept: by task, read-out and share of the labels."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lamae.base import files
from lamae.evaluate.embeddings.embed import Embeddings
from lamae.evaluate.labels.store import labels_hash
from lamae.evaluate.probe.transfer import join_embeddings_of
from lamae.evaluate.statistics import MIN_SUBJECTS, NUM_DRAWS, Scored
from lamae.sharding.format import ShardSet
from lamae.study.corpus import Part, views
from lamae.study.plan import StudyPlan
from lamae.study.scoring import score_embeddings, summarise

SHARD_SET = "shard set"
RULES = 2
"""Of which codes have a score and an interval; another number where those of before must be made again."""

Key = tuple[str, str, float]
"""Task, read-out, share of the labels."""


@dataclass(frozen=True)
class RunScores:
    """AUROC of one run under every task."""

    by_key: dict[Key, Scored]

    @classmethod
    def of(cls, features: Mapping[str, Mapping[str, Embeddings]], plan: StudyPlan, part: Part) -> "RunScores":
        """Score ``features``: by view, then by read-out. Tasks of which a view is not there are left out.

        Raises UsageError where a task finds nothing to score.
        """
        by_key = {}
        for name, task in plan.tasks.items():
            here, there = views(plan, name, part)
            if any(view.name not in features for view in (here, there) if view is not None):
                continue
            truth = part.truth_of(name, task)
            for readout, of in features[here.name].items():
                if there is not None:
                    of = join_embeddings_of(of, features[there.name][readout])
                for fraction in task.label_fractions:
                    by_key[name, readout, fraction] = summarise(score_embeddings(of, truth, task, fraction=fraction))
        return cls(by_key)

    def to_columns(self) -> dict[str, np.ndarray]:
        """Arrays for ``numpy.savez``."""
        columns: dict[str, np.ndarray] = {}
        about = {}
        for number, (key, scored) in enumerate(self.by_key.items()):
            columns[f"{number}/auroc"], columns[f"{number}/draws"] = scored.auroc_C, scored.draws_ZC.astype(np.float32)
            about[number] = {"key": key, "population": scored.population, "codes": scored.codes}
        return columns | {"about": np.array(json.dumps(about))}

    @classmethod
    def from_columns(cls, columns: Mapping[str, np.ndarray]) -> "RunScores":
        by_key: dict[Key, Scored] = {}
        for number, entry in json.loads(str(columns["about"])).items():
            task, readout, fraction = entry["key"]
            by_key[task, readout, float(fraction)] = Scored(
                auroc_C=columns[f"{number}/auroc"],
                draws_ZC=columns[f"{number}/draws"].astype(np.float64),
                population=entry["population"],
                codes=tuple(entry["codes"]),
            )
        return cls(by_key)

    @classmethod
    def read(cls, path: Path) -> "RunScores":
        with np.load(path) as columns:
            return cls.from_columns(columns)


def scored_by(plan: StudyPlan, part: Part) -> dict[str, str]:
    """What the scores of a part's runs depend on beside their weights, each with a hash of its contents.

    A run scored by anything else is scored again.
    """
    tasks = {name: dataclasses.asdict(task) for name, task in plan.tasks.items()}
    return {
        "the tasks' settings": files.json_sha256([tasks, NUM_DRAWS]),
        "the rules of scoring": files.json_sha256([RULES, MIN_SUBJECTS]),
        **{f"{SHARD_SET} {name}": ShardSet.open(path).index_hash for name, path in part.sets.items()},
        **{f"labels of {name}": labels_hash(part.truth_of(name, task)) for name, task in plan.tasks.items()},
    }
