#!/usr/bin/env bash
# DeepSpeed 0.19.8 on torch 2.13.0: the launcher's own argument comes before those of the program it starts.
#
# `deepspeed --module PACKAGE VERB ...` runs `python -m PACKAGE --local_rank=N VERB ...`, also where nothing asks for the
# argument: the environment holds LOCAL_RANK as with torchrun. A program of one verb takes it anywhere; one with verbs
# (git-like command lines: argparse's subparsers, Click, Typer) meets an option in front of the verb, where only the
# program itself may have options, and refuses to start under this launcher alone. --no_local_rank leaves it away.
#
# Seen on 2026-11-29: `deepspeed --module echo_args train --steps 3` calls it with
#   --local_rank=0 train --steps 3
# Exits 0 while this is so, 1 when it is not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 setuptools wheel
"$folder/venv/bin/pip" install -q deepspeed==0.19.8
printf 'import sys\nprint("called with", *sys.argv[1:])\n' > "$folder/echo_args.py"
cd "$folder"
export PATH="$folder/venv/bin:$PATH" PYTHONPATH="$folder" DS_ACCELERATOR=cpu
seen=$(deepspeed --num_accelerators=1 --master_addr=127.0.0.1 --master_port=29653 \
  --module echo_args train --steps 3 2>/dev/null | grep "called with" || true)
echo "$seen"
[ "$seen" = "called with --local_rank=0 train --steps 3" ]
