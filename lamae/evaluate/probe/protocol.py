"""Which records and codes a probe or a fine-tuned model may use: by subject, labelled, with both classes, unseen."""

import numpy as np

from lamae.base.errors import UsageError
from lamae.evaluate.embeddings.embed import PRETRAINED, UNKNOWN
from lamae.evaluate.labels.store import Labels


def split_rows(
    truth: Labels,
    subject_N: np.ndarray,
    pretrained_N: np.ndarray,
    shown_N: np.ndarray,
    *,
    name: str,
    transductive: bool,
) -> tuple[dict[str, np.ndarray], str]:
    """Labelled rows of train, val and test, and whether test subjects were in pretraining and are known, in words.

    Raises UsageError when a split is empty or holds a record that the model was not shown (``shown_N``), a subject is
    on both sides, or, unless ``transductive``, when test subjects were in pretraining.
    """
    rows = {split: truth.rows(split) for split in ("train", "val", "test")}
    for split, chosen in rows.items():
        if not len(chosen):
            raise UsageError(
                f"the labels hold no labelled record in split {split}; the probe needs train, val and test"
            )
        absent = int((~shown_N[chosen]).sum())
        if absent:
            raise UsageError(
                f"{name}: {absent} of {len(chosen)} labelled {split} records were not embedded, or have none of the "
                "leads; embed split all, and choose leads that each of them has"
            )
    _refuse_shared_subjects(subject_N, rows)
    seen = _check_contamination(subject_N, pretrained_N, rows["test"], name=name, transductive=transductive)
    return rows, "; ".join(filter(None, (seen, truth.unknown_patients)))


def usable_codes(truth: Labels, rows: dict[str, np.ndarray], *, name: str) -> tuple[np.ndarray, dict[str, str]]:
    """Columns of the codes with both classes in train and test, and the others with the reason.

    Raises UsageError when none is left, or when none of them has both classes in val, which chooses settings.
    """
    left_out: dict[str, str] = {}
    for split in ("train", "test"):
        positives = truth.label_NC[rows[split]].sum(0, dtype=np.int64)
        for code, count in zip(truth.codes, positives.tolist(), strict=True):
            if count == 0:
                left_out.setdefault(code, f"no positive record in {split}")
            elif count == len(rows[split]):
                left_out.setdefault(code, f"no negative record in {split}")
    kept = np.array([k for k, code in enumerate(truth.codes) if code not in left_out], dtype=np.int64)
    if not len(kept):
        raise UsageError(f"{name}: no code has both classes in the train and test records")
    num_val = len(rows["val"])
    positives = truth.label_NC[rows["val"]].sum(0, dtype=np.int64)[kept]
    if not ((positives > 0) & (positives < num_val)).any():
        raise UsageError(
            f"{name}: no code has both classes in the {num_val} val records, so the best setting cannot be chosen; "
            "use labels with more of them"
        )
    return kept, left_out


def _refuse_shared_subjects(subject_N: np.ndarray, rows: dict[str, np.ndarray]) -> None:
    for split in ("train", "val"):
        shared = len(np.intersect1d(subject_N[rows[split]], subject_N[rows["test"]]))
        if shared:
            raise UsageError(f"{shared} subjects are in both {split} and test; splits must be by subject")


def _check_contamination(
    subject_N: np.ndarray, pretrained_N: np.ndarray, test_rows: np.ndarray, *, name: str, transductive: bool
) -> str:
    status = pretrained_N[test_rows]
    seen = len(np.unique(subject_N[test_rows[status == PRETRAINED]]))
    total = len(np.unique(subject_N[test_rows]))
    if seen and not transductive:
        raise UsageError(
            f"{name}: {seen} of {total} test subjects were in the model's pretraining; test on others, or "
            "give --transductive to go on and say so in the report"
        )
    if seen:
        return f"transductive: {seen} of {total} test subjects were in pretraining"
    return "unknown" if (status == UNKNOWN).any() else "none"
