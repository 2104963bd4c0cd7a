"""The probe: how much of the labels a logistic regression, or nearest neighbours, read off frozen embeddings.

    train split ──standardise, fit every setting──▶ val split ──best macro AUROC──▶ test split ──▶ AUROC, intervals

Test records are touched once. Subjects that were in pretraining are refused as test subjects unless ``transductive``.
"""

import numpy as np

from lamae.base.errors import UsageError
from lamae.evaluate.embeddings.embed import Embeddings
from lamae.evaluate.labels.store import Labels
from lamae.evaluate.probe.methods import METHODS, fit_rows
from lamae.evaluate.probe.protocol import split_rows, usable_codes
from lamae.evaluate.probe.result import ProbeResult, difference, evaluate_scores

__all__ = ["ProbeResult", "difference", "probe_arrays"]


def probe_arrays(
    features: Embeddings,
    truth: Labels,
    *,
    method: str = "logistic",
    transductive: bool = False,
    device: str = "cpu",
    train_rows: np.ndarray | None = None,
) -> ProbeResult:
    """Probe embeddings with the labels of the same records.

    ``train_rows`` fits on these of the training records only; codes, val and test stay the same. Raises UsageError when
    a split holds no labelled record, or when test subjects were in pretraining and ``transductive`` is false.
    """
    if method not in METHODS:
        raise UsageError(f"probe method {method!r} is none of {', '.join(METHODS)}")
    rows, contamination = split_rows(
        truth,
        features.subject_N,
        features.pretrained_N,
        features.embedded_N,
        name=features.name,
        transductive=transductive,
    )
    kept, left_out = usable_codes(truth, rows, name=features.name)
    if train_rows is not None:
        rows["train"] = np.intersect1d(rows["train"], train_rows)
    label_NC = truth.label_NC if len(kept) == len(truth.codes) else truth.label_NC[:, kept]  # spares a copy
    return evaluate_scores(
        fit_rows(features.x_ND, label_NC, rows, method=method, device=device),
        truth,
        rows,
        kept,
        left_out,
        features.subject_N,
        name=features.name,
        method=method,
        contamination=contamination,
    )
