#!/usr/bin/env bash
# DeepSpeed 0.19.8 on torch 2.13.0: the timeout given to init_distributed does not hold for the gradients' reduction.
#
# deepspeed.init_distributed(timeout=...) hands it to torch's default process group. ZeRO reduces gradients in a clone of
# that group, which DeepSpeed makes by torch.distributed.new_group without a timeout; and new_group takes torch's default
# (30 minutes for gloo, 10 for NCCL), not the default group's. So a short timeout, set to notice a lost rank early, does
# nothing where ranks wait for each other most, and one that was raised for a slow step still ends it after 10 minutes
# under NCCL. One would take it to hold for DeepSpeed's own collectives above all.
#
# Seen on 2026-11-29 (two gloo ranks on a CPU, timeout=5 s, rank 1 comes 9 s late):
#   a step of DeepSpeed      waited for the late rank
#   an all_reduce of torch   gave up
# Exits 0 while this is so, 1 when it is not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 setuptools wheel
"$folder/venv/bin/pip" install -q deepspeed==0.19.8
cat > "$folder/rank.py" <<'EOF'
import os
import sys
import time
from datetime import timedelta

import deepspeed
import torch
import torch.distributed as dist

deepspeed.comm.torch.build_shm_op = lambda: None  # it would be compiled, for nothing here
deepspeed.init_distributed("gloo", timeout=timedelta(seconds=5), verbose=False)
model = torch.nn.Linear(8, 8)
engine, *_ = deepspeed.initialize(
    model=model,
    optimizer=torch.optim.AdamW(model.parameters()),
    config={"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 1}, "zero_allow_untested_optimizer": True},
)


def step():
    engine.backward(engine(torch.ones(1, 8)).sum())
    engine.step()


def late(action):
    dist.barrier()
    if dist.get_rank() == 1:
        time.sleep(9)
    try:
        action()
        return "waited for the late rank"
    except RuntimeError as error:
        return "gave up" if "imed out" in str(error) else str(error)


step()
found = [late(step), late(lambda: dist.all_reduce(torch.ones(3)))]
if dist.get_rank() == 0:
    print("a step of DeepSpeed     ", found[0])
    print("an all_reduce of torch  ", found[1], flush=True)
    os._exit(found != ["waited for the late rank", "gave up"])
os._exit(0)
EOF
export WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=29561 DS_ACCELERATOR=cpu OMP_NUM_THREADS=1 TORCH_EXTENSIONS_DIR="$folder/extensions"
for rank in 0 1; do
  RANK=$rank LOCAL_RANK=$rank "$folder/venv/bin/python" -W ignore "$folder/rank.py" > "$folder/log-$rank" 2>&1 &
  pids[rank]=$!
done
code=0
wait "${pids[0]}" || code=1
wait "${pids[1]}" || true
grep -E "^a" "$folder/log-0" || tail -n 5 "$folder/log-0"
exit $code
