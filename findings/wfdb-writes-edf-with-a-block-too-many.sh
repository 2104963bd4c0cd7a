#!/usr/bin/env bash
# wfdb 4.3.1: EDF files that it writes are longer than the recording, and a block that is not full mixes the leads.
#
# wfdb.io.convert.edf.wfdb_to_edf writes blocks of one second, or of ten where those have at most 61,440 bytes (twelve
# leads at 100 Hz), and always one more than the recording fills. The surplus holds the lowest integer, which EDF,
# having no value for "missing", reads as a voltage: -32.768 mV in every lead at 1000 counts per millivolt. Where the
# recording ends within a block, the leads of that block are written without padding between them, so all but the first
# are read from wrong places, inside the recording too. The first lead alone looks right.
#
# Seen on 2026-11-30: twelve leads of 0.8 mV, 1000 counts per millivolt; largest error within the recording, the lowest
# value after it
#   10 s at 500 Hz: EDF of 11 s; off by 0.0 mV in the first lead, 0.0 in the last; then down to -32.8 mV
#   10 s at 100 Hz: EDF of 20 s; off by 0.0 mV in the first lead, 0.0 in the last; then down to -32.8 mV
#   12 s at 100 Hz: EDF of 20 s; off by 0.0 mV in the first lead, 33.6 in the last; then down to -0.8 mV
# Exits 0 while this is so, 1 when it is not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q wfdb==4.3.1 pyedflib==0.1.42
cd "$folder"
venv/bin/python - <<'EOF'
import contextlib
import io

import numpy as np
import pyedflib
import wfdb
from wfdb.io.convert.edf import wfdb_to_edf

LEADS = "I II III aVR aVL aVF V1 V2 V3 V4 V5 V6".split()


def convert(rate_hz, seconds):
    """Length of the EDF file in seconds; largest error of the first and the last lead; lowest value afterwards."""
    time_s = np.arange(seconds * rate_hz) / rate_hz
    signal_mv = np.stack([0.8 * np.sin(2 * np.pi * 1.2 * time_s + lead) for lead in range(12)], axis=1)
    wfdb.wrsamp(
        "record", fs=rate_hz, units=["mV"] * 12, sig_name=LEADS, p_signal=signal_mv, fmt=["16"] * 12,
        adc_gain=[1000.0] * 12, baseline=[0] * 12,
    )
    with contextlib.redirect_stdout(io.StringIO()):
        wfdb_to_edf("record")
    with pyedflib.EdfReader("record.edf") as reader:
        found_mv = [reader.readSignal(lead) for lead in (0, 11)]
    off_mv = [np.abs(found[: len(time_s)] - signal_mv[:, lead]).max() for lead, found in zip((0, 11), found_mv)]
    return len(found_mv[0]) / rate_hz, *off_mv, found_mv[0][len(time_s) :].min()


found = {}
for rate_hz, seconds in ((500, 10), (100, 10), (100, 12)):
    edf_s, first_mv, last_mv, after_mv = found[rate_hz, seconds] = convert(rate_hz, seconds)
    print(
        f"{seconds} s at {rate_hz} Hz: EDF of {edf_s:g} s; off by {first_mv:.1f} mV in the first lead, "
        f"{last_mv:.1f} in the last; then down to {after_mv:.1f} mV"
    )
longer = [edf_s for edf_s, *_ in found.values()] == [11, 20, 20]
whole = all(np.allclose(found[rate_hz, 10], (found[rate_hz, 10][0], 0, 0, -32.768), atol=0.01) for rate_hz in (500, 100))
mixed = found[100, 12][1] < 0.01 and found[100, 12][2] > 10
raise SystemExit(0 if longer and whole and mixed else 1)
EOF
