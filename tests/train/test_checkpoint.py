"""The checkpoint on disk: whole or not there, whatever happens to its writer or its bytes."""

import ctypes
import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lamae.base.errors import LamaeError
from lamae.base.files import file_sha256
from lamae.train.checkpoint import tensorfile
from lamae.train.checkpoint.format import (
    FORMAT_VERSION,
    CheckpointReader,
    list_checkpoints,
    manifest_digest,
    newest_whole,
    read_manifest,
    verify_checkpoint,
)
from lamae.train.checkpoint.saver import Snapshot, write_rank_file
from lamae.train.checkpoint.writing import clear_unfinished, prune_checkpoints, publish
from lamae.train.state import TrainState
from tests.runs import read_piece

KILLS = 48
CHUNK_BYTES = 1 << 18  # several in a file of these tests
START_S = 100  # on a busy machine the first writer takes long to import
NUMEL = 100_000


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorfile, "CHUNK_BYTES", CHUNK_BYTES)


def write(root: Path, step: int, *, keep: int = 0, keep_every: int = 0) -> Path:
    """A checkpoint whose one parameter holds its step everywhere."""
    folder = root / f".writing-step-{step:08d}-1"
    tensors = {f"{kind}/w/0": torch.full((NUMEL,), float(step)) for kind in ("master", "exp_avg", "exp_avg_sq")}
    entry = write_rank_file(folder, 0, Snapshot(tensors, {"w": [(0, NUMEL)]}))
    manifest = {
        "state": TrainState(step=step, samples_consumed=8 * step, applied_steps=step).to_dict(),
        "config": {"checkpoint": {"keep_every": keep_every}},
        "parameters": {"w": {"shape": [NUMEL], "fragments": [[entry["name"], 0, NUMEL]]}},
        "files": {entry["name"]: entry["file"]},
    }
    path = publish(folder, manifest, subjects=np.arange(3, dtype=np.uint64), root=root)
    prune_checkpoints(root, keep=keep, published=path)
    return path


def write_for_ever(root: Path, published: ctypes.c_int) -> None:
    tensorfile.CHUNK_BYTES = CHUNK_BYTES  # of this process
    clear_unfinished(root)
    while True:
        write(root, published.value + 1, keep=2)
        published.value += 1


def test_a_writer_killed_at_any_instant_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.train.test_checkpoint"])
    published = context.Value("i", 0, lock=False)  # a killed holder would keep a lock for ever
    instants = random.Random(0)
    seen = []
    hits = 0  # the next writer clears away what a killed one left
    for _ in range(KILLS):
        before = published.value
        writer = context.Process(target=write_for_ever, args=(tmp_path, published))
        writer.start()
        deadline = time.monotonic() + START_S
        while published.value == before and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(instants.uniform(0, 0.02))
        assert writer.pid is not None
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        seen.append(published.value)
        hits += any(tmp_path.glob(".writing-*"))
        path = newest_whole(tmp_path)
        assert path is not None
        reader = CheckpointReader(path)
        # Killed between the rename and the count, it may be one further.
        assert reader.state.step - published.value in (0, 1)
        published.value = reader.state.step
        assert (read_piece(reader, "master", "w", 0, NUMEL) == reader.state.step).all()
        assert len(list_checkpoints(tmp_path)) <= 3
    assert seen[-1] >= KILLS
    assert hits, "no kill hit a write; the test tells nothing"


