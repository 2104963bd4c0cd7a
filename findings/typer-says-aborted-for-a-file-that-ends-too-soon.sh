#!/bin/bash
# typer 0.29.2 with numpy 2.3.5: a command that reads a file which ends too soon prints "Aborted." and leaves with 1:
# no exception, no file name, no traceback.
#
# numpy.load of an empty .npy raises EOFError("No data left in file"); pickle does the same for a file cut short. The command
# line takes every EOFError for a user who pressed Ctrl-D at a prompt, also where no prompt was shown, and
# pretty_exceptions_enable=False does not change that. The same call of the same function outside a command, or another exception
# inside it, ends in a traceback. So a truncated download looks as if the user had stopped the program.
#
# What to do: turn EOFError into another exception where files are read, or around the command's invoke().
# Seen on 2026-11-29:   command: exit 1, says "Aborted."   function: EOFError: No data left in file
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv venv
venv/bin/pip install -q typer==0.29.2 numpy==2.3.5
: > empty.npy
cat > program.py <<'P'
import sys
import numpy as np
import typer

app = typer.Typer(pretty_exceptions_enable=False)

@app.command()
def mean(path: str):
    print(np.load(path).mean())

if "--bare" in sys.argv:
    mean("empty.npy")
app()
P
code=0; venv/bin/python program.py empty.npy > said 2>&1 || code=$?
echo "command: exit $code, says: $(tr -d '\n' < said)"
[ "$code" = 1 ] && grep -q "Aborted" said && ! grep -q "EOFError\|No data\|empty.npy" said
venv/bin/python program.py --bare > bare 2>&1 || true
echo "function: $(tail -n 1 bare)"
grep -q "EOFError: No data left in file" bare
