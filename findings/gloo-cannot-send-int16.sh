#!/usr/bin/env bash
# torch 2.13.0, gloo: tensors of int16 cannot be sent, all other small types can.
#
# ECGs are recorded as 16-bit integers (WFDB's format 16), and a batch of them is int16. One would expect a broadcast or
# an all_gather, which only copies bytes, to take any tensor, the more as int8, uint8, bool, int32, float16 and bfloat16
# are taken. int16 (and uint16) ends with "Invalid scalar type", which names neither the type nor the operation. Sent as
# tensor.view(torch.uint8) it arrives; sums have to be of int32.
#
# Seen on 2026-11-29: one rank, a tensor of each type in broadcast, all_gather and all_reduce
#   bool       taken
#   uint8      taken
#   int8       taken
#   int16      RuntimeError: Invalid scalar type
#   int32      taken
#   float16    taken
#   bfloat16   taken
# Exits 0 while this is so, 1 when it is not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy
cd "$folder"
"$folder/venv/bin/python" - <<'EOF'
import torch
import torch.distributed as dist

dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
outcomes = {}
for name in ("bool", "uint8", "int8", "int16", "int32", "float16", "bfloat16"):
    tensor, seen = torch.ones(12, dtype=getattr(torch, name)), set()
    for send in (
        lambda: dist.broadcast(tensor, 0),
        lambda: dist.all_gather([torch.empty_like(tensor)], tensor),
        lambda: dist.all_reduce(tensor),
    ):
        try:
            send()
            seen.add("taken")
        except RuntimeError as error:
            seen.add(f"RuntimeError: {error}")
    outcomes[name] = " / ".join(sorted(seen))
    print(f"{name:10} {outcomes[name]}")
dist.broadcast(torch.ones(12, dtype=torch.int16).view(torch.uint8), 0)
refused = [name for name, outcome in outcomes.items() if outcome != "taken"]
raise SystemExit(0 if refused == ["int16"] and "Invalid scalar type" in outcomes["int16"] else 1)
EOF