@pytest.mark.parametrize("name", ["rank-00000.safetensors", "subjects.safetensors", "checkpoint.json"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_damage_is_found_named_and_passed_over(
    tmp_path: Path, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    good = write(tmp_path, 1)
    bad = write(tmp_path, 2)
    file = bad / name
    data = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    else:
        data[len(data) // 2] ^= 1
        file.write_bytes(data if damage == "flipped" else data[:-5])
    assert verify_checkpoint(good) == []
    assert any(name in problem for problem in verify_checkpoint(bad))
    with caplog.at_level("WARNING"):
        assert newest_whole(tmp_path) == good
    assert "step-00000002 is damaged and passed over" in caplog.text
    assert name in caplog.text


def test_a_damaged_checkpoint_is_replaced_when_its_step_comes_again(tmp_path: Path) -> None:
    write(tmp_path, 1)
    bad = write(tmp_path, 2)
    (bad / "checkpoint.json").write_text("{}")
    assert write(tmp_path, 2) == bad
    assert verify_checkpoint(bad) == []
    assert [info.step for info in list_checkpoints(tmp_path)] == [1, 2]


def test_a_newer_format_is_refused_and_not_passed_over(tmp_path: Path) -> None:
    write(tmp_path, 1)
    newer = write(tmp_path, 2) / "checkpoint.json"
    manifest = json.loads(newer.read_text()) | {"format_version": FORMAT_VERSION + 1}
    newer.write_text(json.dumps(manifest))
    with pytest.raises(LamaeError, match=r"checkpoint format 3 is newer than 2.*upgrade lamae or take another run.dir"):
        newest_whole(tmp_path)


def write_as_format_1(root: Path, step: int) -> Path:
    """A checkpoint as it was written before files were hashed in chunks."""
    path = root / f"step-{step:08d}"
    path.mkdir(parents=True)
    tensors = {f"{kind}/w/0": torch.full((NUMEL,), float(step)) for kind in ("master", "exp_avg", "exp_avg_sq")}
    save_file(tensors, path / "rank-00000.safetensors")
    save_file({"subjects": torch.arange(3).to(torch.uint64)}, path / "subjects.safetensors")
    files = {file.name: {"sha256": file_sha256(file), "bytes": file.stat().st_size} for file in path.iterdir()}
    manifest = {
        "state": TrainState(step=step, samples_consumed=8 * step, applied_steps=step).to_dict(),
        "parameters": {"w": {"shape": [NUMEL], "fragments": [["rank-00000.safetensors", 0, NUMEL]]}},
        "files": files,
        "format_version": 1,
    }
    manifest["digest"] = manifest_digest(manifest)
    (path / "checkpoint.json").write_text(json.dumps(manifest, indent=1))
    return path


@pytest.mark.parametrize("name", ["rank-00000.safetensors", "subjects.safetensors"])
def test_checkpoints_of_format_1_are_read_and_their_damage_is_found(tmp_path: Path, name: str) -> None:
    good, bad = write_as_format_1(tmp_path, 1), write_as_format_1(tmp_path, 2)
    data = bytearray((bad / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bad / name).write_bytes(data)
    assert verify_checkpoint(bad) == [f"{bad / name}: sha256 differs from what was written"]
    assert newest_whole(tmp_path) == good
    reader = CheckpointReader(good)
    assert reader.state.step == 1
    assert (read_piece(reader, "exp_avg", "w", 10, NUMEL - 10) == 1).all()
    assert reader.subjects.tolist() == [0, 1, 2]


def test_a_file_without_a_digest_counts_as_damaged(tmp_path: Path) -> None:
    path = write(tmp_path, 1)
    rewrite(path, lambda manifest: manifest["files"]["rank-00000.safetensors"].pop("blake3"))
    assert verify_checkpoint(path)


def test_pruning_keeps_the_newest_the_pinned_and_every_nth(tmp_path: Path) -> None:
    for step in range(1, 9):
        write(tmp_path, step, keep_every=4)
    (tmp_path / "step-00000002" / "pinned").touch()
    removed = prune_checkpoints(tmp_path, keep=2)
    assert [info.step for info in list_checkpoints(tmp_path)] == [2, 4, 7, 8]
    assert len(removed) == 4
    assert prune_checkpoints(tmp_path, keep=0) == []


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_pruning_counts_whole_checkpoints_alone(tmp_path: Path, damage: str) -> None:
    """Going on from 500 because 1000 is damaged, a run must not remove what it saves."""
    for step in (400, 500, 1000):
        write(tmp_path, step)
    file = tmp_path / "step-00001000" / "rank-00000.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data if damage == "flipped" else data[:-5])
    prune_checkpoints(tmp_path, keep=1)
    assert [info.step for info in list_checkpoints(tmp_path)] == [500, 1000]
    path = write(tmp_path, 600, keep=1)
    assert [info.step for info in list_checkpoints(tmp_path)] == [600, 1000]
    assert newest_whole(tmp_path) == path
    (path / "checkpoint.json").unlink()
    assert prune_checkpoints(tmp_path, keep=1) == []


def test_what_the_run_prunes_meanwhile_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in (1, 2, 3, 4):
        write(tmp_path, step)

    def read_too_late(path: Path) -> Any:
        if path.name == "step-00000001":
            shutil.rmtree(path)
        return read_manifest(path)

    def prune_the_oldest(root: Path) -> Any:
        infos = list_checkpoints(root)
        shutil.rmtree(infos[0].path)
        return infos

    with monkeypatch.context() as patch:
        patch.setattr("lamae.train.checkpoint.format.read_manifest", read_too_late)
        assert [info.step for info in list_checkpoints(tmp_path)] == [2, 3, 4]
    monkeypatch.setattr("lamae.train.checkpoint.writing.list_checkpoints", prune_the_oldest)
    assert prune_checkpoints(tmp_path, keep=1) == [tmp_path / "step-00000003"]


def test_the_command_names_the_broken_and_not_those_pruned_meanwhile(
    lamae: Callable[..., tuple[int, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "run" / "checkpoints"
    for step in (1, 2, 3):
        write(root, step)
    assert lamae("checkpoints", "run", "--verify")[0] == 0

    def verify_too_late(path: Path) -> list[str]:
        if path.name == "step-00000001":
            shutil.rmtree(path)
        return verify_checkpoint(path)

    with monkeypatch.context() as patch:
        patch.setattr("lamae.train.checkpoint.format.verify_checkpoint", verify_too_late)
        code, output, _ = lamae("checkpoints", "run", "--verify")
    assert (code, output.count("removed meanwhile"), output.count("whole")) == (0, 1, 2)
    (root / "step-00000003" / "checkpoint.json").write_text("{}")
    code, output, errors = lamae("checkpoints", "run")
    assert code == 1
    assert "do not match their own digest" in " ".join(output.split())
    assert "1 of 2 checkpoints are broken" in errors


def test_listing_tells_steps_and_samples(tmp_path: Path) -> None:
    write(tmp_path, 5)
    (tmp_path / "step-notanumber").mkdir()
    (info,) = list_checkpoints(tmp_path)
    assert (info.step, info.samples_consumed, info.pinned) == (5, 40, False)
    assert list_checkpoints(tmp_path / "nowhere") == []


def test_reading_across_fragments_gives_any_stretch(tmp_path: Path) -> None:
    folder = tmp_path / ".writing-x"
    values = torch.arange(10, dtype=torch.float32)
    pieces = {0: [(0, 4), (7, 3)], 1: [(4, 3)]}
    entries = []
    for rank, held in pieces.items():
        tensors = {f"master/w/{start}": values[start : start + numel].clone() for start, numel in held}
        entries.append(write_rank_file(folder, rank, Snapshot(tensors, {"w": held})))
    fragments = [[entry["name"], start, numel] for entry in entries for start, numel in entry["fragments"]["w"]]
    manifest = {
        "state": TrainState(step=1).to_dict(),
        "parameters": {"w": {"shape": [2, 5], "fragments": fragments}},
        "files": {entry["name"]: entry["file"] for entry in entries},
    }
    reader = CheckpointReader(publish(folder, manifest, subjects=np.zeros(0, np.uint64), root=tmp_path))
    for start in range(10):
        for stop in range(start, 11):
            assert torch.equal(read_piece(reader, "master", "w", start, stop - start), values[start:stop])
    reader.manifest["parameters"]["w"]["fragments"].pop()
    with pytest.raises(LamaeError, match=r"3 of 10 elements of master w are missing"):
        read_piece(reader, "master", "w", 0, 10)


def rewrite(path: Path, change) -> None:
    """Edit a checkpoint's manifest as somebody would who also renews its digest."""
    manifest = json.loads((path / "checkpoint.json").read_text())
    change(manifest)
    manifest["digest"] = manifest_digest(manifest)
    (path / "checkpoint.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("name", ["/etc/passwd", "../step-00000001/latest", "a/b", "..", "", "a\nb", "\x1b[31m"])
def test_a_checkpoint_from_elsewhere_names_no_file_but_its_own(tmp_path: Path, name: str) -> None:
    write(tmp_path, 1)
    path = write(tmp_path, 2)
    entry = {"sha256": file_sha256(tmp_path / "latest"), "bytes": 1}
    rewrite(path, lambda manifest: manifest["files"].update({name: entry}))
    (problem,) = verify_checkpoint(path)
    assert f"names {name!r}, which is no file beside it" in problem
    rewrite(path, lambda manifest: manifest["files"].pop(name))
    rewrite(path, lambda manifest: manifest["parameters"]["w"].update(fragments=[[name, 0, NUMEL]]))
    with pytest.raises(LamaeError, match="is in none of its files"):
        CheckpointReader(path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("files", ["a"], r"files: expected a mapping of names to a mapping of keys, not \['a'\]"),
        ("files", {"rank-00000.safetensors": {"sha256": "0"}}, r"files\.rank-00000\.safetensors\.bytes: missing"),
        ("state", None, r"state: expected a mapping of keys, not None"),
        ("state", {"step": "2"}, r"state\.step: expected a whole number, not '2'"),
        ("parameters", {"w": {"shape": 5, "fragments": []}}, r"parameters\.w\.shape: expected a list"),
    ],
)
def test_a_manifest_of_another_shape_is_one_line(tmp_path: Path, key: str, value: object, message: str) -> None:
    path = write(tmp_path, 2)
    rewrite(path, lambda manifest: manifest.update({key: value}))
    with pytest.raises(LamaeError, match=message):
        read_manifest(path)
    assert newest_whole(tmp_path) is None


def test_others_may_read_what_they_may_read_of_any_new_file(tmp_path: Path) -> None:
    path = write(tmp_path, 1)
    (tmp_path / "any").touch()
    modes = {file.stat().st_mode for file in [*path.iterdir(), tmp_path / "latest", tmp_path / "any"]}
    assert len(modes) == 1


def test_manifest_of_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LamaeError, match=r"no checkpoint.json, so this is no checkpoint"):
        read_manifest(tmp_path)
