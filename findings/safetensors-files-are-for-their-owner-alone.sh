#!/usr/bin/env bash
# safetensors 0.8.0: save_file leaves a file that only its owner may read, whatever the umask.
#
# It writes a private temporary file (mode 600, as such files have) and renames it; the mode stays, over a file that was
# there with another one, too. Files of the same program made by open(), and those of older versions of save_file (0.4.5),
# have the mode that the umask gives. On a cluster a colleague, or a service under another name, can then read every file
# of a checkpoint but the weights. save() with write_bytes() has the usual mode.
#
# Seen on 2026-11-29 with umask 022:
#   0.4.5: save_file 644, over a file of 664: 664; save() and write_bytes() 644
#   0.8.0: save_file 600, over a file of 664: 600; save() and write_bytes() 644
# Exits 0 while this is so, 1 when it is not.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
cat > "$folder/modes.py" <<'EOF'
import os
from importlib.metadata import version
from pathlib import Path

import numpy as np
from safetensors.numpy import save, save_file

os.umask(0o022)
tensors = {"x": np.zeros(3, dtype=np.float32)}
new, there, written = (Path(name) for name in ("new", "there", "written"))
there.touch()
there.chmod(0o664)
save_file(tensors, new)
save_file(tensors, there)
written.write_bytes(save(tensors))
new, there, written = (oct(path.stat().st_mode)[-3:] for path in (new, there, written))
print(f"{version('safetensors')}: save_file {new}, over a file of 664: {there}; save() and write_bytes() {written}")
EOF
cd "$folder"
for number in 0.4.5 0.8.0; do
  "$folder/venv/bin/pip" install -q numpy "safetensors==$number"
  rm -f new there written
  "$folder/venv/bin/python" modes.py | tee -a found
done
diff - found <<'EOF'
0.4.5: save_file 644, over a file of 664: 664; save() and write_bytes() 644
0.8.0: save_file 600, over a file of 664: 600; save() and write_bytes() 644
EOF
