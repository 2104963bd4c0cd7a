"""All that was judged of one run, as it is kept: by judge, read-out and share of the labels."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lamae.evaluate.embeddings.embed import Embeddings
from lamae.evaluate.probe.transfer import join_embeddings_of
from lamae.sharding.format import ShardSet
from lamae.study.corpus import Part
from lamae.study.judge import judge_embeddings
from lamae.study.plan import StudyPlan
from lamae.study.statistics import NUM_DRAWS, Judged, judge_scores

Key = tuple[str, str, float]
"""Judge, read-out, share of the labels."""


@dataclass(frozen=True)
class Judgement:
    """AUROC of one run under every judge."""

    by_key: dict[Key, Judged]

    @classmethod
    def of(
        cls,
        features: Mapping[str, Embeddings],
        plan: StudyPlan,
        part: Part,
        shard_set: ShardSet,
        elsewhere: Mapping[str, Mapping[str, Embeddings]],
    ) -> "Judgement":
        """Judge the read-outs ``features``, those of other sets by the name of the judge that tests there.

        A judge that tests elsewhere is left out where nothing is embedded there. Raises UsageError where a judge finds
        nothing to judge.
        """
        held_out_N = np.ones(shard_set.num_records, dtype=bool)
        held_out_N[shard_set.rows_of_split("train")] = False
        by_key = {}
        for name, judge in plan.judges.items():
            if judge.test_shards is not None and name not in elsewhere:
                continue
            truth = part.truth_of(judge)
            for readout, of in features.items():
                if judge.test_shards is not None:
                    of = join_embeddings_of(of, elsewhere[name][readout])
                for fraction in judge.label_fractions:
                    scores = judge_embeddings(of, truth, judge, held_out_N=held_out_N, fraction=fraction)
                    by_key[name, readout, fraction] = judge_scores(scores)
        return cls(by_key)

    def to_columns(self) -> dict[str, np.ndarray]:
        """Arrays for ``numpy.savez``."""
        columns: dict[str, np.ndarray] = {}
        about = {}
        for number, (key, judged) in enumerate(self.by_key.items()):
            columns[f"{number}/auroc"], columns[f"{number}/draws"] = judged.auroc_K, judged.draws_BK.astype(np.float32)
            about[number] = {"key": key, "population": judged.population, "codes": judged.codes}
        return columns | {"about": np.array(json.dumps(about))}

    @classmethod
    def from_columns(cls, columns: Mapping[str, np.ndarray]) -> "Judgement":
        by_key: dict[Key, Judged] = {}
        for number, entry in json.loads(str(columns["about"])).items():
            judge, readout, fraction = entry["key"]
            by_key[judge, readout, float(fraction)] = Judged(
                auroc_K=columns[f"{number}/auroc"],
                draws_BK=columns[f"{number}/draws"].astype(np.float64),
                population=entry["population"],
                codes=tuple(entry["codes"]),
            )
        return cls(by_key)

    @classmethod
    def read(cls, path: Path) -> "Judgement":
        with np.load(path) as columns:
            return cls.from_columns(columns)


def judging_hash(plan: StudyPlan) -> str:
    """Names how a plan judges: a run judged otherwise is judged again."""
    judges = {name: judge.to_plain() for name, judge in plan.judges.items()}
    return hashlib.sha256(json.dumps([judges, NUM_DRAWS], sort_keys=True).encode()).hexdigest()[:12]
