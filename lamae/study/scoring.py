"""From frozen embeddings of one run to scores on records whose subjects it was not pretrained on.

splits      fit on train, C by val, score test; fewer labels: nested shares of the training subjects
patients    cross-validation over the patients of test. A probe is fitted on the other folds and on the patients of
            train, who were in pretraining (as in any benchmark whose train split is pretrained on), each code's C by
            an inner cross-validation over all of these; no score ever depends on the label of its own patient.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lamae.base.errors import UsageError
from lamae.evaluate.embeddings.embed import PRETRAINED, Embeddings, rows_hash
from lamae.evaluate.labels.store import Labels
from lamae.evaluate.probe.auroc import stratified_auroc
from lamae.evaluate.probe.features import Standardizer
from lamae.evaluate.probe.fewlabels import nested_share
from lamae.evaluate.probe.methods import C_GRID, fit_rows, logistic_path
from lamae.evaluate.reconstruct.reconstruction import spread
from lamae.evaluate.statistics import Scored, has_interval, subject_weights
from lamae.evaluate.store import dense, require_same_rows
from lamae.study.plan import TaskConfig

INNER_FOLDS = 3


@dataclass(frozen=True)
class Scores:
    """What one run's probe gave one population, for R repeats of M records and C codes."""

    score_RMC: np.ndarray
    """NaN where the records to fit have one class of a code."""
    stratum_RM: np.ndarray
    """Only scores of one fitted probe can be compared: int, the fold of each record in each repeat."""
    y_MC: np.ndarray
    subject_M: np.ndarray
    population: str
    """The same for runs scored on the same records, whose subjects are then drawn together."""
    codes: tuple[str, ...]


def score_embeddings(features: Embeddings, truth: Labels, task: TaskConfig, *, fraction: float = 1.0) -> Scores:
    """Scores of one read-out on the test split of ``truth``.

    ``fraction`` of the training subjects are used, drawn anew (and nested) in every repeat. Raises UsageError where a
    record to be scored was pretrained on, or the two are of different shard sets.
    """
    require_labels_of(features, truth)
    columns = task.columns(truth.codes)
    codes = tuple(truth.codes[k] for k in columns)
    y_NC = dense(truth.label_NC[:, columns]).astype(bool)
    usable_N = truth.labelled_N & features.embedded_N
    rows = {split: of[usable_N[of]] for split, of in rows_of_task(truth, task).items()}
    scored = rows["test"]
    if task.protocol == "splits":
        repeats = [
            _score_splits(features, y_NC, rows, scored, fraction=fraction, seed=repeat)
            for repeat in range(task.repeats if fraction < 1 else 1)
        ]
    else:
        repeats = [
            _score_patients(features, y_NC, scored, rows["train"], folds=task.folds, fraction=fraction, seed=repeat)
            for repeat in range(task.repeats)
        ]
    if not len(scored):
        raise UsageError(f"{features.name}: no labelled record of a subject kept out of pretraining is left to score")
    if (features.pretrained_N[scored] == PRETRAINED).any():
        raise UsageError(f"{features.name}: subjects to be scored were in pretraining")
    return Scores(
        score_RMC=np.stack([score for score, _ in repeats]),
        stratum_RM=np.stack([stratum for _, stratum in repeats]),
        y_MC=y_NC[scored],
        subject_M=features.subject_N[scored],
        population=rows_hash(scored)[:12],
        codes=codes,
    )


def require_labels_of(features: Embeddings, truth: Labels) -> None:
    """Raises UsageError unless row i of both is the same record."""
    require_same_rows(Path(features.name), features.index_hash, Path("the labels"), truth.index_hash)


def summarise(scores: Scores) -> Scored:
    """AUROC within strata, mean over repeats."""
    once_1M = np.ones((1, len(scores.y_MC)))
    weights_ZM = subject_weights(scores.subject_M)
    repeats = list(zip(scores.score_RMC, scores.stratum_RM, strict=True))
    draws_ZC = np.mean([stratified_auroc(s, scores.y_MC, at, weights_ZM) for s, at in repeats], axis=0)
    return Scored(
        auroc_C=np.mean([stratified_auroc(s, scores.y_MC, at, once_1M)[0] for s, at in repeats], axis=0),
        draws_ZC=np.where(has_interval(scores.subject_M, scores.y_MC), draws_ZC, np.nan),
        population=scores.population,
        codes=scores.codes,
    )


def rows_of_task(truth: Labels, task: TaskConfig) -> dict[str, np.ndarray]:
    """The labelled rows of each split that a task uses to score: of ``patients`` all of train and test."""
    if task.protocol == "patients":
        return {split: truth.rows(split) for split in ("train", "test")}
    return rows_of_splits(truth, task)


