#!/usr/bin/env bash
# torch 2.13.0, CPU: the gradient of indexing a table with a tensor, and of embedding, is summed in bfloat16.
#
# table[index] and F.embedding add the gradients of the rows that read one entry in the table's own type, one after the
# other. In bfloat16 an entry that was read more than 256 times gets a gradient that stands still at 256 times what a row
# adds. index_select and gather, which read the same values, get the exact sum here (they take another kernel for many
# indices). One would take the four to be interchangeable. Met by learned tokens and positions that a whole batch shares.
#
# Seen on 2026-11-29 (12 entries, each read 4,096 times, gradient 1 everywhere; exact: 4096):
#   table[index]                256
#   F.embedding                 256
#   table.index_select          4096
#   table.gather                4096
#   one_hot(index) @ table      4096
# Exits 0 while this is so, 1 when it is not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0
OMP_NUM_THREADS=1 "$folder/venv/bin/python" -W ignore - <<'EOF'
import sys

import torch
import torch.nn.functional as F

torch.set_num_threads(1)
times, entries, width = 4_096, 12, 32
index = torch.arange(entries).repeat(times)
ways = {
    "table[index]": lambda table: table[index],
    "F.embedding": lambda table: F.embedding(index, table),
    "table.index_select": lambda table: table.index_select(0, index),
    "table.gather": lambda table: table.gather(0, index[:, None].expand(-1, width)),
    "one_hot(index) @ table": lambda table: F.one_hot(index, entries).to(table.dtype) @ table,
}
seen = []
for name, read in ways.items():
    table = torch.zeros(entries, width, dtype=torch.bfloat16, requires_grad=True)
    y = read(table)
    y.backward(torch.ones_like(y))
    seen.append(float(table.grad[0, 0]))
    print(f"{name:27s} {seen[-1]:.0f}")
sys.exit(seen != [256, 256, times, times, times])
EOF
