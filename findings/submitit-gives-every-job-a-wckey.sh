#!/usr/bin/env bash
# submitit 1.5.4: every batch script asks for the workload characterisation key "submitit", which nobody set.
#
# A WCKey is what a job is accounted under beside its account. Where Slurm checks them (AccountingStorageEnforce=wckeys)
# sbatch refuses a job under a key that was not granted to the user, so that on such a cluster the same script is
# refused from submitit and accepted by hand. Passing wckey=None leaves the line out.
#
# Seen on 2026-11-29, the script of a job for which nothing was set
#   #SBATCH --wckey=submitit
# Exits 0 while this is so, 1 when it is not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q submitit==1.5.4
"$folder/venv/bin/python" - "$folder" <<'EOF'
import sys

from submitit.slurm.slurm import _make_sbatch_string

lines = _make_sbatch_string(command="true", folder=sys.argv[1]).splitlines()
found = [line for line in lines if "wckey" in line]
print(*found)
without = _make_sbatch_string(command="true", folder=sys.argv[1], wckey=None)
raise SystemExit(found != ["#SBATCH --wckey=submitit"] or "wckey" in without)
EOF
