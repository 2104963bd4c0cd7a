#!/bin/bash
# pandas 3.1.1, numpy 2.4.6, Python 3.11: lists of codes that are numpy arrays when a table is written to CSV.
# DataFrame.to_csv writes an array in a cell as numpy prints it, without commas: ['I10' 'E785']. Python joins neighbouring
# strings, also over the line breaks that numpy puts into long ones. So ast.literal_eval, the usual reader of such columns,
# raises nothing and gives one code that does not exist, however many there were.
# Seen on 2026-11-29:
#   written: ['I10' 'E785']   read: ['I10E785']
#   30 codes, written on 3 lines, read as 1 of 90 characters
# Exits non-zero if the behaviour changes.
set -e
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check pandas==3.1.1 numpy==2.4.6 2> "$folder/pip.log" || { cat "$folder/pip.log"; exit 1; }
cd "$folder"
"$folder/venv/bin/python" - <<'P'
import ast
import numpy as np
import pandas as pd

pd.DataFrame({"codes": [np.array(["I10", "E785"]), np.array(["I10"] * 30)]}).to_csv("codes.csv", index=False)
short, long = pd.read_csv("codes.csv")["codes"]
read = ast.literal_eval(short)
print("written:", short, "  read:", read)
assert short == "['I10' 'E785']" and read == ["I10E785"]
(joined,) = ast.literal_eval(long)
print(f"30 codes, written on {len(long.splitlines())} lines, read as 1 of {len(joined)} characters")
assert joined == "I10" * 30
P
