#!/usr/bin/env bash
# wfdb 4.3.1: csv_to_wfdb keeps 1/200 of the unit, where wrsamp keeps what 16 bits hold.
#
# wfdb.wrsamp, given physical samples, chooses each lead's gain so that its range fills the 16 bits of the file.
# csv_to_wfdb takes a table of the same samples and says that they are saved "as a p_signal"; one would expect the same
# file. It writes every lead with 200 steps a unit, which is what the WFDB format assumes where nothing is known. So a
# table in millivolt is rounded to steps of 5 microvolt without a word (a lead of a few hundred microvolt keeps some
# tens of levels), and the same table in microvolt is refused, since 200 steps for a microvolt leave 16 bits at 164.
# Whoever turns a hospital's CSV exports into WFDB records should give adc_gain and baseline, or use wrsamp.
#
# Seen on 2026-11-29: twelve leads of a sine of 0.3 mV, 500 Hz, 10 s
#   wrsamp:       off by 0.000005 mV at most
#   csv_to_wfdb:  off by 0.002500 mV at most, 121 levels, gain 200.0
#   csv_to_wfdb of the same in microvolt: IndexError
# Exits 0 while this is so, 1 when it is not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q wfdb==4.3.1
cd "$folder"
venv/bin/python - <<'EOF'
import numpy as np
import pandas as pd
import wfdb
from wfdb.io.convert.csv import csv_to_wfdb

LEADS = "I II III aVR aVL aVF V1 V2 V3 V4 V5 V6".split()
time_s = np.arange(5000) / 500
signal_mv = np.stack([0.3 * np.sin(2 * np.pi * 1.1 * time_s + lead) for lead in range(12)], axis=1)


def error(name):
    record = wfdb.rdrecord(name)
    return np.abs(record.p_signal - signal_mv).max(), len(np.unique(record.p_signal[:, 0])), record.adc_gain[0]


wfdb.wrsamp("direct", fs=500, units=["mV"] * 12, sig_name=LEADS, p_signal=signal_mv, fmt=["16"] * 12)
pd.DataFrame(signal_mv, columns=LEADS).to_csv("table.csv", index=False)
csv_to_wfdb("table.csv", fs=500, units="mV")
direct, table = error("direct"), error("table")
print(f"wrsamp:       off by {direct[0]:.6f} mV at most")
print(f"csv_to_wfdb:  off by {table[0]:.6f} mV at most, {table[1]} levels, gain {table[2]}")
pd.DataFrame(1000 * signal_mv, columns=LEADS).to_csv("microvolt.csv", index=False)
try:
    csv_to_wfdb("microvolt.csv", fs=500, units="uV")
    refused = None
except Exception as error:
    refused = type(error).__name__
print(f"csv_to_wfdb of the same in microvolt: {refused}")
raise SystemExit(0 if direct[0] < 1e-4 and table[0] > 0.002 and table[2] == 200 and refused == "IndexError" else 1)
EOF
