"""The probe: how much of the labels a logistic regression, or nearest neighbours, read off frozen embeddings.

    train split ──standardise, fit every setting──▶ val split ──best macro AUROC──▶ test split ──▶ AUROC, intervals

Test records are touched once. Subjects that were in pretraining are refused as test subjects unless told otherwise.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lamae.evaluate import store
from lamae.evaluate.auroc import Interval, auroc, bootstrap_auroc, interval, macro
from lamae.evaluate.embed import PRETRAINED, UNKNOWN, Embeddings, read_embeddings
from lamae.evaluate.groups import code_groups
from lamae.evaluate.labels import Labels, read_labels
from lamae.evaluate.logistic import Standardizer
from lamae.evaluate.metrics import average_precision, best_f1_threshold, brier, f1
from lamae.evaluate.readouts import METHODS, fit_knn, fit_logistic
from sharding.errors import UsageError

NUM_DRAWS = 1000
SEED = 0


@dataclass(frozen=True)
class ProbeResult:
    """A probe's scores on the test records and what follows from them."""

    name: str
    codes: list[str]
    """Codes with both classes in train and in test, in the columns below."""
    left_out: dict[str, str]
    """Codes without an AUROC, with the reason."""
    method: str
    setting: float
    """C of the logistic regression or number of neighbours, chosen on val."""
    val_macro: dict[float, float]
    """Macro AUROC on val of every setting tried."""
    auroc_K: np.ndarray
    draws_BK: np.ndarray
    """AUROC of each code in each bootstrap draw of test subjects; two probes of one test set have paired draws."""
    draw_seed: int
    metrics: dict[str, np.ndarray]
    """Per code, on test: auprc, f1 (threshold chosen on val), brier."""
    micro_auroc: float
    """AUROC over all (record, code) pairs together."""
    probability_NK: np.ndarray
    """Of the test records."""
    y_NK: np.ndarray
    test_rows: np.ndarray
    num_test_subjects: int
    num_train: int
    num_val: int
    contamination: str
    """"none", "unknown" or, if allowed, how many test subjects were in pretraining."""
    index_hash: str

    @property
    def macro(self) -> Interval:
        """Mean AUROC over codes with its 95 % interval over subjects."""
        return interval(float(macro(self.auroc_K)), macro(self.draws_BK))

    def by_code(self) -> dict[str, Interval]:
        return {code: interval(float(self.auroc_K[k]), self.draws_BK[:, k]) for k, code in enumerate(self.codes)}

    @property
    def prevalence(self) -> dict[str, float]:
        """Share of positive test records of each code."""
        return dict(zip(self.codes, self.y_NK.mean(0).tolist(), strict=True))

    def macro_of(self, codes: Sequence[str]) -> Interval:
        """``macro`` over some of the codes."""
        columns = [self.codes.index(code) for code in codes]
        return interval(float(macro(self.auroc_K[columns])), macro(self.draws_BK[:, columns]))

    def to_dict(self) -> dict[str, Any]:
        """Every number but the probabilities, as plain values."""
        return {
            "macro_auroc": dataclasses.asdict(self.macro),
            "auroc": {code: dataclasses.asdict(value) for code, value in self.by_code().items()},
            "macro_auroc_of_groups": {
                group: dataclasses.asdict(self.macro_of(codes)) for group, codes in code_groups(self.codes).items()
            },
            "micro_auroc": self.micro_auroc,
            **{f"macro_{name}": float(np.nanmean(values)) for name, values in self.metrics.items()},
            **{name: dict(zip(self.codes, values.tolist(), strict=True)) for name, values in self.metrics.items()},
            "prevalence": self.prevalence,
            "left_out": self.left_out,
            "method": self.method,
            "setting": self.setting,
            "num_train": self.num_train,
            "num_val": self.num_val,
            "num_test": len(self.test_rows),
            "num_test_subjects": self.num_test_subjects,
            "contamination": self.contamination,
        }


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
    rows = {split: _usable_rows(features, truth, split) for split in ("train", "val", "test")}
    _refuse_shared_subjects(features, rows)
    contamination = _check_contamination(features, rows["test"], transductive=transductive)
    kept, left_out = _codes_with_both_classes(truth, rows["train"], rows["test"])
    if not len(kept):
        raise UsageError(f"{features.name}: no code has both classes in the train and test records")
    if train_rows is not None:
        rows["train"] = np.intersect1d(rows["train"], train_rows)
    y = {split: truth.label_NK[rows[split]][:, kept] for split in rows}
    scale = Standardizer.fit(features.x_ND[rows["train"]])
    x = {split: scale.apply(features.x_ND[rows[split]]) for split in rows}

    fit = (fit_logistic if method == "logistic" else fit_knn)(x, y, device=device)
    probability = fit.probability(fit.test_NK)
    subjects = features.subject_N[rows["test"]]
    return ProbeResult(
        name=features.name,
        codes=[truth.codes[k] for k in kept],
        left_out=left_out,
        method=method,
        setting=fit.setting,
        val_macro=fit.val_macro,
        auroc_K=auroc(fit.test_NK, y["test"]),
        draws_BK=bootstrap_auroc(fit.test_NK, y["test"], subjects, num_draws=num_draws, seed=seed),
        draw_seed=seed,
        metrics={
            "auprc": average_precision(fit.test_NK, y["test"]),
            "f1": f1(fit.test_NK, y["test"], best_f1_threshold(fit.val_NK, y["val"])),
            "brier": brier(probability, y["test"]),
        },
        micro_auroc=float(auroc(probability.reshape(-1, 1), y["test"].reshape(-1, 1))[0]),
        probability_NK=probability,
        y_NK=y["test"],
        test_rows=rows["test"],
        num_test_subjects=len(np.unique(subjects)),
        num_train=len(rows["train"]),
        num_val=len(rows["val"]),
        contamination=contamination,
        index_hash=features.index_hash,
    )


