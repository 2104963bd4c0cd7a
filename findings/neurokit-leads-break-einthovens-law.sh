#!/usr/bin/env bash
# neurokit2 0.3.0: the limb leads of a simulated 12-lead ECG contradict each other.
#
# ecg_simulate(method="multileads") gives the twelve standard leads by name. In any recorded ECG two of the six limb
# leads determine the other four: III = II - I (Einthoven's law), aVR = -(I + II) / 2 and so on. One would expect a
# simulator of twelve leads to draw a heart and to derive the leads from it. Here each lead has waves of its own:
# without any noise III is off by four tenths of its size, and aVR by more than its size. A model tried on such data
# cannot infer limb leads from one another as it can in recordings, and quality checks that hold limb leads against
# the law flag every record. Take I, II and V1 to V6 alone, and compute the other four.
#
# Seen on 2026-11-29: ten seconds at 500 Hz, noise=0; standard deviations of the lead and of its distance from the law
#   III   0.251 mV, off by 0.109 mV
#   aVR   0.236 mV, off by 0.312 mV
#   aVL   0.236 mV, off by 0.174 mV
#   aVF   0.315 mV, off by 0.079 mV
# Exits 0 while this is so, 1 when it is not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q neurokit2==0.3.0
"$folder/venv/bin/python" - <<'EOF'
import neurokit2

leads = neurokit2.ecg_simulate(duration=10, sampling_rate=500, method="multileads", noise=0, random_state=1)
laws = {
    "III": leads["II"] - leads["I"],
    "aVR": -(leads["I"] + leads["II"]) / 2,
    "aVL": leads["I"] - leads["II"] / 2,
    "aVF": leads["II"] - leads["I"] / 2,
}
share = {}
for name, derived in laws.items():
    size, off = leads[name].std(), (leads[name] - derived).std()
    print(f"{name}   {size:.3f} mV, off by {off:.3f} mV")
    share[name] = off / size
raise SystemExit(0 if min(share.values()) > 0.1 and share["aVR"] > 1 else 1)
EOF
