#!/usr/bin/env bash
# neurokit2 0.3.0: signal_resample folds what the new rate cannot hold into the signal, and stretches its time.
#
# The default method is an interpolation (scipy.ndimage.zoom) without a low-pass filter. Taken from 500 to 100 Hz, as
# many do with 12-lead ECGs, a tone of 70 Hz (muscle noise is there) comes out as one of 30 Hz in full size, amid the
# QRS complex. And the first and last samples are laid onto the first and last of the old grid, so that the new ones
# are not .01 s apart: the end of ten seconds is 8 ms off. One would expect the filter and the grid of scipy's
# resample_poly, which method="poly" takes.
#
# Seen on 2026-11-29: ten seconds, from 500 to 100 Hz; amplitude of a tone of 70 Hz before: 1
#   default   amplitude 1.00 at 30 Hz; last sample, due at 9.990 s, is of 9.998 s
#   poly      amplitude 0.00
# Exits 0 while this is so, 1 when it is not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q neurokit2==0.3.0
"$folder/venv/bin/python" - <<'EOF'
from functools import partial

import numpy as np
from neurokit2 import signal_resample

resample = partial(signal_resample, sampling_rate=500, desired_sampling_rate=100)
seconds = np.arange(5000) / 500
tone = np.sin(2 * np.pi * 70 * seconds)


def amplitude(signal):
    return float(np.sqrt(2 * np.mean(np.square(signal[50:-50]))))


taken = resample(tone)
spectrum = np.abs(np.fft.rfft(taken * np.hanning(len(taken))))
folded_hz = round(spectrum.argmax() * 100 / len(taken))
end = float(resample(seconds)[-1])
filtered = amplitude(resample(tone, method="poly"))
print(f"default   amplitude {amplitude(taken):.2f} at {folded_hz} Hz; last sample, due at 9.990 s, is of {end:.3f} s")
print(f"poly      amplitude {filtered:.2f}")
raise SystemExit(0 if amplitude(taken) > 0.9 and folded_hz == 30 and abs(end - 9.998) < 1e-3 and filtered < 0.1 else 1)
EOF