@dataclass(frozen=True)
class Difference:
    """AUROC of one probe minus that of another on the same draws of the same test records."""

    macro: Interval
    by_code: dict[str, Interval]

    def to_dict(self) -> dict[str, Any]:
        return {
            "macro_auroc": dataclasses.asdict(self.macro),
            "auroc": {code: dataclasses.asdict(value) for code, value in self.by_code.items()},
        }


def difference(first: ProbeResult, second: ProbeResult) -> Difference:
    """Paired difference ``first - second``. Raises UsageError unless both were tested on the same records and codes."""
    same = (
        first.index_hash == second.index_hash
        and np.array_equal(first.test_rows, second.test_rows)
        and first.codes == second.codes
        and (len(first.draws_BK), first.draw_seed) == (len(second.draws_BK), second.draw_seed)
    )
    if not same:
        raise UsageError(f"{first.name} and {second.name} were not tested on the same records and codes")
    values, draws = first.auroc_K - second.auroc_K, first.draws_BK - second.draws_BK
    return Difference(
        macro=interval(float(macro(values)), macro(draws)),
        by_code={code: interval(float(values[k]), draws[:, k]) for k, code in enumerate(first.codes)},
    )


def _usable_rows(features: Embeddings, truth: Labels, split: str) -> np.ndarray:
    labelled = truth.rows(split)
    if not len(labelled):
        raise UsageError(f"the labels hold no labelled record in split {split}; the probe needs train, val and test")
    absent = int((~features.embedded_N[labelled]).sum())
    if absent:
        raise UsageError(
            f"{features.name}: {absent} of {len(labelled)} labelled {split} records were not embedded; embed split all"
        )
    return labelled


def _refuse_shared_subjects(features: Embeddings, rows: dict[str, np.ndarray]) -> None:
    subjects = {split: set(features.subject_N[which].tolist()) for split, which in rows.items()}
    for split in ("train", "val"):
        shared = len(subjects[split] & subjects["test"])
        if shared:
            raise UsageError(f"{shared} subjects are in both {split} and test; splits must be by subject")


def _check_contamination(features: Embeddings, test_rows: np.ndarray, *, transductive: bool) -> str:
    status = features.pretrained_N[test_rows]
    seen = len(np.unique(features.subject_N[test_rows[status == PRETRAINED]]))
    total = len(np.unique(features.subject_N[test_rows]))
    if seen and not transductive:
        raise UsageError(
            f"{features.name}: {seen} of {total} test subjects were in the model's pretraining; test on others, or "
            "give --transductive to go on and say so in the report"
        )
    if seen:
        return f"transductive: {seen} of {total} test subjects were in pretraining"
    return "unknown" if (status == UNKNOWN).any() else "none"


def _codes_with_both_classes(
    truth: Labels, train_rows: np.ndarray, test_rows: np.ndarray
) -> tuple[np.ndarray, dict[str, str]]:
    left_out: dict[str, str] = {}
    for split, rows in (("train", train_rows), ("test", test_rows)):
        positives = truth.label_NK[rows].sum(0, dtype=np.int64)
        for code, count in zip(truth.codes, positives.tolist(), strict=True):
            if count == 0:
                left_out.setdefault(code, f"no positive record in {split}")
            elif count == len(rows):
                left_out.setdefault(code, f"no negative record in {split}")
    kept = np.array([k for k, code in enumerate(truth.codes) if code not in left_out], dtype=np.int64)
    return kept, left_out
