#!/usr/bin/env bash
# webdataset 1.0.2 with torch 2.13.0: a deterministic shuffle gives the same order in every epoch.
#
# WebDataset(..., detshuffle=True, seed=S) is what a run takes that has to be repeatable: the order depends on the seed
# and on an epoch that the dataset counts itself, one further whenever it is iterated. Iterated directly the epochs
# differ. Under torch's DataLoader, and webdataset's own WebLoader, every epoch starts new workers with a copy of the
# dataset as it was made, whose count begins again: all epochs have the order of the first, of shards and of samples,
# without a warning. With persistent_workers=True they differ again.
#
# Seen on 2026-11-30: eight shards, one worker, first label of the first three shards in three epochs
#   directly:            [8, 16, 0] [0, 28, 24] [12, 16, 24]
#   DataLoader:          [8, 16, 0] [8, 16, 0] [8, 16, 0]
#   WebLoader:           [8, 16, 0] [8, 16, 0] [8, 16, 0]
#   persistent_workers:  [8, 16, 0] [0, 28, 24] [12, 16, 24]
# Exits 0 while this is so, 1 when it is not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q webdataset==1.0.2 torch==2.13.0 numpy==2.4.6
cd "$folder"
cat > repeats.py <<'EOF'
import warnings

import webdataset
from torch.utils.data import DataLoader

warnings.filterwarnings("ignore")


def dataset():
    shards = [f"{shard}.tar" for shard in range(8)]
    return webdataset.WebDataset(shards, shardshuffle=8, detshuffle=True, seed=1).decode().to_tuple("cls")


def epochs(loader):
    return [[int(label) for (label,) in loader][:12:4] for _ in range(3)]


if __name__ == "__main__":
    for shard in range(8):
        with webdataset.TarWriter(f"{shard}.tar") as writer:
            for number in range(4 * shard, 4 * shard + 4):
                writer.write({"__key__": str(number), "cls": number})
    found = {
        "directly": epochs(dataset()),
        "DataLoader": epochs(DataLoader(dataset(), batch_size=None, num_workers=1)),
        "WebLoader": epochs(webdataset.WebLoader(dataset(), batch_size=None, num_workers=1)),
        "persistent_workers": epochs(DataLoader(dataset(), batch_size=None, num_workers=1, persistent_workers=True)),
    }
    for name, orders in found.items():
        print(f"{name + ':':<20}", *orders)
    same = {name: orders[0] == orders[1] == orders[2] for name, orders in found.items()}
    wanted = {"directly": False, "DataLoader": True, "WebLoader": True, "persistent_workers": False}
    raise SystemExit(0 if same == wanted else 1)
EOF
OMP_NUM_THREADS=1 venv/bin/python repeats.py
