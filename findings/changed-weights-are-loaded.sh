#!/usr/bin/env bash
# torch 2.13.0, safetensors 0.8.0: a weight whose byte has changed on disk is loaded as any other, by all three formats.
#
# torch.save writes a zip, whose every entry has a CRC-32; one would expect torch.load to hold what it reads against
# that, as every other zip reader does, and a format called safe to notice, too. None does: torch.load (weights_only or
# not), safetensors and torch.distributed.checkpoint give the changed number. Python's zipfile refuses the same file.
#
# Seen on 2026-11-29: 1,000 float32 saved, one byte of the 500th changed; numbers that differ after loading
#   torch.load 1   safetensors 1   torch.distributed.checkpoint 1   zipfile: Bad CRC-32 for file 'saved/data/0'
# Exits 0 while this is so, 1 when it is not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 safetensors==0.8.0 numpy
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'EOF'
import zipfile
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file

weights = torch.arange(1000, dtype=torch.float32) / 7


def change(path):
    content = bytearray(path.read_bytes())
    content[content.find(weights[500:502].numpy().tobytes()) + 3] ^= 0x40
    path.write_bytes(content)


torch.save({"w": weights}, "saved.pt")
save_file({"w": weights}, "saved.safetensors")
dcp.save({"w": weights}, checkpoint_id="saved")
for path in (Path("saved.pt"), Path("saved.safetensors"), *Path("saved").glob("*.distcp")):
    change(path)
through_dcp = {"w": torch.zeros(1000)}
dcp.load(through_dcp, checkpoint_id="saved")
loaded = {
    "torch.load": torch.load("saved.pt", weights_only=True)["w"],
    "safetensors": load_file("saved.safetensors")["w"],
    "torch.distributed.checkpoint": through_dcp["w"],
}
differ = {name: int((values != weights).sum()) for name, values in loaded.items()}
try:
    zipfile.ZipFile("saved.pt").read("saved/data/0")
    refused = "reads it"
except zipfile.BadZipFile as error:
    refused = str(error)
print(differ, "zipfile:", refused)
raise SystemExit(set(differ.values()) != {1} or "CRC-32" not in refused)
EOF
