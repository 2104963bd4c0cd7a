#!/usr/bin/env bash
# torch 2.13.0, CPU: the gradients of layer_norm's weight and bias are summed over the rows in bfloat16.
#
# The backward kernel keeps one running sum per thread and column in the type of the input. bfloat16 holds 8 bits, so a
# sum stands still once it is 256 times what a row adds: with gradients of 1 the bias's gradient is 256 however many rows
# there are (512 with two threads). It makes no difference whether weight and bias are float32, and autocast does the
# same. The input's gradient is right, and so are the bias's gradient of linear and a plain sum(0), which add up in
# float32. One would take norms to be safe in bfloat16 because their statistics are float32. A model trained in bfloat16
# on a CPU gets norm gradients of a few percent of their length at ordinary batch sizes, and nothing warns.
#
# Seen on 2026-11-29 (one thread, 65,536 rows, gradient 1 everywhere; exact: 65536):
#   layer_norm, bfloat16 weights    256
#   layer_norm, float32 weights     256
#   linear under the same gradient  65536
#   sum(0)                          65536
#   layer_norm of x.float()         65536
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
torch.manual_seed(0)
rows, width = 65_536, 32
x = torch.randn(rows, width).bfloat16()


def bias_gradient(function, dtype):
    weight, bias = torch.ones(width, dtype=dtype, requires_grad=True), torch.zeros(width, dtype=dtype, requires_grad=True)
    y = function(weight, bias)
    y.backward(torch.ones_like(y))
    return float(bias.grad[0])


def linear(weight, bias):
    return F.linear(x, torch.diag(weight), bias)


seen = {
    "layer_norm, bfloat16 weights": bias_gradient(lambda w, b: F.layer_norm(x, (width,), w, b), torch.bfloat16),
    "layer_norm, float32 weights": bias_gradient(lambda w, b: F.layer_norm(x, (width,), w, b), torch.float32),
    "linear under the same gradient": bias_gradient(linear, torch.bfloat16),
    "sum(0)": float(torch.ones_like(x).sum(0)[0]),
    "layer_norm of x.float()": bias_gradient(
        lambda w, b: F.layer_norm(x.float(), (width,), w.float(), b.float()).bfloat16(), torch.bfloat16
    ),
}
for name, value in seen.items():
    print(f"{name:31s} {value:.0f}")
expected = [256, 256, rows, rows, rows]
sys.exit(list(seen.values()) != expected)
EOF
