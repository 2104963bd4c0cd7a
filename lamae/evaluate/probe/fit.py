"""The probe: how much of the labels a logistic regression, or nearest neighbours, read off frozen embeddings.

    train split ──standardise, fit every setting──▶ val split ──best macro AUROC──▶ test split ──▶ AUROC, intervals

Test records are touched once. Subjects that were in pretraining are refused as test subjects unless ``transductive``.
"""

from pathlib import Path

import numpy as np

from lamae.base.errors import UsageError
from lamae.evaluate import store
from lamae.evaluate.embeddings.embed import Embeddings, read_embeddings
from lamae.evaluate.labels.store import Labels, read_labels
from lamae.evaluate.probe.logistic import Standardizer
from lamae.evaluate.probe.protocol import split_rows, usable_codes
from lamae.evaluate.probe.readouts import METHODS, fit_knn, fit_logistic
from lamae.evaluate.probe.result import SEED, ProbeResult, difference, evaluate_scores
from lamae.evaluate.statistics import NUM_DRAWS

__all__ = ["ProbeResult", "difference", "probe", "probe_arrays"]


def probe(
    embeddings: Path,
    labels: Path,
    *,
    readout: str = "record",
    method: str = "logistic",
    transductive: bool = False,
    num_draws: int = NUM_DRAWS,
    seed: int = SEED,
    device: str = "cpu",
) -> ProbeResult:
    """Probe an embeddings store with a labels store of the same shard set.

    Raises UsageError when they do not belong together, when a split holds no labelled record, or when test subjects
    were in pretraining and ``transductive`` is false.
    """
    features, truth = read_embeddings(embeddings, readout=readout), read_labels(labels)
    store.require_same_rows(embeddings, features.index_hash, labels, truth.index_hash)
    return probe_arrays(
        features, truth, method=method, transductive=transductive, num_draws=num_draws, seed=seed, device=device
    )


def probe_arrays(
    features: Embeddings,
    truth: Labels,
    *,
    method: str = "logistic",
    transductive: bool = False,
    num_draws: int = NUM_DRAWS,
    seed: int = SEED,
    device: str = "cpu",
    train_rows: np.ndarray | None = None,
) -> ProbeResult:
    """``probe`` on stores that are already in memory.

    ``train_rows`` fits on these of the training records only; codes, val and test stay the same.
    """
    if method not in METHODS:
        raise UsageError(f"probe method {method!r} is none of {', '.join(METHODS)}")
    rows, contamination = split_rows(
        truth, features.subject_N, features.pretrained_N, name=features.name, transductive=transductive
    )
    for split, chosen in rows.items():
        absent = int((~features.embedded_N[chosen]).sum())
        if absent:
            raise UsageError(
                f"{features.name}: {absent} of {len(chosen)} labelled {split} records were not embedded; "
                "embed split all, and leads that each of them has"
            )
    kept, left_out = usable_codes(truth, rows, name=features.name)
    if train_rows is not None:
        rows["train"] = np.intersect1d(rows["train"], train_rows)
    y = {split: truth.label_NK[rows[split]][:, kept] for split in rows}
    scale = Standardizer.fit(features.x_ND[rows["train"]])
    x = {split: scale.apply(features.x_ND[rows[split]]) for split in rows}
    return evaluate_scores(
        (fit_logistic if method == "logistic" else fit_knn)(x, y, device=device),
        truth,
        rows,
        kept,
        left_out,
        features.subject_N,
        name=features.name,
        method=method,
        contamination=contamination,
        num_draws=num_draws,
        seed=seed,
    )
