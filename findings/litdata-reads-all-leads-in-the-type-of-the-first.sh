#!/usr/bin/env bash
# litdata 0.2.76 on torch 2.13.0: arrays of one dimension are all read in the type of the first that was written.
#
# optimize() stores an array of two or more dimensions with its type and shape, but one of a single dimension as bare
# bytes: the type is noted once for the set, from the first item that a worker writes. An array of another type is
# neither refused nor converted; its bytes come back as other numbers, and as another count of them. One would expect
# each array back as it was given, as those of two dimensions are. Met where single leads are stored as recorded
# (int16) among others that resampling has made float32.
#
# Seen on 2026-11-29: two records, [0 1 2 3] as int16 and then [0 .5 1 1.5] as float32
#   one dimension    second read as int16 (8,): [0, 0, 0, 16128, 0, 16256, 0, 16320]
#   two dimensions   second read as float32 (1, 4): [0.0, 0.5, 1.0, 1.5]
# Exits 0 while this is so, 1 when it is not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0
"$folder/venv/bin/pip" install -q litdata==0.2.76
cd "$folder"
cat > store.py <<'EOF'
import functools

import litdata
import numpy as np

LEADS = [np.arange(4, dtype=np.int16), np.arange(4, dtype=np.float32) / 2]


def record(number, *, shape):
    return {"key": number, "lead": LEADS[number].reshape(shape)}


if __name__ == "__main__":
    read = {}
    for name, shape in {"one dimension": (4,), "two dimensions": (1, 4)}.items():
        out = name.replace(" ", "-")
        make = functools.partial(record, shape=shape)
        litdata.optimize(fn=make, inputs=[0, 1], output_dir=out, chunk_bytes="1MB", num_workers=1, verbose=False)
        read[name] = {item["key"]: item["lead"] for item in litdata.StreamingDataset(out)}[1]
        print(f"{name:16} second read as {read[name].dtype} {read[name].shape}: {read[name].ravel().tolist()}")
    changed = read["one dimension"].dtype == np.int16 and read["one dimension"].size == 8
    kept = np.array_equal(read["two dimensions"].ravel(), LEADS[1])
    raise SystemExit(0 if changed and kept else 1)
EOF
"$folder/venv/bin/python" store.py
