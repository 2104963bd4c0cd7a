#!/usr/bin/env bash
# wfdb 4.3.1 (PyPI), Python 3.11, 2026-11-29.
#
# The WFDB header specification, hea(5), lets sampling frequency and gain be any number that scanf(3) takes, and names
# 3.6e2 as an example. wfdb reads such a number up to the letter and drops the rest without an error or a warning:
#   5e2 Hz are 5 Hz; a gain of 2E2 is 2, "E2" becomes the unit, and the rest of the line the signal's name (2e2 is read).
# It writes such numbers itself: wrsamp(fs=1/86400), one sample a day, writes 1.1574074074074073e-05, and rdrecord makes
# 1.157 Hz of its own file.
#
# Output seen:
#   5e2 Hz are read as 5
#   gain 2E2 is read as 2.0, units E2, name (0)/mV 16 0 0 0 0 I
#   gain 2e2 is read as 200.0, units mV, name II
#   written at 1.1574074074074073e-05 Hz, read back at 1.1574074074074072
# Exits non-zero where this changes.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv venv && venv/bin/pip install -q wfdb==4.3.1
venv/bin/python - <<'PYTHON'
import numpy as np
import wfdb

np.zeros((5, 2), "<i2").tofile("r.dat")
with open("r.hea", "w") as file:
    file.write("r 2 5e2 5\nr.dat 16 2E2(0)/mV 16 0 0 0 0 I\nr.dat 16 2e2(0)/mV 16 0 0 0 0 II\n")
read = wfdb.rdrecord("r")
print("5e2 Hz are read as", read.fs)
for written, gain, unit, name in zip(("2E2", "2e2"), read.adc_gain, read.units, read.sig_name):
    print(f"gain {written} is read as {gain}, units {unit}, name {name}")
day = 1 / 86400
wfdb.wrsamp("daily", fs=day, units=["mV"], sig_name=["x"], p_signal=np.arange(10.0).reshape(-1, 1), fmt=["16"])
again = wfdb.rdrecord("daily").fs
print(f"written at {day!r} Hz, read back at {again!r}")
assert (read.fs, read.adc_gain, read.units) == (5, [2.0, 200.0], ["E2", "mV"])
assert read.sig_name == ["(0)/mV 16 0 0 0 0 I", "II"]
assert abs(again / day - 1e5) < 1
PYTHON
