"""The tar writer: whole or not there, whatever the system takes at a time."""

import hashlib
import os
import tarfile

import pytest
from blake3 import blake3

from lamae.sharding.tar import TarWriter, is_whole, member

CONTENTS = {"a.npy": b"x" * 1300, "b.json": b"{}", "c.npy": bytes(range(256)) * 9}


def write(path, *, per_flush=2):
    with TarWriter(path) as tar:
        for number, (name, content) in enumerate(CONTENTS.items()):
            tar.write(*member(name, content))
            if number % per_flush == per_flush - 1:
                tar.flush()
        return tar.close()


def test_the_hash_is_the_files_and_tar_reads_it(tmp_path):
    assert write(tmp_path / "a.tar") == blake3((tmp_path / "a.tar").read_bytes()).hexdigest()
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert {name: tar.extractfile(name).read() for name in tar.getnames()} == CONTENTS


def test_writes_that_take_a_part_only_are_gone_on_with(tmp_path, monkeypatch):
    write(tmp_path / "whole.tar")
    writev, single = os.writev, os.write
    monkeypatch.setattr(os, "writev", lambda descriptor, pieces: writev(descriptor, [pieces[0][:100]]))
    monkeypatch.setattr(os, "write", lambda descriptor, data: single(descriptor, data[:700]))
    write(tmp_path / "parts.tar")
    assert (tmp_path / "parts.tar").read_bytes() == (tmp_path / "whole.tar").read_bytes()


def test_nothing_is_left_of_a_tar_that_failed(tmp_path, monkeypatch):
    def full(descriptor, pieces):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "writev", full)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path / "a.tar")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("digest", ["blake3", "sha256"])
def test_a_tar_is_compared_by_the_hash_that_its_set_has(tmp_path, digest):
    entry = {"blake3": write(tmp_path / "a.tar")}
    content = (tmp_path / "a.tar").read_bytes()
    if digest == "sha256":  # of format version 1
        entry = {"sha256": hashlib.sha256(content).hexdigest()}
    assert is_whole(tmp_path / "a.tar", entry)
    (tmp_path / "a.tar").write_bytes(content[:-1] + b"x")
    assert not is_whole(tmp_path / "a.tar", entry)
