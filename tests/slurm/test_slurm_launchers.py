"""The trainer under other launchers: the command lines of docs/slurm.md, and the same losses from each."""

import sys
from pathlib import Path

import pytest

from lamae.base.rowfile import read_rows
from tests.slurm.minicluster import MiniCluster
from tests.slurm.runs import TRAINING

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]

STEPS = 3
BIN = Path(sys.executable).parent

# Each runs two ranks; TRAIN stands for `CONFIG key=value …`.
LAUNCHERS = {
    "torchrun": "torchrun --nproc-per-node 2 --master-addr 127.0.0.1 --master-port 29511 -m lamae train TRAIN",
    "deepspeed": "deepspeed --num_accelerators 2 --master_addr 127.0.0.1 --no_local_rank --module lamae train TRAIN",
    "srun": (
        "salloc --quiet --nodes=2 --ntasks-per-node=1 --mem=4G bash -c '"
        'export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -1) MASTER_PORT=29512'
        " GLOO_SOCKET_IFNAME=eth0;"
        " srun python -m lamae train TRAIN'"
    ),
    # This launcher of DeepSpeed takes a script, no module, and leaves MASTER_ADDR and MASTER_PORT to us.
    "deepspeed-slurm": (
        "salloc --quiet --nodes=2 --ntasks-per-node=1 --mem=4G bash -c '"
        'scontrol show hostnames "$SLURM_JOB_NODELIST" | sed "s/$/ slots=1/" > OUT/hostfile;'
        ' export MASTER_ADDR=$(head -1 OUT/hostfile | cut -d" " -f1) MASTER_PORT=29513 GLOO_SOCKET_IFNAME=eth0;'
        " deepspeed --hostfile OUT/hostfile --launcher slurm --no_ssh_check --master_addr $MASTER_ADDR"
        " --no_local_rank $(which lamae) train TRAIN'"
    ),
}


def test_every_launcher_gives_the_same_run(slurm: MiniCluster, shards: Path, tmp_path: Path):
    curves = {}
    for name, command in LAUNCHERS.items():
        run_dir = tmp_path / name
        training = " ".join([*TRAINING, f"train.stop_at={STEPS}", f"run.dir={run_dir}", f"data.path={shards}"])
        line = command.replace("TRAIN", training).replace("OUT", str(tmp_path))
        slurm.run(["bash", "-c", line], env={"PATH": f"{BIN}:/usr/sbin:/usr/bin:/bin", "OMP_NUM_THREADS": "1"})
        curves[name] = [(row["step"], row["samples"], row["loss"]) for row in read_rows(run_dir / "metrics.jsonl")]
    assert len(curves["torchrun"]) == STEPS
    assert curves == dict.fromkeys(LAUNCHERS, curves["torchrun"])
    slurm.wait_idle()
