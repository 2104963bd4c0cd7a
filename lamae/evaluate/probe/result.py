"""What testing a read-out gives: measures of every code with intervals over subjects, and paired differences."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lamae.base.errors import UsageError
from lamae.evaluate.labels.groups import code_groups
from lamae.evaluate.labels.store import Labels
from lamae.evaluate.probe.auroc import (
    Interval,
    auroc,
    average_precision,
    bootstrap_areas,
    interval,
    macro,
    subject_weights,
)
from lamae.evaluate.probe.metrics import best_f1_threshold, brier, f1
from lamae.evaluate.probe.readouts import Fit

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
    """C of the logistic regression, number of neighbours, or step of fine-tuning: chosen on val."""
    val_macro: dict[float, float]
    """Macro AUROC on val of every setting tried."""
    auroc_K: np.ndarray
    draws_BK: np.ndarray
    """AUROC of each code in each bootstrap draw of test subjects; two probes of one test set have paired draws."""
    draw_seed: int
    metrics: dict[str, np.ndarray]
    """Per code, on test: auprc, f1 (threshold chosen on val), brier."""
    metric_draws: dict[str, np.ndarray]
    """The same in each bootstrap draw, float32 [B, K]."""
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
        """AUROC of each code; its interval is unknown where a class has one record, whose subject is in every draw."""
        draws_BK = self.known(self.draws_BK)
        return {code: interval(float(self.auroc_K[k]), draws_BK[:, k]) for k, code in enumerate(self.codes)}

    def known(self, draws_BK: np.ndarray) -> np.ndarray:
        """Draws of single codes, NaN where a class has one record."""
        return np.where(np.minimum(self.y_NK.sum(0), (1 - self.y_NK).sum(0)) < 2, np.nan, draws_BK)

    @property
    def prevalence(self) -> dict[str, float]:
        """Share of positive test records of each code."""
        return dict(zip(self.codes, self.y_NK.mean(0).tolist(), strict=True))

    def macro_of(self, codes: Sequence[str]) -> Interval:
        """``macro`` over some of the codes."""
        columns = [self.codes.index(code) for code in codes]
        return interval(float(macro(self.auroc_K[columns])), macro(self.draws_BK[:, columns]))

    def macro_metric(self, name: str) -> Interval:
        """Mean of auprc, f1 or brier over codes with its 95 % interval over subjects."""
        return interval(float(macro(self.metrics[name])), macro(self.metric_draws[name]))

    def to_dict(self) -> dict[str, Any]:
        """Every number but the probabilities, as plain values."""
        return {
            "macro_auroc": dataclasses.asdict(self.macro),
            "auroc": {code: value.to_dict() for code, value in self.by_code().items()},
            "macro_auroc_of_groups": {
                group: dataclasses.asdict(self.macro_of(codes)) for group, codes in code_groups(self.codes).items()
            },
            "micro_auroc": self.micro_auroc,
            **{f"macro_{name}": dataclasses.asdict(self.macro_metric(name)) for name in self.metrics},
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
    num_draws: int = NUM_DRAWS,
    seed: int = SEED,
) -> ProbeResult:
    """The result of scores on the val and test rows for the codes ``kept`` (columns of the labels)."""
    y = {split: truth.label_NK[rows[split]][:, kept] for split in ("val", "test")}
    probability = fit.probability(fit.test_NK)
    threshold = best_f1_threshold(fit.val_NK, y["val"])
    subjects = subject_N[rows["test"]]
    weights_BN = subject_weights(subjects, num_draws=num_draws, seed=seed)
    auroc_BK, auprc_BK = bootstrap_areas(fit.test_NK, y["test"], subjects, num_draws=num_draws, seed=seed)
    metric_draws = {
        "auprc": auprc_BK,
        "f1": f1(fit.test_NK, y["test"], threshold, weights_BN),
        "brier": brier(probability, y["test"], weights_BN),
    }
    return ProbeResult(
        name=name,
        codes=[truth.codes[k] for k in kept],
        left_out=left_out,
        method=method,
        setting=fit.setting,
        val_macro=fit.val_macro,
        auroc_K=auroc(fit.test_NK, y["test"]),
        draws_BK=auroc_BK,
        draw_seed=seed,
        metrics={
            "auprc": average_precision(fit.test_NK, y["test"]),
            "f1": f1(fit.test_NK, y["test"], threshold),
            "brier": brier(probability, y["test"]),
        },
        metric_draws={name: draws.astype(np.float32) for name, draws in metric_draws.items()},
        micro_auroc=float(auroc(probability.reshape(-1, 1), y["test"].reshape(-1, 1))[0]),
        probability_NK=probability,
        y_NK=y["test"],
        test_rows=rows["test"],
        num_test_subjects=len(np.unique(subjects)),
        num_train=len(rows["train"]),
        num_val=len(rows["val"]),
        contamination=contamination,
        index_hash=truth.index_hash,
    )


@dataclass(frozen=True)
class Difference:
    """One probe minus another on the same draws of the same test records."""

    macro: Interval
    by_code: dict[str, Interval]
    metrics: dict[str, Interval]
    groups: dict[str, Interval]
    """``macro`` over the groups of ``code_groups``."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "macro_auroc": dataclasses.asdict(self.macro),
            "auroc": {code: value.to_dict() for code, value in self.by_code.items()},
            "macro_auroc_of_groups": {group: dataclasses.asdict(value) for group, value in self.groups.items()},
            **{f"macro_{name}": dataclasses.asdict(value) for name, value in self.metrics.items()},
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
    columns = {group: [first.codes.index(c) for c in codes] for group, codes in code_groups(first.codes).items()}
    return Difference(
        macro=interval(float(macro(values)), macro(draws)),
        by_code={code: interval(float(values[k]), first.known(draws)[:, k]) for k, code in enumerate(first.codes)},
        metrics={
            name: interval(
                float(macro(first.metrics[name] - second.metrics[name])),
                macro(first.metric_draws[name] - second.metric_draws[name]),
            )
            for name in first.metrics
        },
        groups={group: interval(float(macro(values[ks])), macro(draws[:, ks])) for group, ks in columns.items()},
    )
