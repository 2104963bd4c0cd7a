#!/usr/bin/env bash
# wfdb 4.3.1: a damaged signal file is read as if it were whole.
#
# Every signal line of a WFDB header holds a checksum of the lead's samples, and the format's description says that a
# reader compares it with the samples it has read to see that the file is not corrupted. wfdb.rdrecord reads the field
# into record.checksum and compares it with nothing: no error, no warning, no option to ask for it. What was stored can
# be had from record.checksum and what was read from record.calc_checksum(), which needs physical=False. An archive of
# hundreds of thousands of records copied with a fault gives waveforms with steps in them.
#
# Seen on 2026-11-29: two leads of 1,000 samples, the bytes of twenty samples overwritten after writing
#   rdrecord: no error, no warning; lead I is off by 0.5 mV
#   in the header [24752, 34578], of the samples read [29570, 38726]
# Exits 0 while this is so, 1 when it is not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q wfdb==4.3.1
cd "$folder"
venv/bin/python - <<'EOF'
import warnings

import numpy as np
import wfdb

time_s = np.arange(1000) / 500
signal_mv = np.stack([0.5 * np.sin(2 * np.pi * 1.1 * time_s), 0.5 * np.cos(2 * np.pi * 1.1 * time_s)], axis=1)
wfdb.wrsamp(
    "record", fs=500, units=["mV"] * 2, sig_name=["I", "II"], p_signal=signal_mv, fmt=["16"] * 2,
    adc_gain=[1000.0] * 2, baseline=[0, 0],
)
with open("record.dat", "r+b") as stream:
    stream.seek(4 * 500)
    stream.write(np.full(20, 800, dtype="<i2").tobytes())
with warnings.catch_warnings():
    warnings.simplefilter("error")
    read = wfdb.rdrecord("record")
off_mv = np.abs(read.p_signal - signal_mv).max(0)
print(f"rdrecord: no error, no warning; lead I is off by {off_mv[0]:.1f} mV")
digital = wfdb.rdrecord("record", physical=False)
stored, found = [one % 65536 for one in digital.checksum], [one % 65536 for one in digital.calc_checksum()]
print(f"in the header {stored}, of the samples read {found}")
raise SystemExit(0 if off_mv.min() > 0.1 and all(a != b for a, b in zip(stored, found)) else 1)
EOF
