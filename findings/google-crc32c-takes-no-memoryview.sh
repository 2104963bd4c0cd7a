#!/usr/bin/env bash
# google-crc32c 1.9.0: value() and extend() refuse a memoryview, and hold the interpreter's lock while they compute.
#
# One would expect any object of the buffer protocol, as hashlib and zlib take it: slices of a large buffer are passed
# as memoryviews in order not to copy them. A memoryview is refused with "must be read-only bytes-like object, not
# memoryview", a read-only one too, while an array of numpy over the same memory, made read-only, is taken. And where
# hashlib lets other threads run during a large buffer, the checksum of 64 MiB stops all of them: threads that read and
# check beside each other check one after the other.
#
# Seen on 2026-11-29: 16 bytes as bytes, read-only memoryview, read-only numpy array
#   bytes taken, memoryview TypeError, numpy taken
# Exits 0 while this is so, 1 when it is not. (The lock is not measured here: it needs idle cores.)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q google-crc32c==1.9.0 numpy
"$folder/venv/bin/python" - <<'EOF'
import google_crc32c
import numpy as np

content = bytes(range(16))
array = np.frombuffer(content, np.uint8)


def taken(buffer):
    try:
        return google_crc32c.value(buffer) == google_crc32c.value(content)
    except TypeError as error:
        return f"TypeError: {error}"


found = [taken(content), taken(memoryview(content).toreadonly()), taken(array)]
print(*found, sep="\n")
raise SystemExit(0 if found[0] is True and "not memoryview" in str(found[1]) and found[2] is True else 1)
EOF
