#!/usr/bin/env bash
# torch 2.13.0, gloo: reduce_scatter_tensor sends as many bytes as an all_reduce of the same tensor.
#
# A reduce-scatter is the first half of a ring all-reduce, and what ZeRO (Rajbhandari et al. 2020) and FSDP count on: each
# of n ranks sends (n - 1) / n of the tensor, half of what an all-reduce sends. Gloo's sends the whole: an all-reduce, of
# which each rank keeps its part. So on CPUs partitioned gradients save memory and no traffic, and a byte count from the
# paper is half of what the network carries. all_gather_into_tensor sends what a ring does.
#
# Seen on 2026-11-29 (four ranks, loopback bytes of all ranks over the tensor's; a ring has 6, 3 and 3):
#   all_reduce 6.0   reduce_scatter_tensor 6.0   all_gather_into_tensor 3.0
# Exits 0 while this is so, 1 when it is not. Counts the loopback's bytes: run it where little else uses that.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy
cat > "$folder/rank.py" <<'EOF'
import sys
import time

import torch
import torch.distributed as dist

NUMEL = 4_000_000


def loopback_bytes() -> int:
    with open("/proc/net/dev") as file:
        line = next(line for line in file if line.strip().startswith("lo:"))
    return int(line.split(":")[1].split()[8])


torch.set_num_threads(1)
dist.init_process_group("gloo")
whole, part = torch.ones(NUMEL), torch.ones(NUMEL // dist.get_world_size())
operations = {
    "all_reduce": lambda: dist.all_reduce(whole),
    "reduce_scatter_tensor": lambda: dist.reduce_scatter_tensor(part, whole),
    "all_gather_into_tensor": lambda: dist.all_gather_into_tensor(whole, part),
}
sent = {}
for name, operation in operations.items():
    operation()
    dist.barrier()
    time.sleep(0.3)
    before = loopback_bytes()
    operation()
    dist.barrier()
    time.sleep(0.3)
    sent[name] = (loopback_bytes() - before) / whole.nbytes
    dist.barrier()
if dist.get_rank() == 0:
    print("  ".join(f"{name} {times:.1f}" for name, times in sent.items()))
    same = 0.9 < sent["reduce_scatter_tensor"] / sent["all_reduce"] < 1.1
    ring = 0.4 < sent["all_gather_into_tensor"] / sent["all_reduce"] < 0.6
    sys.exit(0 if same and ring else 1)
EOF
cd "$folder"
OMP_NUM_THREADS=1 GLOO_SOCKET_IFNAME=lo "$folder/venv/bin/python" -m torch.distributed.run --nproc-per-node=4 \
  --master-addr=127.0.0.1 --master-port=29654 rank.py
