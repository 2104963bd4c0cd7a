#!/usr/bin/env bash
# wfdb 4.3.1: of an EDF file with two sampling rates the faster leads are read as raw counts, called millivolt.
#
# Exports of ECG carts often hold another channel of a lower rate (respiration, a marker) beside the leads.
# wfdb.io.convert.edf.read_edf then brings all of them to the lowest rate by averaging, and divides the offset by the
# gain where it means to divide the difference: the leads come out as integers of the converter, thousands of times too
# large, while units say mV and nothing warns. The channel of the lowest rate, and files of one rate, are right.
# pyedflib 0.1.42 reads the same file right.
#
# Seen on 2026-11-30: leads of 0.8 mV at 500 Hz beside a channel at 250 Hz, at 6553.5 counts per millivolt
#   one rate:  units mV, lead I reaches 0.8 mV
#   two rates: units mV, lead I reaches 5243.0 mV; the channel at 250 Hz 0.8
# Exits 0 while this is so, 1 when it is not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q wfdb==4.3.1 pyedflib==0.1.42
cd "$folder"
venv/bin/python - <<'EOF'
import numpy as np
import pyedflib
from wfdb.io.convert.edf import read_edf

RANGE = {"physical_min": -5, "physical_max": 5, "digital_min": -32768, "digital_max": 32767}


def write(name, channels):
    """``channels``: rate by label; each holds a sine of 0.8 mV for ten seconds."""
    with pyedflib.EdfWriter(name, len(channels), file_type=pyedflib.FILETYPE_EDF) as writer:
        writer.setSignalHeaders(
            [
                {"label": label, "dimension": "mV", "sample_frequency": rate, "transducer": "", "prefilter": ""} | RANGE
                for label, rate in channels.items()
            ]
        )
        writer.writeSamples(
            [0.8 * np.sin(2 * np.pi * 1.2 * np.arange(10 * rate) / rate) for rate in channels.values()]
        )
    record = read_edf(name)
    return record.units, np.abs(record.p_signal).max(0)


units, one = write("one.edf", {"I": 500, "II": 500})
print(f"one rate:  units {units[0]}, lead I reaches {one[0]:.1f} mV")
units, two = write("two.edf", {"I": 500, "II": 500, "marker": 250})
print(f"two rates: units {units[0]}, lead I reaches {two[0]:.1f} mV; the channel at 250 Hz {two[2]:.1f}")
with pyedflib.EdfReader("two.edf") as reader:
    right = np.abs(reader.readSignal(0)).max()
held = abs(one[0] - 0.8) < 0.01 and two[0] > 1000 and abs(two[2] - 0.8) < 0.01 and abs(right - 0.8) < 0.01
raise SystemExit(0 if units == ["mV"] * 3 and held else 1)
EOF
