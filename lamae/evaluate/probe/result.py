"""What testing a read-out gives: measures of every code with intervals over subjects, and paired differences."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from lamae.base.errors import UsageError
from lamae.evaluate.labels.groups import code_groups
from lamae.evaluate.labels.store import Labels
from lamae.evaluate.probe.auroc import auroc, average_precision, bootstrap_areas
from lamae.evaluate.probe.metrics import best_f1_threshold, brier, f1
from lamae.evaluate.probe.readouts import Fit
from lamae.evaluate.statistics import Interval, Scored, interval, macro, weight_chunks
from lamae.evaluate.store import dense
from lamae.evaluate.values import finite


@dataclass(frozen=True)
class Measures(Scored):
    """What a probe reached on test records, or one probe minus another on the same draws of the same records."""

    name: str
    metrics: dict[str, np.ndarray]
    """Per code, on test: auprc, f1 (threshold chosen on val), brier."""
    metric_draws: dict[str, np.ndarray]
    """The same in each bootstrap draw, float32 [B, K]."""
    known_K: np.ndarray
    """False where a class has one record, whose subject is in every draw: the code's interval is unknown."""

    @property
    def macro(self) -> Interval:
        """Mean AUROC over codes with its 95 % interval over subjects."""
        return self.macro_of()

    def by_code(self) -> dict[str, Interval]:
        """AUROC of each code; intervals that are unknown are NaN."""
        draws_BK = np.where(self.known_K, self.draws_BK, np.nan)
        return {code: interval(float(self.auroc_K[k]), draws_BK[:, k]) for k, code in enumerate(self.codes)}

    def by_group(self) -> dict[str, Interval]:
        """``macro`` over the groups of ``code_groups``."""
        return {group: self.macro_of(codes) for group, codes in code_groups(self.codes).items()}

    def macro_metric(self, name: str) -> Interval:
        """Mean of auprc, f1 or brier over codes with its 95 % interval over subjects."""
        return interval(float(macro(self.metrics[name])), macro(self.metric_draws[name]))

    def to_dict(self) -> dict[str, Any]:
        """Every number as plain values; those that are undefined are None."""
        return finite(
            {
                "macro_auroc": self.macro,
                "auroc": self.by_code(),
                "macro_auroc_of_groups": self.by_group(),
                **{f"macro_{name}": self.macro_metric(name) for name in self.metrics},
            }
        )


@dataclass(frozen=True)
class ProbeResult(Measures):
    """A probe's scores on the test records and what follows from them; codes with both classes in train and test."""

    left_out: dict[str, str]
    """Codes without an AUROC, with the reason."""
    method: str
    setting: float
    """C of the logistic regression, number of neighbours, or step of fine-tuning: chosen on val."""
    val_macro: dict[float, float]
    """Macro AUROC on val of every setting tried."""
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

    @property
    def prevalence(self) -> dict[str, float]:
        """Share of positive test records of each code."""
        return dict(zip(self.codes, self.y_NK.mean(0).tolist(), strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Every number but the probabilities, as plain values."""
        return super().to_dict() | finite(
            {
                "micro_auroc": self.micro_auroc,
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
        )


def evaluate_scores(
    fit: Fit,
    truth: Labels,
    rows: dict[str, np.ndarray],
    kept: np.ndarray,
    left_out: dict[str, str],
    subject_N: np.ndarray,
    *,
    name: str,
    method: str,
    contamination: str,
) -> ProbeResult:
    """The result of scores on the val and test rows for the codes ``kept`` (columns of the labels)."""
    y = {split: dense(truth.label_NK[rows[split]][:, kept]) for split in ("val", "test")}
    probability = fit.probability(fit.test_NK)
    threshold = best_f1_threshold(fit.val_NK, y["val"])
    subjects = subject_N[rows["test"]]
    positives_K = y["test"].sum(0)
    parts = []
    for weights_BN in weight_chunks(subjects):
        auroc_BK, auprc_BK = bootstrap_areas(fit.test_NK, y["test"], weights_BN)
        f1_BK = f1(fit.test_NK, y["test"], threshold, weights_BN)
        parts.append((auroc_BK, auprc_BK, f1_BK, brier(probability, y["test"], weights_BN)))
    auroc_BK, *draws = (np.concatenate(values) for values in zip(*parts, strict=True))
    return ProbeResult(
        name=name,
        codes=[truth.codes[k] for k in kept],
        left_out=left_out,
        method=method,
        setting=fit.setting,
        val_macro=fit.val_macro,
        auroc_K=auroc(fit.test_NK, y["test"]),
        draws_BK=auroc_BK,
        population=hashlib.sha256(truth.index_hash.encode() + rows["test"].astype("<i8").tobytes()).hexdigest()[:12],
        metrics={
            "auprc": average_precision(fit.test_NK, y["test"]),
            "f1": f1(fit.test_NK, y["test"], threshold),
            "brier": brier(probability, y["test"]),
        },
        metric_draws={
            metric: values.astype(np.float32) for metric, values in zip(("auprc", "f1", "brier"), draws, strict=True)
        },
        known_K=np.minimum(positives_K, len(y["test"]) - positives_K) > 1,
        micro_auroc=float(auroc(probability.reshape(-1, 1), y["test"].reshape(-1, 1))[0]),
        probability_NK=probability,
        y_NK=y["test"],
        test_rows=rows["test"],
        num_test_subjects=len(np.unique(subjects)),
        num_train=len(rows["train"]),
        num_val=len(rows["val"]),
        contamination=contamination,
    )


def difference(first: ProbeResult, second: ProbeResult) -> Measures:
    """Paired difference ``first - second``. Raises UsageError unless both were tested on the same records and codes."""
    if (first.population, first.codes) != (second.population, second.codes):
        raise UsageError(f"{first.name} and {second.name} were not tested on the same records and codes")
    return Measures(
        auroc_K=first.auroc_K - second.auroc_K,
        draws_BK=first.draws_BK - second.draws_BK,
        population=first.population,
        codes=first.codes,
        name=f"{first.name} minus {second.name}",
        metrics={name: first.metrics[name] - second.metrics[name] for name in first.metrics},
        metric_draws={name: first.metric_draws[name] - second.metric_draws[name] for name in first.metrics},
        known_K=first.known_K,
    )
