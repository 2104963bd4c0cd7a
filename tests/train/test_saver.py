"""Saving while training goes on, and when the disk is full."""

import json
import logging
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from lamae.base.errors import EXIT_DONE, LamaeError
from lamae.base.files import file_sha256, write_text
from lamae.evaluate.export.export import export
from lamae.evaluate.pretrained import read_export
from lamae.train.checkpoint.format import list_checkpoints, load_model, verify_checkpoint
from lamae.train.checkpoint.writing import publish
from lamae.train.inputs import Inputs
from lamae.train.loop import train
from lamae.train.runconfig import RunConfig
from tests.runs import assert_same_state, losses

MakeConfig = Callable[..., RunConfig]
TOO_SMALL_BYTES = 20_000
ONE_MICRO_BATCH = "train.micro_batch_size=8"


@contextmanager
def file_size_limit(num_bytes: int) -> Iterator[None]:
    """Writing beyond ``num_bytes`` in one file fails, as on a full disk, for this process and for a while."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


@contextmanager
def disk_full_during(steps: range, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No file can grow beyond a few kilobytes during some of the steps (1-based, one micro-batch each)."""
    prepare, step, full = Inputs.prepare, 0, ExitStack()

    def count_and_prepare(self: Inputs, batch: Any, **options: Any) -> Any:
        nonlocal step
        step += 1
        if step == steps.start:
            full.enter_context(file_size_limit(TOO_SMALL_BYTES))
        if step == steps.stop:
            full.close()
        return prepare(self, batch, **options)

    with full, monkeypatch.context() as patch:
        patch.setattr(Inputs, "prepare", count_and_prepare)
        yield


