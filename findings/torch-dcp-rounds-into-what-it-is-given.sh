#!/usr/bin/env bash
# torch 2.13.0: torch.distributed.checkpoint loads float32 into bfloat16 without a word.
#
# Loading is into tensors that are there, and a tensor of another shape is refused. One would expect one of another type
# to be refused as well, or said. Instead the numbers are rounded: a run of float32 master weights that is resumed from
# a model in bfloat16 loses 16 bits of each without a message.
#
# Seen on 2026-11-29: 1/3 in float32 saved, a bfloat16 tensor to load into
#   loaded: tensor([0.3340], dtype=torch.bfloat16)
# Exits 0 while this is so, 1 when it is not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'EOF'
import warnings

import torch
import torch.distributed.checkpoint as dcp

third = torch.tensor([1 / 3])
dcp.save({"w": third}, checkpoint_id="saved")
target = {"w": torch.zeros(1, dtype=torch.bfloat16)}
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    dcp.load(target, checkpoint_id="saved")
said = [str(warning.message) for warning in said if "bfloat16" in str(warning.message) or "dtype" in str(warning.message)]
print(f"loaded: {target['w']}", *said)
raise SystemExit(target["w"].dtype != torch.bfloat16 or target["w"] != third.bfloat16() or bool(said))
EOF
