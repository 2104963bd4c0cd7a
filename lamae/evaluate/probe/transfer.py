"""Across hospitals: fit on the patients of one shard set, test on those of another.

Embeddings and labels of both are laid one after the other, as if they were one set whose train and val records come
from the first and whose test records come from the second; everything that reads embeddings and labels then applies.
"""

import dataclasses
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lamae.base.errors import UsageError
from lamae.base.text import few
from lamae.evaluate import store
from lamae.evaluate.embeddings.embed import Embeddings, read_embeddings
from lamae.evaluate.labels.store import NO_SPLIT, Labels, read_labels
from lamae.evaluate.probe.features import Joined
from lamae.sharding.format import SPLITS
from lamae.train.checkpoint.subjects import ANY_WFDB

log = logging.getLogger(__name__)

TEST_SPLITS = ("test", "all")
_TEST = SPLITS.index("test")


def read(
    embeddings: Sequence[tuple[Path, Path | None]],
    *,
    labels: Path,
    readout: str,
    test_labels: Path | None = None,
    test_split: str = "test",
) -> tuple[list[Embeddings], Labels, dict[str, str]]:
    """Embeddings of each model and the labels of all, from the stores of one shard set or of two.

    ``embeddings`` are (of the set with ``labels``, of the set with ``test_labels``), a pair for each model. The mapping
    holds the codes that only one set has, with the reason. Raises UsageError where stores do not belong together.
    """
    truth, left_out = read_labels(labels), {}
    found = [_read(first, labels, truth, readout) for first, _ in embeddings]
    if test_labels is not None:
        if test_split not in TEST_SPLITS:
            raise UsageError(f"--test-split {test_split!r} is none of {', '.join(TEST_SPLITS)}")
        other = _read_other(truth, labels, test_labels)
        tested = [_read(second, test_labels, other, readout) for _, second in embeddings if second is not None]
        left_out = left_out_of_both(truth, other)
        truth = join_labels_of(truth, other, test_split=test_split)
        found = [join_embeddings_of(*pair) for pair in zip(found, tested, strict=True)]
    return found, truth, left_out


def _read(path: Path, labels: Path, truth: Labels, readout: str) -> Embeddings:
    features = read_embeddings(path, readout=readout, may_stay=True)
    store.require_same_rows(path, features.index_hash, labels, truth.index_hash)
    return features


def read_joined(labels: Path, test_labels: Path, *, test_split: str) -> Labels:
    """``join_labels_of`` two stores. Raises UsageError where both are of one shard set."""
    truth = read_labels(labels)
    return join_labels_of(truth, _read_other(truth, labels, test_labels), test_split=test_split)


def _read_other(truth: Labels, labels: Path, test_labels: Path) -> Labels:
    """The labels to test on. Raises UsageError where they are of the shard set of ``truth``, read from ``labels``."""
    other = read_labels(test_labels)
    if other.index_hash == truth.index_hash:
        raise UsageError(f"{labels} and {test_labels} are labels of one shard set; leave --test or test_labels away")
    return other


def join_labels_of(fitted: Labels, tested: Labels, *, test_split: str = "test") -> Labels:
    """Train and val of ``fitted``, ``test_split`` ("test" or "all") of ``tested``, and the codes that both have.

    Raises UsageError where they have none in common.
    """
    of_tested = set(tested.codes)
    shared = [code for code in fitted.codes if code in of_tested]
    if not shared:
        raise UsageError(
            f"the two labels have no code in common ({few(fitted.codes, 8)} and {few(tested.codes, 8)}); make both "
            "with one vocabulary"
        )
    columns = [[truth.codes.index(code) for code in shared] for truth in (fitted, tested)]
    split = np.concatenate(
        [
            np.where(fitted.split_N == _TEST, NO_SPLIT, fitted.split_N),
            np.where((tested.split_N == _TEST) | (test_split == "all"), _TEST, NO_SPLIT),
        ]
    ).astype(np.uint8)
    return Labels(
        label_NC=store.stack(fitted.label_NC[:, columns[0]], tested.label_NC[:, columns[1]]),
        labelled_N=np.concatenate([fitted.labelled_N, tested.labelled_N]),
        split_N=split,
        codes=shared,
        descriptions=tested.descriptions | fitted.descriptions,
        protocol=f"{fitted.protocol}, tested on another set's {tested.protocol}",
        index_hash=_joined_hash(fitted.index_hash, tested.index_hash),
        unknown_patients=tested.unknown_patients or fitted.unknown_patients,
    )


def left_out_of_both(fitted: Labels, tested: Labels) -> dict[str, str]:
    """The codes that only one of two labels has, with the reason."""
    pairs = ((fitted, tested, "tested"), (tested, fitted, "fitted"))
    return {
        code: f"not among the codes of the set {other_is} on"
        for one, other, other_is in pairs
        for code in sorted(set(one.codes) - set(other.codes))
    }


def join_embeddings_of(fitted: Embeddings, tested: Embeddings) -> Embeddings:
    """One after the other, subjects of the two as different ones. Raises UsageError unless one model made both."""
    if fitted.made_by != tested.made_by:
        raise UsageError(
            f"{fitted.name} and {tested.name} are of different models or leads; embed both sets with the same run"
        )
    if not fitted.made_by:
        raise UsageError(
            f"nothing says that one model made {fitted.name} and {tested.name}; import both with --model NAME"
        )
    if fitted.x_ND.shape[1] != tested.x_ND.shape[1]:
        raise UsageError(
            f"{fitted.name} and {tested.name} have {fitted.x_ND.shape[1]} and {tested.x_ND.shape[1]} dimensions"
        )
    _warn_of_shared_patients(fitted, tested)
    apart = int(fitted.subject_N.max(initial=-1)) + 1
    arrays: dict[str, Any] = {
        field: np.concatenate([getattr(fitted, field), getattr(tested, field)])
        for field in ("embedded_N", "split_N", "pretrained_N", "record_hash_N")
    }
    both = (fitted.x_ND, tested.x_ND)
    return dataclasses.replace(
        fitted,
        **arrays,
        x_ND=np.concatenate(both) if all(isinstance(x_ND, np.ndarray) for x_ND in both) else Joined(both),
        subject_N=np.concatenate([fitted.subject_N, apart + tested.subject_N]),
        index_hash=_joined_hash(fitted.index_hash, tested.index_hash),
        name=f"{fitted.name} on {tested.name}",
    )


def _warn_of_shared_patients(fitted: Embeddings, tested: Embeddings) -> None:
    """Log that both sets may hold the same patients: of one named source, or of any with keys of records in common."""
    if fitted.source == tested.source not in ("", ANY_WFDB):
        common = f"are both of {fitted.source}, and nothing here tells whether a patient is in both"
    else:
        num_shared = len(np.intersect1d(fitted.record_hash_N, tested.record_hash_N))
        common = f"have the keys of {num_shared:,} records in common, and may hold the same patients"
        if not num_shared:
            return
    log.warning(
        "%s and %s %s; where both sets were split alike, --test-split test keeps train and test apart",
        *(fitted.name, tested.name, common),
    )


def _joined_hash(first: str, second: str) -> str:
    return hashlib.sha256(f"{first} {second}".encode()).hexdigest()
