#!/usr/bin/env bash
# wfdb 4.3.1 (PyPI), Python 3.11, 2026-11-29.
#
# Signals of format 8 are stored as differences, so the header's initial value decides where the whole waveform lies.
# Where the header does not give it, hea(5) says: "a value equal to the ADC zero is assumed". wfdb assumes 0, although it
# does take the ADC zero for a baseline that is missing: the waveform is moved by ADC zero / gain, here by -5.12 mV,
# silently.
#
# Output seen:
#   first samples [1, 2, 3] at a baseline of 1024, in mV [-5.115, -5.11, -5.105]
#   the same with the initial value written out: in mV [0.005, 0.01, 0.015]
# Exits non-zero where this changes.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT; cd "$folder"
python3 -m venv venv && venv/bin/pip install -q wfdb==4.3.1
venv/bin/python - <<'PYTHON'
import numpy as np
import wfdb

np.ones(5, "i1").tofile("r.dat")  # five steps of one ADC unit


def read(line, **options):
    with open("r.hea", "w") as file:
        file.write(f"r 1 500 5\nr.dat {line}\n")
    return wfdb.rdrecord("r", **options)


short, whole = "8 200(1024)/mV 12 1024", "8 200(1024)/mV 12 1024 1024"
raw = read(short, physical=False).d_signal[:3, 0].tolist()
assumed, written = (read(line).p_signal[:3, 0].tolist() for line in (short, whole))
print(f"first samples {raw} at a baseline of 1024, in mV {assumed}")
print(f"the same with the initial value written out: in mV {written}")
assert raw == [1, 2, 3]
assert np.allclose(np.subtract(assumed, written), -1024 / 200)
PYTHON
