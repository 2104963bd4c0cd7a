"""Safetensors files of our own writing and reading, held to the safetensors package."""

import errno
import os
from pathlib import Path

import pytest
import torch
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from lamae.base.errors import LamaeError
from lamae.train.checkpoint import tensorfile
from lamae.train.checkpoint.tensorfile import TensorFile, chunk_digest, save_tensors

DTYPES = [torch.float32, torch.bfloat16, torch.float64, torch.int64, torch.uint64, torch.uint8, torch.bool]
tensor_lists = st.lists(st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 9), max_size=3)), max_size=9)


@settings(deadline=None, max_examples=60)
@given(kinds=tensor_lists, chunk_bytes=st.integers(1, 3000), piece_bytes=st.integers(1, 3000))
def test_safetensors_reads_what_was_written_and_every_chunk_has_its_digest(
    tmp_path_factory: pytest.TempPathFactory, kinds: list, chunk_bytes: int, piece_bytes: int
) -> None:
    path = tmp_path_factory.mktemp("file") / "x.safetensors"
    tensors = {f"t{i}": torch.randint(0, 2, shape).to(dtype) for i, (dtype, shape) in enumerate(kinds)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensorfile, "CHUNK_BYTES", chunk_bytes)
        patch.setattr(tensorfile, "_PIECE_BYTES", piece_bytes)
        entry = save_tensors(tensors, path)
        data = path.read_bytes()
        chunks = [data[begin : begin + chunk_bytes] for begin in range(0, len(data), chunk_bytes)]
        assert entry == {"bytes": len(data), "blake3": [blake3(chunk).hexdigest() for chunk in chunks]}
        assert entry["blake3"] == [chunk_digest(path, begin) for begin in range(0, len(data), chunk_bytes)]
    found = load_file(path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def test_tensors_with_gaps_and_empty_ones_of_numpy_are_written(tmp_path: Path) -> None:
    columns = torch.arange(12.0).view(3, 4).T
    empty = torch.from_numpy(columns.numpy()[:0].copy())
    save_tensors({"columns": columns, "empty": empty, "scalar": torch.tensor(5)}, tmp_path / "x")
    assert torch.equal(load_file(tmp_path / "x")["columns"], columns)


def test_a_stretch_of_a_file_of_safetensors_is_read_in_place(tmp_path: Path) -> None:
    values = torch.arange(100.0)
    save_file({"a": values, "b": values.long()}, tmp_path / "x")
    file, target = TensorFile(tmp_path / "x"), torch.zeros(10)
    file.read_into(target[2:9], "a", 93)
    assert torch.equal(target, torch.cat([torch.zeros(2), values[93:], torch.zeros(1)]))
    for name, start in (("a", 94), ("a", -1), ("b", 0), ("c", 0)):
        with pytest.raises(LamaeError, match=rf"{name} has no 7 float32 values from {start} on"):
            file.read_into(target[2:9], name, start)


def with_header(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + bytes(8)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 9,
        b"\x02" + bytes(7) + b"[]",
        b"\x02" + bytes(7) + b"{}"[:1],
        with_header(b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 9]}}'),
        with_header(b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8.0]}}'),
        with_header(b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}'),
    ],
)
def test_what_is_no_safetensors_file_is_one_line(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(LamaeError, match=r"x: unreadable \("):
        TensorFile(tmp_path / "x")


def test_a_write_cut_short_goes_on_and_a_failed_sync_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    tensors = {"a": torch.arange(1000.0)}
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[: len(data) // 2 + 1], at))
    save_tensors(tensors, tmp_path / "x")
    assert torch.equal(load_file(tmp_path / "x")["a"], tensors["a"])

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output error"):
        save_tensors(tensors, tmp_path / "x")
