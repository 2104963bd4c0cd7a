#!/usr/bin/env bash
# wfdb 4.3.1: rdrecord and rdsamp pass over names in channel_names that a record does not have, without a word.
#
# One would expect an error, or a column of NaN. Instead the signals have fewer columns than were asked for, so that the
# third column may be another lead than the third name; with none of the names found there is no signal at all, and
# sig_len is 0. Names are compared with their case: asked for as "II", a lead named "ii" (as in LUDB) or "AVR" (as in
# PTB-XL, where MIMIC-IV-ECG and the Challenge write "aVR") is not there. Compare sig_name with what was asked for, or
# look up the names oneself and ask by channels.
#
# Seen on 2026-11-29: a record of the leads i, ii, AVR
#   asked for i, aVR, ii   got ['i', 'ii'], samples (100, 2)
#   asked for aVR          got None, samples None
# Exits 0 while this is so, 1 when it is not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q wfdb==4.3.1
cd "$folder"
"$folder/venv/bin/python" - <<'EOF'
import numpy as np
import wfdb

names = ["i", "ii", "AVR"]
signal_mv = np.random.default_rng(0).normal(size=(100, 3))
wfdb.wrsamp("record", fs=500, units=["mV"] * 3, sig_name=names, p_signal=signal_mv, fmt=["16"] * 3)
found = {}
for wanted in (["i", "aVR", "ii"], ["aVR"]):
    record = wfdb.rdrecord("record", channel_names=wanted)
    shape = None if record.p_signal is None else record.p_signal.shape
    found[", ".join(wanted)] = record.sig_name, shape
    print(f"asked for {', '.join(wanted)}: got {record.sig_name}, samples {shape}")
raise SystemExit(0 if found == {"i, aVR, ii": (["i", "ii"], (100, 2)), "aVR": (None, None)} else 1)
EOF