def test_a_full_disk_costs_a_warning_and_the_save_is_tried_again(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = make_config("run", ONE_MICRO_BATCH, "checkpoint.every=3", "checkpoint.background=false")
    with disk_full_during(range(2, 4), monkeypatch), caplog.at_level(logging.WARNING):
        assert train(config) == EXIT_DONE
    assert "checkpoint of step 3 not written: rank 0: " in caplog.text
    checkpoints = list_checkpoints(tmp_path / "run" / "checkpoints")
    assert [info.step for info in checkpoints] == [4, 6, 8]
    assert all(verify_checkpoint(info.path) == [] for info in checkpoints)
    assert not list((tmp_path / "run" / "checkpoints").glob(".writing-*"))
    train(make_config("calm", ONE_MICRO_BATCH))
    assert losses(tmp_path / "run") == losses(tmp_path / "calm")


def test_a_run_that_cannot_leave_a_checkpoint_says_so_and_keeps_the_one_before(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(make_config("run", "train.stop_at=2"))
    cannot = r"no checkpoint of step 4 could be written"
    with disk_full_during(range(1, 9), monkeypatch), pytest.raises(LamaeError, match=cannot):
        train(make_config("run", ONE_MICRO_BATCH, "train.stop_at=4"))
    assert [info.step for info in list_checkpoints(tmp_path / "run" / "checkpoints")] == [2]
    assert train(make_config("run")) == EXIT_DONE


@pytest.mark.parametrize(
    "failing", ["lamae.train.checkpoint.saver.prune_checkpoints", "lamae.train.checkpoint.writing.write_text"]
)
def test_what_fails_after_the_rename_does_not_undo_the_checkpoint(
    make_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    failing: str,
) -> None:
    root = tmp_path / "run" / "checkpoints"

    def fail_once_published(path: Path, *arguments: Any, **options: Any) -> None:
        if path in (root, root / "latest"):
            raise OSError(5, "Input/output error")
        write_text(path, *arguments, **options)

    config = make_config("run", "train.steps=4", "checkpoint.every=2", "checkpoint.background=false")
    monkeypatch.setattr(failing, fail_once_published)
    with caplog.at_level(logging.WARNING):
        assert train(config) == EXIT_DONE
    assert [info.step for info in list_checkpoints(root) if not verify_checkpoint(info.path)] == [2, 4]
    assert "Input/output error" in caplog.text
    assert "not written" not in caplog.text


def test_a_whole_checkpoint_is_not_renamed_away_when_its_step_is_saved_again(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    train(make_config("run", "train.steps=2"))
    root = tmp_path / "run" / "checkpoints"
    (whole,) = list_checkpoints(root)
    again = root / ".writing-again"
    again.mkdir()
    before = whole.path.stat().st_ino
    publish(again, {"state": {"step": 2}, "files": {}}, subjects=np.zeros(0, np.uint64), root=root)
    assert whole.path.stat().st_ino == before
    assert verify_checkpoint(whole.path) == []
    assert not again.exists()


@pytest.mark.parametrize("background", ["true", "false"])
def test_background_and_blocking_saves_hold_the_same_state(
    make_config: MakeConfig, tmp_path: Path, background: str
) -> None:
    """A snapshot must not see the steps that follow it: the run resumes from step 4 while 5 to 8 went on."""
    overrides = ("checkpoint.every=4", f"checkpoint.background={background}")
    train(make_config("run", *overrides))
    first, last = list_checkpoints(tmp_path / "run" / "checkpoints")
    assert (first.step, last.step) == (4, 8)
    manifest = json.loads((first.path / "checkpoint.json").read_text())
    assert manifest["state"]["step"] == 4
    (last.path / "checkpoint.json").unlink()
    whole = losses(tmp_path / "run")
    train(make_config("run", *overrides))
    assert losses(tmp_path / "run") == whole
    train(make_config("other"))
    assert_same_state(tmp_path / "run", tmp_path / "other")


def test_a_kill_takes_no_step_out_of_the_rows(make_config: MakeConfig, tmp_path: Path) -> None:
    overrides = ("checkpoint.every=3", "monitor.log_every=4", "checkpoint.background=false")
    train(make_config("run", *overrides))
    rows = losses(tmp_path / "run")
    assert list(rows) == [3, 4, 6, 8]
    (tmp_path / "run" / "checkpoints" / "step-00000008" / "checkpoint.json").unlink()
    train(make_config("run", *overrides))
    assert losses(tmp_path / "run") == rows


def test_a_save_that_outlasts_the_schedulers_notice_is_warned_of(
    make_config: MakeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    overrides = ("train.steps=4", "checkpoint.every=2", "checkpoint.background=false")
    with caplog.at_level(logging.WARNING):
        train(make_config("calm", *overrides, "checkpoint.notice_s=600"))
        assert "notice" not in caplog.text
        train(make_config("short", *overrides, "checkpoint.notice_s=0.001"))
    assert "but checkpoint.notice_s=0.001: ask the scheduler for more notice" in caplog.text


DIVERGES = ("optim.lr=1e30", "optim.clip_norm=0", "optim.warmup_steps=0")


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_a_run_that_diverges_ends_with_an_error_and_keeps_the_checkpoint_before(
    make_config: MakeConfig, tmp_path: Path, zero_stage: int
) -> None:
    engine = ("engine.precision=fp32", f"engine.zero_stage={zero_stage}")
    train(make_config("run", *engine, "train.stop_at=2"))
    with pytest.raises(LamaeError, match=r"diverged by step 8, which is not saved: parameter \S+ has an entry of size"):
        train(make_config("run", *engine, *DIVERGES))
    assert [path.name for path in (tmp_path / "run" / "checkpoints").glob("*-*")] == ["step-00000002"]
    assert train(make_config("run", *engine)) == EXIT_DONE


def test_a_checkpoint_of_diverged_weights_is_refused_wherever_it_is_read(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    train(make_config("run", "train.stop_at=2"))
    export(run, tmp_path / "export")
    with monkeypatch.context() as patch:  # as an older lamae did
        patch.setattr("lamae.train.checkpoint.saver.unfit_weight", lambda _: "")
        train(make_config("run", *DIVERGES))
    for read in (lambda: train(make_config("run", "train.steps=9")), lambda: load_model(run)):
        with pytest.raises(LamaeError, match=r"has an entry of size .* move this one out: mv ") as caught:
            read()
    source, target = str(caught.value).rpartition("mv ")[2].split()
    shutil.move(source, target)
    assert load_model(run).step == 2

    weights = load_file(tmp_path / "export" / "model.safetensors")
    next(iter(weights.values())).fill_(float("nan"))
    save_file(weights, tmp_path / "export" / "model.safetensors")
    content = json.loads((tmp_path / "export" / "config.json").read_text())
    content["weights_sha256"] = file_sha256(tmp_path / "export" / "model.safetensors")
    (tmp_path / "export" / "config.json").write_text(json.dumps(content))
    with pytest.raises(LamaeError, match=r"model.safetensors: parameter \S+ has an entry of size nan"):
        read_export(tmp_path / "export")
