"""Logistic regressions on frozen embeddings: all codes at once, beside scikit-learn's, which takes one code at a time.

Both minimise the same objective on the same standardised features, with one penalty; a probe fits five. scikit-learn
gets at most ``_MOST_CODES_OF_PEER`` of the codes, since it has no use of seeing the others; rates are codes per second.
The features are drawn, and a code's labels from a random direction of them, one record in ten being positive.
"""

from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from lamae.base.progress import Progress, ignore
from lamae.benchmarks.timing import Ratio, ratio_entries, time_side_by_side
from lamae.evaluate.probe.features import Standardizer
from lamae.evaluate.probe.logistic import LogisticSolver

PENALTY = 0.01  # the middle of those that a probe tries
_MOST_CODES_OF_PEER = 20


def run(*, quick: bool = False, progress: Progress = ignore) -> dict[str, Any]:
    """Measure at 20, 200 and 1,000 codes; see benchmarks.timing for the form of the result."""
    num_records, width = (500, 32) if quick else (20_000, 128)
    num_codes = (5, 20) if quick else (20, 200, 1000)
    x_ND, y_NC = _draw(num_records, width, max(num_codes))
    peer = find_spec("sklearn") is not None
    measurements: dict[str, Any] = {}
    ratios: dict[str, Ratio] = {}
    for C in num_codes:
        candidates = {f"ours {C}": partial(_ours, x_ND, y_NC[:, :C])}
        if peer:
            candidates[f"scikit-learn {C}"] = partial(_peer, x_ND, y_NC[:, : min(C, _MOST_CODES_OF_PEER)])
        timings = time_side_by_side(candidates, repeats=3 if quick else 5, progress=progress)
        measurements |= {name: timing.to_dict() for name, timing in timings.items()}
        if peer:
            ratios[f"vs_scikit_learn_{C}_codes"] = Ratio.of(timings[f"ours {C}"], timings[f"scikit-learn {C}"])
    missing = [] if peer else ["scikit-learn is not installed: pip install scikit-learn"]
    return {
        "settings": {
            "records": num_records,
            "width": width,
            "codes": list(num_codes),
            "penalty": PENALTY,
            "threads": torch.get_num_threads(),
        },
        "measurements": measurements,
        "notes": missing,
        **ratio_entries(ratios),
    }


def _draw(num_records: int, width: int, num_codes: int) -> tuple[np.ndarray, np.ndarray]:
    """Standardised features [N, D], correlated as embeddings are, and labels [N, C]."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(width, width)) * np.geomspace(1, 0.01, width)[:, None]
    x_ND = (rng.normal(size=(num_records, width)) @ mixing).astype(np.float32)
    x_ND = Standardizer.fit(x_ND).apply(x_ND)
    odds_NC = x_ND @ rng.normal(size=(width, num_codes)) + rng.normal(size=(num_records, num_codes)) * width**0.5
    return x_ND, odds_NC > np.quantile(odds_NC, 0.9, axis=0)


def _ours(x_ND: np.ndarray, y_NC: np.ndarray) -> float:
    LogisticSolver(x_ND, y_NC).fit(PENALTY)
    return y_NC.shape[1]


def _peer(x_ND: np.ndarray, y_NC: np.ndarray) -> float:
    from sklearn.linear_model import LogisticRegression

    for y_N in y_NC.T:
        LogisticRegression(C=PENALTY, max_iter=200).fit(x_ND, y_N)
    return y_NC.shape[1]
