#!/usr/bin/env bash
# wfdb 4.3.1: reading a 12-lead record, the header costs far more than the samples.
#
# The record line and the signal lines are parsed with tables of pandas that are looked up cell by cell: 239 look-ups for
# twelve leads. So reading headers alone, which one does to learn what an archive holds, saves next to nothing over
# reading the records, and at some milliseconds a header the 800,035 of MIMIC-IV-ECG take an hour or more on one core.
# What needs the samples alone is many times faster with numpy.fromfile and a parser of its own for the common shape.
#
# Seen on 2026-11-29: a record of 12 leads, 10 s at 500 Hz, format 16
#   look-ups in tables a header            239
#   rdheader, of the time of rdrecord      .92
#   rdrecord over numpy.fromfile           116 times the time
# Exits 0 while a header takes over a hundred look-ups and most of the time of its record, 1 when it does not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q wfdb==4.3.1
cd "$folder"
"$folder/venv/bin/python" - <<'EOF'
import time

import numpy as np
import wfdb
from pandas.core.indexing import _LocIndexer

signal_mv = np.random.default_rng(0).normal(size=(5000, 12))
leads = "I II III aVR aVL aVF V1 V2 V3 V4 V5 V6".split()
wfdb.wrsamp("record", fs=500, units=["mV"] * 12, sig_name=leads, p_signal=signal_mv, fmt=["16"] * 12)


def least_s(action):
    seconds = []
    for _ in range(30):
        start = time.process_time()
        action()
        seconds.append(time.process_time() - start)
    return min(seconds)


header_s = least_s(lambda: wfdb.rdheader("record"))
record_s = least_s(lambda: wfdb.rdrecord("record", physical=False))
samples_s = least_s(lambda: np.ascontiguousarray(np.fromfile("record.dat", "<i2").reshape(-1, 12).T))
look_up, count = _LocIndexer.__getitem__, 0


def counted(self, key):
    global count
    count += 1
    return look_up(self, key)


_LocIndexer.__getitem__ = counted
wfdb.rdheader("record")
print(f"look-ups {count}; rdheader {header_s / record_s:.2f} of rdrecord, which takes {record_s / samples_s:.0f} times fromfile")
raise SystemExit(0 if count > 100 and header_s > record_s / 2 else 1)
EOF
