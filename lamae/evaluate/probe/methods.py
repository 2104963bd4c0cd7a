"""The methods of a probe, from frozen features to scores: logistic regression and nearest neighbours.

Each takes standardised features and labels of the three splits, chooses its one setting by the macro AUROC on val, and
scores val and test.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import csc_array, csr_array

from lamae.evaluate.probe.auroc import auroc
from lamae.evaluate.probe.features import Features, Labels01, Standardizer, UnitLength
from lamae.evaluate.probe.logistic import LogisticModel, LogisticSolver
from lamae.evaluate.probe.scores import Scores, code_blocks
from lamae.evaluate.statistics import macro
from lamae.evaluate.store import dense

C_GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
K_GRID = (5.0, 10.0, 20.0, 50.0, 100.0, 200.0)
KNN_TEMPERATURE = 0.07
# Similarities held at once, 64 MB: of so many records to so many of train.
QUERY_ROWS, TRAIN_ROWS = 1024, 16384

Rows = Mapping[str, np.ndarray]
Splits = Mapping[str, np.ndarray | Features]
LabelsOfSplits = Mapping[str, Labels01]


@dataclass(frozen=True)
class Fit:
    """Scores of the val and test records under the chosen setting."""

    setting: float
    """C of the logistic regression, number of neighbours of the kNN."""
    val_macro: dict[float, float]
    """Macro AUROC on val of every setting tried."""
    val: Scores
    test: Scores
    probability: Callable[[np.ndarray], np.ndarray]
    """Turns scores into probabilities."""

    def code_blocks(self) -> Iterator[slice]:
        """Codes of which the scores on val and on test take little memory."""
        return code_blocks(max(self.val.shape[0], self.test.shape[0]), self.test.shape[1])


def fit_logistic(x: Splits, y: LabelsOfSplits, *, device: str = "cpu") -> Fit:
    """One ridge-penalised logistic regression per code, one C for all."""
    path = logistic_path(x["train"], y["train"], device=device)
    scored = {split: Features.of(x[split]).to_read_often() for split in ("val", "test")}
    num_codes = y["val"].shape[1]
    return _choose(
        lambda C, split: Scores((len(scored[split]), num_codes), functools.partial(path[C], scored[split])),
        list(path),
        y["val"],
        probability=lambda odds: 0.5 + 0.5 * np.tanh(0.5 * odds),
    )


def logistic_path(
    x_ND: np.ndarray | Features, y_NC: Labels01, *, device: str = "cpu"
) -> dict[float, Callable[..., np.ndarray]]:
    """What gives the log-odds of features, of all codes or a slice of them, under every C, ascending.

    A code with one class cannot be fitted; its records all get 0, an AUROC of one half.
    """
    positives = y_NC.sum(0)
    fitted = (positives > 0) & (positives < len(x_ND))
    solver = None
    if fitted.any():
        solver = LogisticSolver(x_ND, y_NC if fitted.all() else y_NC[:, fitted], device=device)
    D = Features.of(x_ND).num_features

    def model(C: float) -> LogisticModel:
        weight_DC, bias_C = np.zeros((D, len(fitted)), dtype=np.float32), np.zeros(len(fitted), dtype=np.float32)
        if solver is not None:
            found = solver.fit(C)
            weight_DC[:, fitted], bias_C[fitted] = found.weight_DC, found.bias_C
        return LogisticModel(weight_DC, bias_C)

    # From strong to weak penalty: each fit starts from the one before.
    return {C: model(C).decide for C in sorted(C_GRID)}


def fit_knn(x: Splits, y: LabelsOfSplits, *, device: str = "cpu", k_grid: tuple[float, ...] = K_GRID) -> Fit:
    """Votes of the nearest training records by cosine similarity, weighted by exp(similarity / 0.07)."""
    num_train = len(x["train"])
    largest = int(min(max(k_grid), num_train))
    train, label_MC = _unit_rows(x["train"]), csc_array(y["train"])

    @functools.cache
    def nearest(split: str) -> tuple[torch.Tensor, torch.Tensor]:
        return _nearest(_unit_rows(x[split]), train, largest, device=device)

    def score(k: float, split: str) -> Scores:
        similarity, index = (found[:, : int(k)] for found in nearest(split))
        weight = torch.softmax(similarity / KNN_TEMPERATURE, dim=1).numpy()
        ends = np.arange(0, weight.size + 1, weight.shape[1])
        weight_NM = csr_array((weight.ravel(), index.numpy().ravel(), ends), shape=(len(weight), num_train))
        return Scores((len(weight), label_MC.shape[1]), lambda columns: (weight_NM @ label_MC[:, columns]).toarray())

    settings = [k for k in sorted(k_grid, reverse=True) if k <= num_train] or [float(num_train)]
    return _choose(score, settings, y["val"], probability=lambda votes: votes)


METHODS: dict[str, Callable[..., Fit]] = {"logistic": fit_logistic, "knn": fit_knn}


def fit_rows(x_ND: Any, y_NC: Labels01, rows: Rows, *, method: str = "logistic", device: str = "cpu") -> Fit:
    """Fit ascending rows of features, in memory or on disk, standardised by those of train."""
    scale = Standardizer.fit(Features(x_ND, rows["train"]))
    x = {split: Features(x_ND, of, scale) for split, of in rows.items()}
    return METHODS[method](x, {split: y_NC[of] for split, of in rows.items()}, device=device)


def _choose(
    score: Callable[[float, str], Scores],
    settings: list[float],
    y_val: Labels01,
    *,
    probability: Callable[[np.ndarray], np.ndarray],
) -> Fit:
    """The setting with the best macro AUROC on val; of equals the first, which smooths most."""
    val_macro: dict[float, float] = {}
    for setting in settings:
        of_blocks = [auroc(s_NC, dense(y_val[:, columns])) for columns, s_NC in score(setting, "val").blocks()]
        val_macro[setting] = float(macro(np.concatenate(of_blocks)))
    best = max(settings, key=val_macro.__getitem__)
    return Fit(best, val_macro, score(best, "val"), score(best, "test"), probability)


def _unit_rows(x_ND: np.ndarray | Features) -> Any:
    """float32 [N, D] with rows of length one, to be read by slices: in memory, or a file where the features are one."""
    features = Features.of(x_ND)
    unit = dataclasses.replace(features, scale=UnitLength(features.scale))
    return np.asarray(unit) if isinstance(features.source, np.ndarray) else unit.to_read_often().source


def _nearest(x_ND: Any, train_MD: Any, k: int, *, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Similarity float32 and index int32 [N, k] of the k most similar training rows, the most similar first."""

    def tiles(source: Any, num_rows: int) -> Iterator[tuple[int, torch.Tensor]]:
        for start in range(0, source.shape[0], num_rows):
            yield start, torch.from_numpy(source[start : start + num_rows]).to(device)

    N = x_ND.shape[0]
    similarity, index = torch.empty(N, k), torch.empty(N, k, dtype=torch.int32)
    for start, x in tiles(x_ND, QUERY_ROWS):
        near, at = torch.empty(len(x), 0, device=device), torch.empty(len(x), 0, dtype=torch.int64, device=device)
        for first, train in tiles(train_MD, TRAIN_ROWS):
            found = (x @ train.T).topk(min(k, len(train)), dim=1)
            near, order = torch.cat([near, found.values], dim=1).topk(min(k, near.shape[1] + found.values.shape[1]))
            at = torch.cat([at, found.indices + first], dim=1).gather(1, order)
        similarity[start : start + len(x)], index[start : start + len(x)] = near, at
    return similarity, index
