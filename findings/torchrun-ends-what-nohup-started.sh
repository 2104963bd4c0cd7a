#!/usr/bin/env bash
# torch 2.13.0, torchrun: a run that was started under nohup ends when its terminal closes.
#
# nohup starts a program with SIGHUP ignored, and whatever that program starts inherits this. torchrun's agent installs a
# handler for SIGHUP nevertheless (`--signals-to-handle`, by default SIGTERM,SIGINT,SIGHUP,SIGQUIT), so a hang-up raises
# SignalException in it; and because a handled signal is set back to its default by exec, its workers no longer ignore
# the hang-up either and die of it. The same worker without torchrun lives. `--signals-to-handle SIGTERM,SIGINT,SIGQUIT`
# below nohup lives too. One would take nohup to protect a training over night as it does everywhere else.
#
# Seen on 2026-11-29 (a worker that sleeps; SIGHUP to the process group, as a closed terminal sends it):
#   nohup python                                             alive after the hang-up
#   nohup torchrun                                           ended: SignalException: Process N got signal: 1
#   nohup torchrun --signals-to-handle SIGTERM,SIGINT,SIGQUIT  alive after the hang-up
# Exits 0 while this is so, 1 when it is not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0
cat > "$folder/worker.py" <<'EOF'
import pathlib
import sys
import time

pathlib.Path(sys.argv[1]).touch()
time.sleep(120)
EOF
"$folder/venv/bin/python" - "$folder" <<'EOF'
import os
import pathlib
import signal
import subprocess
import sys
import time

folder = pathlib.Path(sys.argv[1])
python, torchrun = folder / "venv/bin/python", folder / "venv/bin/torchrun"
started = folder / "started"


def after_a_hang_up(*command):
    started.unlink(missing_ok=True)
    with (folder / "log").open("w") as log:
        words = ["nohup", *command, folder / "worker.py", started]
        process = subprocess.Popen(words, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
    for _ in range(1200):
        if started.exists():
            break
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGHUP)
    try:
        process.wait(40)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return "alive after the hang-up"
    last = (folder / "log").read_text().strip().splitlines()[-1]
    return "ended: " + last.removeprefix("torch.distributed.elastic.multiprocessing.api.")


one = ["--nproc-per-node", "1", "--master-port", "29633"]
kept = ["--signals-to-handle", "SIGTERM,SIGINT,SIGQUIT"]
alone = after_a_hang_up(python)
below = after_a_hang_up(torchrun, *one)
told = after_a_hang_up(torchrun, *one, *kept)
print("nohup python                                             ", alone)
print("nohup torchrun                                           ", below)
print("nohup torchrun --signals-to-handle SIGTERM,SIGINT,SIGQUIT", told)
sys.exit(not (alone == told == "alive after the hang-up" and "got signal: 1" in below))
EOF