def rows_of_splits(truth: Labels, task: TaskConfig) -> dict[str, np.ndarray]:
    """The labelled rows of each split, evenly spread, at most as many as a task or the search takes."""
    most = {"train": task.fit_records, "val": task.test_records, "test": task.test_records}
    return {split: spread(truth.rows(split), count) for split, count in most.items()}


def deal_folds(subject_M: np.ndarray, y_MC: np.ndarray, *, folds: int, seed: int) -> np.ndarray:
    """int64 [M]: the fold of every record, by subject; subjects with the same labels are dealt out evenly."""
    subjects, number_M = np.unique(subject_M, return_inverse=True)
    any_SC = np.zeros((len(subjects), y_MC.shape[1]), dtype=bool)
    np.logical_or.at(any_SC, number_M, y_MC)
    order = np.random.default_rng(seed).permutation(len(subjects))
    order = order[np.lexsort(any_SC[order].T)]
    fold_S = np.empty(len(subjects), dtype=np.int64)
    fold_S[order] = np.arange(len(subjects)) % folds
    return fold_S[number_M]


def _score_splits(
    features: Embeddings,
    y_NC: np.ndarray,
    rows: dict[str, np.ndarray],
    scored: np.ndarray,
    *,
    fraction: float,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    fitted = rows["train"]
    if fraction < 1:
        fitted = nested_share(features.subject_N, fitted, fraction=fraction, seed=seed)
    fit = fit_rows(features.x_ND, y_NC, {"train": fitted, "val": rows["val"], "test": scored})
    score_MC = np.where(_has_both_classes(y_NC[rows["train"]]), np.asarray(fit.test), np.nan)
    return score_MC, np.zeros(len(scored), dtype=np.int64)


def _score_patients(
    features: Embeddings,
    y_NC: np.ndarray,
    scored: np.ndarray,
    helpers: np.ndarray,
    *,
    folds: int,
    fraction: float,
    seed: int,
) -> tuple[np.ndarray, np.ndarray]:
    fold_M = deal_folds(features.subject_N[scored], y_NC[scored], folds=folds, seed=seed)
    score_MC = np.zeros((len(scored), y_NC.shape[1]), dtype=np.float32)
    for fold in range(folds):
        tested = fold_M == fold
        fitted = np.concatenate([helpers, scored[~tested]])
        can_fit_C = _has_both_classes(y_NC[fitted])
        if fraction < 1:
            fitted = nested_share(features.subject_N, fitted, fraction=fraction, seed=seed)
        chosen_C = _inner_choice(features, y_NC, fitted, seed=seed)
        by_C = _fit_path(features.x_ND, y_NC, fitted, scored[tested])
        of_tested_MC = np.stack([by_C[C][:, k] for k, C in enumerate(chosen_C)], axis=1)
        score_MC[tested] = np.where(can_fit_C, of_tested_MC, np.nan)
    return score_MC, fold_M


def _has_both_classes(y_NC: np.ndarray) -> np.ndarray:
    """bool [C]. Of all labels: a smaller share of them that happens to lack a class scores one half, as in probes."""
    return np.logical_and(y_NC.any(0), ~y_NC.all(0))


def _inner_choice(features: Embeddings, y_NC: np.ndarray, fitted: np.ndarray, *, seed: int) -> list[float]:
    """For each code the C with the best AUROC in a cross-validation of the training part alone; of equals the
    smallest."""
    inner = deal_folds(features.subject_N[fitted], y_NC[fitted], folds=INNER_FOLDS, seed=seed)
    scores = {C: np.zeros((len(fitted), y_NC.shape[1]), dtype=np.float32) for C in sorted(C_GRID)}
    for fold in range(INNER_FOLDS):
        out = inner == fold
        for C, score in _fit_path(features.x_ND, y_NC, fitted[~out], fitted[out]).items():
            scores[C][out] = score
    once = np.ones((1, len(fitted)))
    quality_RC = np.stack([stratified_auroc(scores[C], y_NC[fitted], inner, once)[0] for C in scores])
    return [list(scores)[best] for best in np.nan_to_num(quality_RC).argmax(0)]


def _fit_path(x_ND: np.ndarray, y_NC: np.ndarray, fitted: np.ndarray, tested: np.ndarray) -> dict[float, np.ndarray]:
    """Log-odds of ``tested`` under every C, ascending."""
    scale = Standardizer.fit(x_ND[fitted])
    path = logistic_path(scale.apply(x_ND[fitted]), y_NC[fitted])
    return {C: decide(scale.apply(x_ND[tested])) for C, decide in path.items()}
