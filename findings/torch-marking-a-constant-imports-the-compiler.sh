#!/usr/bin/env bash
# torch 2.13.0: torch.compiler.assume_constant_result sets one attribute, and imports some 800 modules to do so.
#
# The decorator tells the compiler that a function's result may be taken for a constant. A program that compiles nothing
# should be able to carry it for free. Instead the decorator imports torch._dynamo and sympy, so that every start of the
# program takes longer (1.5 s here, 5 s on a busy machine). Setting the attribute oneself does the same without.
#
# Seen on 2026-11-29
#   sets {'_dynamo_marked_constant': True}; new modules: 823, torch._dynamo and sympy among them
# Exits 0 while this is so, 1 when it is not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'EOF'
import sys

import torch

before = set(sys.modules)


def fixed():
    return 1


torch.compiler.assume_constant_result(fixed)
new = set(sys.modules) - before
both = {"torch._dynamo", "sympy"} <= new
print(f"sets {vars(fixed)}; new modules: {len(new)}, torch._dynamo and sympy {'among them' if both else 'not'}")
raise SystemExit(not both or vars(fixed) != {"_dynamo_marked_constant": True})
EOF
