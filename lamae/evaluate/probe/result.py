"""What testing a probe gives: measures of every code with intervals over subjects, and paired differences."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from lamae.base.errors import UsageError
from lamae.evaluate.labels.groups import code_groups
from lamae.evaluate.labels.store import Labels
from lamae.evaluate.probe.auroc import auroc, average_precision, bootstrap_areas, micro_auroc
from lamae.evaluate.probe.features import Labels01
from lamae.evaluate.probe.methods import Fit
from lamae.evaluate.probe.metrics import best_f1_threshold, brier, f1
from lamae.evaluate.statistics import Interval, Scored, has_interval, in_means, interval, macro_drawn, weight_chunks
from lamae.evaluate.store import LARGE_BYTES, dense
from lamae.evaluate.values import finite


@dataclass(frozen=True)
class Measures(Scored):
    """What a probe reached on test records, or one probe minus another on the same draws of the same records."""

    name: str
    metrics: dict[str, np.ndarray]
    """Per code, on test: auprc, f1 (threshold chosen on val; NaN without a positive record there), brier."""
    metric_draws: dict[str, np.ndarray]
    """The same in each bootstrap draw, float32 [Z, C], as in ``draws_ZC``."""

    @property
    def macro(self) -> Interval:
        """Mean AUROC over the codes whose interval is known, with its 95 % interval over subjects."""
        return self.macro_of()

    def by_code(self) -> dict[str, Interval]:
        """AUROC of each code; intervals that are unknown are NaN."""
        return {code: interval(float(self.auroc_C[k]), self.draws_ZC[:, k]) for k, code in enumerate(self.codes)}

    def by_group(self) -> dict[str, Interval]:
        """``macro`` over the groups of ``code_groups``."""
        return {group: self.macro_of(codes) for group, codes in code_groups(self.codes).items()}

    def macro_metric(self, name: str) -> Interval:
        """Mean of auprc, f1 or brier over the same codes as ``macro`` with its 95 % interval over subjects."""
        kept_C = in_means(self.draws_ZC)
        return interval(*macro_drawn(self.metrics[name][kept_C], self.metric_draws[name][:, kept_C]))

    @property
    def left_out_of_means(self) -> list[str]:
        """Codes with too few test subjects in a class for an interval (``has_interval``), unless all are so."""
        return [code for code, kept in zip(self.codes, in_means(self.draws_ZC), strict=True) if not kept]

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
    probability_NC: np.ndarray | None
    """Of the test records; None where they would take more than ``store.LARGE_BYTES``."""
    y_NC: Labels01
    test_rows: np.ndarray
    num_test_subjects: int
    num_train: int
    num_val: int
    contamination: str
    """"none", "unknown" or, if allowed, how many test subjects were in pretraining."""

    @property
    def prevalence(self) -> dict[str, float]:
        """Share of positive test records of each code."""
        return dict(zip(self.codes, np.asarray(self.y_NC.mean(0)).tolist(), strict=True))

    @property
    def without_f1(self) -> list[str]:
        """Codes without a positive record in val, which would choose the threshold: left out of the macro F1."""
        return [code for code, value in zip(self.codes, self.metrics["f1"], strict=True) if np.isnan(value)]

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
    y: dict[str, Labels01] = {split: truth.label_NC[rows[split]][:, kept] for split in ("val", "test")}
    subjects = subject_N[rows["test"]]
    num_test = len(subjects)

    def tested() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return ((fit.probability(fit.test.of_codes(at)), dense(y["test"][:, at])) for at in fit.code_blocks())

    measured = [
        _measure(fit, at, {split: dense(of[:, at]) for split, of in y.items()}, subjects) for at in fit.code_blocks()
    ]
    values, draws = (
        {metric: np.concatenate([of[metric] for of in part], axis=-1) for metric in part[0]}
        for part in zip(*measured, strict=True)
    )
    auroc_C, draws_ZC = values.pop("auroc"), draws.pop("auroc")
    is_small = 4 * num_test * len(kept) <= LARGE_BYTES
    return ProbeResult(
        name=name,
        codes=[truth.codes[k] for k in kept],
        left_out=left_out,
        method=method,
        setting=fit.setting,
        val_macro=fit.val_macro,
        auroc_C=auroc_C,
        draws_ZC=draws_ZC,
        population=hashlib.sha256(truth.index_hash.encode() + rows["test"].astype("<i8").tobytes()).hexdigest()[:12],
        metrics=values,
        metric_draws=draws,
        micro_auroc=micro_auroc(tested),
        probability_NC=np.concatenate([p_NC for p_NC, _ in tested()], axis=1) if is_small else None,
        y_NC=y["test"],
        test_rows=rows["test"],
        num_test_subjects=len(np.unique(subjects)),
        num_train=len(rows["train"]),
        num_val=len(rows["val"]),
        contamination=contamination,
    )


def _measure(
    fit: Fit, codes: slice, y: dict[str, np.ndarray], subject_N: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Every measure of some codes on test [C], and in each draw of its subjects [Z, C]: auroc in float64."""
    threshold_C = best_f1_threshold(fit.val.of_codes(codes), y["val"])
    test_NC = fit.test.of_codes(codes)
    probability_NC = fit.probability(test_NC)
    draws: dict[str, list[np.ndarray]] = defaultdict(list)
    for weights_ZN in weight_chunks(subject_N):
        auroc_ZC, auprc_ZC = bootstrap_areas(test_NC, y["test"], weights_ZN)
        draws["auroc"].append(auroc_ZC)
        draws["auprc"].append(auprc_ZC.astype(np.float32))
        draws["f1"].append(f1(test_NC, y["test"], threshold_C, weights_ZN).astype(np.float32))
        draws["brier"].append(brier(probability_NC, y["test"], weights_ZN).astype(np.float32))
    values = {
        "auroc": auroc(test_NC, y["test"]),
        "auprc": average_precision(test_NC, y["test"]),
        "f1": f1(test_NC, y["test"], threshold_C),
        "brier": brier(probability_NC, y["test"]),
    }
    known_C = has_interval(subject_N, y["test"])
    return values, {metric: np.where(known_C, np.concatenate(of), np.nan) for metric, of in draws.items()}


def difference(first: ProbeResult, second: ProbeResult) -> Measures:
    """Paired difference ``first - second``. Raises UsageError unless both were tested on the same records and codes."""
    if (first.population, first.codes) != (second.population, second.codes):
        raise UsageError(f"{first.name} and {second.name} were not tested on the same records and codes")
    return Measures(
        auroc_C=first.auroc_C - second.auroc_C,
        draws_ZC=first.draws_ZC - second.draws_ZC,
        population=first.population,
        codes=first.codes,
        name=f"{first.name} minus {second.name}",
        metrics={name: first.metrics[name] - second.metrics[name] for name in first.metrics},
        metric_draws={name: first.metric_draws[name] - second.metric_draws[name] for name in first.metrics},
    )
