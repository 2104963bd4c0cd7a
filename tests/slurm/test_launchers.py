"""The trainer under other launchers: the command lines of docs/slurm.md, and the same losses from each."""

import sys
from pathlib import Path

import pytest
from minicluster import MiniCluster
from slurm_runs import TRAINING

from lamae.train.monitor import read_metrics

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]

STEPS = 3
BIN = Path(sys.executable).parent

# Each runs two ranks; TRAIN stands for `CONFIG key=value …`.
LAUNCHERS = {
    "torchrun": "torchrun --nproc-per-node 2 --master-addr 127.0.0.1 --master-port 29511 -m lamae train TRAIN",
    "deepspeed": "deepspeed --num_accelerators 2 --master_addr 127.0.0.1 --no_local_rank --module lamae train TRAIN",
    "srun": (
        "salloc --quiet --nodes=2 --ntasks-per-node=1 --mem=4G bash -c '"
        'export MASTER_ADDR=$(scontrol getaddrs $(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -1)'
        ' | cut -d" " -f2 | cut -d: -f1) MASTER_PORT=29512 GLOO_SOCKET_IFNAME=eth0;'
        " srun python -m lamae train TRAIN'"
    ),
    "deepspeed-slurm": (
        "salloc --quiet --nodes=2 --ntasks-per-node=1 --mem=4G bash -c '"
        'scontrol show hostnames "$SLURM_JOB_NODELIST" | sed "s/$/ slots=1/" > OUT/hostfile;'
        " export GLOO_SOCKET_IFNAME=eth0;"
        ' deepspeed --hostfile OUT/hostfile --launcher slurm --master_addr $(head -1 OUT/hostfile | cut -d" " -f1)'
        " --master_port 29513 --no_local_rank --module lamae train TRAIN'"
    ),
}


def test_every_launcher_gives_the_same_run(slurm: MiniCluster, shards: Path, tmp_path: Path):
    curves = {}
    for name, command in LAUNCHERS.items():
        run_dir = tmp_path / name
        training = " ".join([*TRAINING, f"train.stop_at={STEPS}", f"run.dir={run_dir}", f"data.path={shards}"])
        line = command.replace("TRAIN", training).replace("OUT", str(tmp_path))
        slurm.run(["bash", "-c", line], env={"PATH": f"{BIN}:/usr/sbin:/usr/bin:/bin", "OMP_NUM_THREADS": "1"})
        curves[name] = [(row["step"], row["samples"], row["loss"]) for row in read_metrics(run_dir / "metrics.jsonl")]
    assert len(curves["torchrun"]) == STEPS
    assert curves == dict.fromkeys(LAUNCHERS, curves["torchrun"])
    slurm.wait_idle()
