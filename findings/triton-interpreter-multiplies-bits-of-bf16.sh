#!/usr/bin/env bash
# triton 3.9.0 with torch 2.13.0 on a CPU: under TRITON_INTERPRET=1 tl.dot multiplies the bit patterns of bfloat16.
#
# numpy has no bfloat16, so the interpreter keeps such numbers as the integers that their bits are. Loads, stores and
# casts mind that; tl.dot hands the integers to numpy, and its sum is of integers. float16 and float32 are right. There
# is no message, so a kernel whose tests run in the interpreter seems to be wrong in bfloat16 alone. Casts to bfloat16,
# besides, cut the low bits off where torch and GPUs round. Kernels tested that way have to widen to float32 first.
#
# Seen on 2026-11-29: ones times twos, 16 x 16; and 1.005859375 as bfloat16
#   float16: 32.0, bfloat16: 4261412864.0 (torch: 32.0); cast: 1.0 (torch: 1.0078125)
# Exits 0 while this is so, 1 when it is not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 triton==3.9.0 numpy==2.4.6
cat > "$folder/kernels.py" <<'EOF'
import torch
import triton
import triton.language as tl


@triton.jit
def product(A, B, OUT):
    i = tl.arange(0, 16)
    at = i[:, None] * 16 + i[None, :]
    tl.store(OUT + at, tl.dot(tl.load(A + at), tl.load(B + at)))


@triton.jit
def cast(A, OUT):
    i = tl.arange(0, 16)
    tl.store(OUT + i, tl.load(A + i).to(tl.bfloat16))


found = {}
for dtype in (torch.float16, torch.bfloat16):
    out = torch.zeros(16, 16)
    product[(1,)](torch.ones(16, 16, dtype=dtype), torch.full((16, 16), 2, dtype=dtype), out)
    found[dtype] = out[0, 0].item()
x, rounded = torch.full((16,), 1.005859375), torch.zeros(16, dtype=torch.bfloat16)
cast[(1,)](x, rounded)
print(
    f"float16: {found[torch.float16]}, bfloat16: {found[torch.bfloat16]} (torch: 32.0); "
    f"cast: {rounded[0].item()} (torch: {x.bfloat16()[0].item()})"
)
right = found[torch.bfloat16] == 32, bool(rounded[0] == x.bfloat16()[0])
raise SystemExit(found[torch.float16] != 32 or any(right))
EOF
TRITON_INTERPRET=1 "$folder/venv/bin/python" -W ignore "$folder/kernels.py"
