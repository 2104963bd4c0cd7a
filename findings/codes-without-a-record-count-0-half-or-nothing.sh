#!/usr/bin/env bash
# torchmetrics 1.9.0, torcheval 0.0.7, scikit-learn 1.9.1: the macro AUROC of codes of which one has no positive record.
#
# AUROC of a code that no test record has is not defined. With hundreds of ICD-10 codes and a test split by patient such
# codes are common, and one would expect libraries to leave them out of a macro average, or at least to agree:
#   torchmetrics  MultilabelAUROC gives the code 0, the value of a perfectly wrong model, warns of a "true positive
#                 value" and averages the 0 in: two codes of .91 and .94 become a macro AUROC of .62;
#   torcheval     BinaryAUROC with num_tasks gives it 0.5, without a word;
#   scikit-learn  roc_auc_score gives it NaN, and so the macro average is NaN; average="weighted" leaves it out;
#                 average_precision_score, which is as undefined, gives it 0 and averages that in.
# Published macro AUROCs over many codes can differ by all of this. lamae leaves such a code out of the average and
# lists it.
#
# Seen on 2026-11-29: 200 records, three codes with 100, 40 and 0 positives
#   torchmetrics  0.914 0.939 0.000   macro 0.618
#   torcheval     0.914 0.939 0.500   macro 0.784
#   scikit-learn  0.914 0.939 nan     macro nan
#   average precision of scikit-learn: 0.924 0.786 0.000, macro 0.570
# Exits 0 while this is so, 1 when it is not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 torchmetrics==1.9.0 torcheval==0.0.7 scikit-learn==1.9.1
"$folder/venv/bin/python" -W ignore - <<'EOF'
import numpy as np
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torcheval.metrics.functional import binary_auroc
from torchmetrics.functional.classification import multilabel_auroc

rng = np.random.default_rng(0)
label = np.zeros((200, 3), dtype=int)
label[:100, 0] = label[:40, 1] = 1
score = 1 / (1 + np.exp(-rng.normal(size=(200, 3)) - 2 * label))
scores, labels = torch.tensor(score), torch.tensor(label)
metrics = multilabel_auroc(scores, labels, num_labels=3, average=None).tolist()
macro = float(multilabel_auroc(scores, labels, num_labels=3, average="macro"))
evaluated = binary_auroc(scores.T, labels.T, num_tasks=3).tolist()
learned, mean = roc_auc_score(label, score, average=None), roc_auc_score(label, score, average="macro")
precision = average_precision_score(label, score, average=None)
for name, of, over in (
    ("torchmetrics", metrics, macro),
    ("torcheval", evaluated, np.mean(evaluated)),
    ("scikit-learn", learned, mean),
    ("average precision of scikit-learn", precision, average_precision_score(label, score, average="macro")),
):
    print(f"{name:13} {' '.join(f'{one:.3f}' for one in of)}   macro {over:.3f}")
same = metrics[2] == 0 and macro < 0.63 and evaluated[2] == 0.5 and np.isnan([learned[2], mean]).all()
raise SystemExit(0 if same and precision[2] == 0 else 1)
EOF
