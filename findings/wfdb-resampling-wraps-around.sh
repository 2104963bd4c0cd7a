#!/usr/bin/env bash
# wfdb 4.3.1: wfdb.processing.resample_sig takes a record to be periodic.
#
# It resamples by scipy.signal.resample, a Fourier method, which joins the end of a record to its beginning. Where the
# baseline has moved between the two, as wander makes it do in most ECGs, both ends get a jump of half the difference and
# ring for several samples; one would expect a polyphase filter that continues the edges, as for any recording. Measures
# of the first and last beats, and filters run afterwards, inherit it. scipy.signal.resample_poly(padtype="edge") does not.
#
# Seen on 2026-11-29: ten seconds at 500 Hz that rise steadily from 0 to 1 mV, taken to 100 Hz
#   first sample   wfdb 0.400 mV, resample_poly 0.000 mV; recorded 0.000 mV
#   last sample    wfdb 1.085 mV, resample_poly 0.999 mV; recorded 0.998 mV
# Exits 0 while this is so, 1 when it is not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q wfdb==4.3.1
"$folder/venv/bin/python" - <<'EOF'
import numpy as np
from scipy.signal import resample_poly
from wfdb.processing import resample_sig

recorded_mv = np.arange(5000) / 5000
by_wfdb, _ = resample_sig(recorded_mv, 500, 100)
by_filter = resample_poly(recorded_mv, 1, 5, padtype="edge")
for name, place in (("first", 0), ("last", -1)):
    print(f"{name} sample: wfdb {by_wfdb[place]:.3f} mV, resample_poly {by_filter[place]:.3f} mV")
wraps = abs(by_wfdb[0] - recorded_mv[0]) > 0.3 and abs(by_filter[0] - recorded_mv[0]) < 0.01
raise SystemExit(0 if wraps else 1)
EOF
