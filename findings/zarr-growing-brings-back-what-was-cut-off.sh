#!/usr/bin/env bash
# zarr 3.1.6, h5py 3.16.0: an array that is made shorter and then longer again holds old values in zarr, none in HDF5.
#
# resize() to fewer rows deletes the chunks that lie wholly beyond the end. The chunk that the end falls into is left as
# it is, so that growing the array shows the rest of its old rows again, where new rows should hold the fill value and
# those after that chunk do. One would expect what was cut off to be gone, as in HDF5, which clears the rest of its last
# chunk. Met where rows are written in batches after a kill: cut the store to what is known to be whole, grow it to the
# full length, and take rows that hold the fill value for those still to be done.
#
# Seen on 2026-11-29: the numbers 1 to 10 in chunks of 4, fill value 0, cut to 5 rows, then grown to 10
#   zarr: [1, 2, 3, 4, 5, 6, 7, 8, 0, 0]
#   HDF5: [1, 2, 3, 4, 5, 0, 0, 0, 0, 0]
# Exits 0 while this is so, 1 when it is not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q zarr==3.1.6 h5py==3.16.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'EOF'
import h5py
import numpy as np
import zarr

values = np.arange(1, 11, dtype="f4")
kinds = {
    "zarr": zarr.create_array(store="rows.zarr", shape=10, chunks=4, dtype="f4", fill_value=0),
    "HDF5": h5py.File("rows.h5", "w").create_dataset(
        "rows", shape=10, maxshape=(None,), chunks=(4,), dtype="f4", fillvalue=0
    ),
}
seen = {}
for name, array in kinds.items():
    array[:] = values
    array.resize((5,))
    array.resize((10,))
    seen[name] = array[:].astype(int).tolist()
    print(f"{name}: {seen[name]}")
raise SystemExit(0 if seen["zarr"][5:] == [6, 7, 8, 0, 0] and seen["HDF5"][5:] == [0] * 5 else 1)
EOF
