#!/usr/bin/env bash
# wfdb 4.3.1: wrsamp takes NaN as "no sample", but not a lead that is NaN throughout.
#
# A sample that is NaN is stored as format 16's "no sample" and comes back as NaN. A lead of nothing else, which is how
# an array of twelve leads says that one was not recorded, ends with "cannot convert float NaN to integer", wherever the
# gain is left to wrsamp, which takes it from the lead's least and greatest value. With adc_gain and baseline given it
# is written and comes back as NaN.
#
# Seen on 2026-11-29: two leads of 100 samples
#   one sample of the second is NaN                  read back with 1 NaN
#   the second is NaN throughout                     ValueError: cannot convert float NaN to integer
#   the same, with adc_gain=[1000, 1000]             read back with 100 NaN
# Exits 0 while this is so, 1 when it is not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q wfdb==4.3.1
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'EOF'
import numpy as np
import wfdb


def missing_after(signal_mv, **given):
    names = dict(units=["mV", "mV"], sig_name=["I", "II"], fmt=["16", "16"])
    try:
        wfdb.wrsamp("record", fs=500, p_signal=signal_mv, **names, **given)
    except ValueError as error:
        return f"ValueError: {error}"
    return int(np.isnan(wfdb.rdrecord("record").p_signal).sum())


some = np.random.default_rng(0).normal(size=(100, 2))
some[5, 1] = np.nan
absent = some.copy()
absent[:, 1] = np.nan
found = [missing_after(some), missing_after(absent), missing_after(absent, adc_gain=[1000, 1000], baseline=[0, 0])]
print(*found, sep="\n")
raise SystemExit(0 if found == [1, "ValueError: cannot convert float NaN to integer", 100] else 1)
EOF
