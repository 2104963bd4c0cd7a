"""A run as its user sees it: what it writes, how it resumes, what it refuses."""

import errno
import fcntl
import json
import os
import re
import signal
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lamae.base.errors import EXIT_DONE, EXIT_STOPPED, LamaeError, UsageError
from lamae.base.rowfile import read_rows
from lamae.model.loss import alignment_weight
from lamae.train.checkpoint.format import list_checkpoints, load_model, manifest_digest, newest_whole, read_manifest
from lamae.train.checkpoint.subjects import subject_set_hash
from lamae.train.config import OptimConfig
from lamae.train.loop import train
from lamae.train.ranks import distributed
from lamae.train.runconfig import RunConfig
from lamae.train.rundir import RunLock, open_run_directory
from lamae.train.schedule import learning_rate
from tests.runs import assert_same_state, losses
from tests.shardsets import random_adc, write_shard_set

MakeConfig = Callable[..., RunConfig]


def test_a_run_leaves_config_manifest_metrics_events_and_checkpoints(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config("run", "train.steps=6", "checkpoint.every=2", "checkpoint.keep=2", "monitor.tensorboard=true")
    assert train(config) == EXIT_DONE
    run = tmp_path / "run"
    assert list(losses(run)) == [1, 2, 3, 4, 5, 6]
    assert [info.step for info in list_checkpoints(run / "checkpoints")] == [4, 6]
    assert (run / "checkpoints" / "latest").read_text().strip() == "step-00000006"
    assert "zero_stage: 1" in (run / "config.yaml").read_text()
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["num_records"] == 24
    assert manifest["versions"]["deepspeed"] == "0.19.8"
    assert list((run / "tensorboard").glob("events.*"))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    expected = {"samples", "loss", "learning_rate", "gradient_norm", "records_per_s", "data_wait_share"}
    assert expected <= rows[0].keys()
    assert rows[-1]["samples"] == 48


def test_training_lowers_the_loss(make_config: MakeConfig, tmp_path: Path) -> None:
    train(make_config("run", "train.steps=40", "monitor.log_every=10"))
    by_step = losses(tmp_path / "run")
    assert by_step[40] < 0.95 * by_step[10]


def test_parts_of_the_loss_that_a_model_is_not_asked_for_are_not_told(make_config: MakeConfig, tmp_path: Path) -> None:
    """A part that is always 0 would read as perfect."""
    train(make_config("run", "model.kind=independent", "train.steps=2"))
    for row in read_rows(tmp_path / "run" / "metrics.jsonl"):
        assert row["parts/hidden_spans"] > 0
        assert not any(name.startswith("parts/hidden_leads") for name in row)


@pytest.mark.parametrize(
    "engine",
    [
        ("engine.precision=bf16", "engine.zero_stage=1"),
        ("engine.precision=fp32", "engine.zero_stage=0"),
        ("engine.precision=bf16", "engine.zero_stage=3"),
    ],
    ids=["bf16-stage1", "fp32-stage0", "bf16-stage3"],
)
def test_a_run_stopped_mid_epoch_goes_on_bitwise_like_one_that_was_not(
    make_config: MakeConfig, tmp_path: Path, engine: tuple[str, ...]
) -> None:
    train(make_config("whole", *engine))
    for stop in (2, 7):  # neither is an epoch's end: three batches make an epoch
        assert train(make_config("parts", *engine, f"train.stop_at={stop}")) == EXIT_DONE
        assert max(losses(tmp_path / "parts")) == stop
    assert train(make_config("parts", *engine)) == EXIT_DONE
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert_same_state(tmp_path / "parts", tmp_path / "whole")


def test_resuming_from_an_older_checkpoint_cuts_what_lies_beyond_it(make_config: MakeConfig, tmp_path: Path) -> None:
    train(make_config("run", "checkpoint.every=4", "checkpoint.keep=0"))
    before = losses(tmp_path / "run")
    last = list_checkpoints(tmp_path / "run" / "checkpoints")[-1].path
    (last / "rank-00000.safetensors").write_bytes(b"truncated")
    train(make_config("run", "checkpoint.every=4", "checkpoint.keep=0"))
    assert losses(tmp_path / "run") == before


def test_a_signal_saves_and_leaves_with_75_and_the_next_start_goes_on(make_config: MakeConfig, tmp_path: Path) -> None:
    train(make_config("whole"))

    def interrupt(*_: object) -> dict[str, object]:
        os.kill(os.getpid(), signal.SIGUSR1)
        return {}

    config = make_config("run", "monitor.figures_every=3")
    assert train(config, draw_figures=interrupt) == EXIT_STOPPED
    stopped_at = list_checkpoints(tmp_path / "run" / "checkpoints")[-1].step
    assert stopped_at == 5  # raised in step 3, shared in step 4, acted on in step 5
    assert train(make_config("run")) == EXIT_DONE
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
    assert_same_state(tmp_path / "run", tmp_path / "whole")


@pytest.mark.parametrize(("hang_factor", "expected_s"), [(50, {distributed.NEVER_S}), (0, {7, 1800})])
def test_where_the_watchdog_watches_no_collective_gives_up_by_the_wall_clock(
    make_config: MakeConfig, hang_factor: int, expected_s: set[float]
) -> None:
    """Suspended ranks would find their collectives timed out when they wake."""
    found = set()

    def look(*_: object) -> dict[str, object]:
        for group in torch.distributed.distributed_c10d._world.pg_map:
            found.add(group._get_backend(torch.device("cpu")).options._timeout.total_seconds())
        return {}

    overrides = ("train.steps=2", "monitor.figures_every=2", f"monitor.hang_factor={hang_factor}")
    train(make_config("run", *overrides, "engine.step_timeout_s=7"), draw_figures=look)
    assert found == expected_s


def rates(run: Path) -> list[float]:
    return [row["learning_rate"] for row in read_rows(run / "metrics.jsonl")]


SHORT = ("optim.lr=1e-3", "optim.final_lr=1e-5", "optim.warmup_steps=1")


@pytest.mark.parametrize("change", ["train.steps=60", "optim.lr=2e-3", "optim.warmup_steps=9"])
def test_a_changed_schedule_is_said_with_both_rates(
    make_config: MakeConfig, caplog: pytest.LogCaptureFixture, change: str, tmp_path: Path
) -> None:
    train(make_config("run", *SHORT, "train.steps=10", "train.stop_at=6"))
    with caplog.at_level("WARNING"):
        train(make_config("run", *SHORT, "train.steps=10", "train.stop_at=7", change))
    old = learning_rate(6, OptimConfig(lr=1e-3, final_lr=1e-5, warmup_steps=1), steps=10)
    assert f"at step 7 learning rate {old:.3g} by the checkpoint's schedule, {rates(tmp_path / 'run')[-1]:.3g} now" in (
        caplog.text
    )
    assert "optim.decay_end=10 optim.restart_from=6" in caplog.text


def test_the_pull_of_aligned_leads_follows_the_step_also_in_validation_and_its_jump_is_said(
    make_config: MakeConfig, caplog: pytest.LogCaptureFixture
) -> None:
    options = ("model.kind=aligned", "engine.precision=fp32", "train.validate_every=4")
    caplog.set_level("INFO", logger="lamae")
    train(make_config("run", *options, "train.stop_at=4"))
    train(make_config("run", *options, "train.stop_at=5"))
    validated = re.findall(r"validation at step 4: .*", caplog.text)
    assert len(validated) == 2
    assert len(set(validated)) == 1
    assert "the schedule has changed" not in caplog.text
    train(make_config("run", *options, "train.steps=80", "train.stop_at=6"))
    was, becomes = alignment_weight(2.0, 5 / 8), alignment_weight(2.0, 5 / 80)
    assert f"alignment weight {was:.3g} by the checkpoint's schedule, {becomes:.3g} now" in caplog.text


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["optim.decay_end=6"], [1e-5, 1e-5, 1e-5, 1e-5]),
        (["optim.decay_end=6", "optim.restart_from=6", "optim.restart_lr=4e-4"], [4e-4, 3.025e-4, 1.075e-4, 1e-5]),
    ],
    ids=["at-final", "decay-anew"],
)
def test_a_finished_run_goes_on_at_its_final_rate_or_decays_anew_through_further_stops(
    make_config: MakeConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture, options: list[str], expected: list[float]
) -> None:
    train(make_config("run", *SHORT, "train.steps=6"))
    for stop in (8, 10):
        with caplog.at_level("WARNING"):
            train(make_config("run", *SHORT, "train.steps=10", f"train.stop_at={stop}", *options))
    assert rates(tmp_path / "run")[6:] == pytest.approx(expected)
    assert caplog.text.count("the schedule has changed") == len(options[1:]) // 2  # once, where the rate was to jump


def test_a_metrics_file_that_something_else_wrote_into_stops_no_resume_and_loses_no_row(
    make_config: MakeConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(make_config("run", "train.stop_at=3"))
    path = tmp_path / "run" / "metrics.jsonl"
    first, second, third = path.read_bytes().splitlines()
    foreign = [b"\xff\xfe caf\xe9", b'{"loss": 1.0}', b"[1]", b'{"step": "two"}']
    text = b"\xef\xbb\xbf" + first + b"\r\n" + b"\n".join([*foreign, b"\0\0" + second, third[:20]])
    path.write_bytes(text + b"\n" + third + b"\n")
    with caplog.at_level("WARNING"):
        assert train(make_config("run", "train.stop_at=5")) == EXIT_DONE
    assert list(losses(tmp_path / "run")) == [1, 2, 3, 4, 5]
    assert "no row with a step in line 2, 3, 4, 5, 7; moved to metrics.jsonl.unreadable" in caplog.text
    assert path.with_name("metrics.jsonl.unreadable").read_bytes().splitlines() == [*foreign, third[:20]]


def test_a_batch_larger_than_the_data_is_said(make_config: MakeConfig, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING"):
        train(make_config("run", "train.steps=1", "train.global_batch_size=24"))
        assert "global_batch_size" not in caplog.text
        train(make_config("more", "train.steps=1", "train.global_batch_size=32"))
    assert "train.global_batch_size=32 is more than the 24 records of data.split=train" in caplog.text


def test_a_signal_at_the_last_step_does_not_ask_to_be_started_again(make_config: MakeConfig) -> None:
    def interrupt(*_: object) -> dict[str, object]:
        os.kill(os.getpid(), signal.SIGTERM)
        return {}

    assert train(make_config("run", "train.steps=4", "monitor.figures_every=2"), draw_figures=interrupt) == EXIT_DONE


def test_a_finished_run_started_again_does_nothing(make_config: MakeConfig, tmp_path: Path) -> None:
    train(make_config("run", "train.steps=2"))

    def files():
        found = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()}
        found.pop("log.txt", None)  # what is logged at all depends on who set up logging before
        return found

    written = files()
    assert set(written) == {"config.yaml", "manifest.json", "metrics.jsonl"}
    assert train(make_config("run", "train.steps=2", "optim.lr=1e-4", "optim.final_lr=1e-6")) == EXIT_DONE
    assert files() == written


def test_load_model_gives_the_trained_weights_in_float32(make_config: MakeConfig, tmp_path: Path) -> None:
    train(make_config("run", "train.steps=3"))
    loaded = load_model(tmp_path / "run")
    assert [(entry["source"], entry["num_subjects"]) for entry in loaded.sets] == [("arrays", 12)]
    assert (loaded.step, loaded.samples_consumed, loaded.num_samples) == (3, 24, 500)
    assert not loaded.model.training
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    assert len(loaded.subject_hashes) == 12  # 24 training records, two per subject
    again = load_model(loaded.path)
    assert all(torch.equal(a, b) for a, b in zip(loaded.model.parameters(), again.model.parameters(), strict=True))


def test_a_checkpoint_that_is_replaced_while_it_is_read_is_looked_for_again(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(make_config("run", "train.stop_at=2", "checkpoint.keep=1"))

    def train_on(root: Path) -> Path | None:
        found = newest_whole(root)
        train(make_config("run", "train.stop_at=4", "checkpoint.keep=1"))
        return found

    monkeypatch.setattr("lamae.train.checkpoint.format.newest_whole", train_on)
    assert load_model(tmp_path / "run").step == 4


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["model.depth=2"], r"model.depth: 1 -> 2"),
        (["train.seed=1", "signal.scale_mv=1.0"], r"signal.scale_mv: 0.25 -> 1.0; train.seed: 0 -> 1"),
        (["data.split=all"], r"data.split: train -> all"),
    ],
)
def test_resuming_another_run_is_refused_with_the_differences(
    make_config: MakeConfig, tmp_path: Path, overrides: list[str], named: str
) -> None:
    train(make_config("run", "train.stop_at=1"))
    before = (tmp_path / "run" / "config.yaml").read_bytes()
    with pytest.raises(UsageError, match=named):
        train(make_config("run", *overrides))
    assert (tmp_path / "run" / "config.yaml").read_bytes() == before


def test_a_checkpoint_from_before_a_key_was_added_resumes_with_its_default(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    train(make_config("run", "train.stop_at=1"))
    (checkpoint,) = list_checkpoints(tmp_path / "run" / "checkpoints")
    manifest = read_manifest(checkpoint.path)
    del manifest["config"]["mask"]["limb_tied"]
    manifest["digest"] = manifest_digest(manifest)
    (checkpoint.path / "checkpoint.json").write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match=r"another run .*: mask.limb_tied: True -> False\."):
        train(make_config("run", "mask.limb_tied=false"))
    assert train(make_config("run", "train.stop_at=2")) == EXIT_DONE


def test_an_explicit_override_resumes_all_the_same(make_config: MakeConfig, tmp_path: Path) -> None:
    train(make_config("run", "train.stop_at=1"))
    changed = make_config("run", "train.stop_at=2", "mask.ratio=0.4", "checkpoint.allow_changes=true")
    assert train(changed) == EXIT_DONE
    assert list(losses(tmp_path / "run")) == [1, 2]


def test_subjects_of_earlier_data_stay_known_on_other_data(make_config: MakeConfig, tmp_path: Path) -> None:
    train(make_config("run", "train.stop_at=1"))
    other = write_shard_set(
        tmp_path / "other", random_adc(8, 500), rate_hz=100.0, splits=["train"] * 8, subjects=list(range(500, 508))
    )
    there = f"data.path={other}"
    assert train(make_config("run", there, "train.stop_at=2", "checkpoint.allow_changes=true")) == EXIT_DONE
    assert train(make_config("run", there, "train.stop_at=3")) == EXIT_DONE
    loaded = load_model(tmp_path / "run")
    assert len(loaded.subject_hashes) == 12 + 8
    assert loaded.subject_hash == subject_set_hash(loaded.subject_hashes)


def test_a_run_directory_that_is_a_file_is_refused(make_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("in the way")
    with pytest.raises(UsageError, match=r"run.dir=.*choose a directory"):
        train(make_config("run"))


def test_bf16_without_zero_is_refused(make_config: MakeConfig) -> None:
    with pytest.raises(UsageError, match=r"engine.zero_stage=0 with engine.precision=bf16 is refused"):
        make_config("run", "engine.zero_stage=0", "engine.precision=bf16")


def test_an_empty_split_is_refused(make_config: MakeConfig) -> None:
    with pytest.raises(UsageError, match=r"data.split=test"):
        train(make_config("run", "data.split=test"))


def test_the_second_of_two_that_begin_at_once_does_not_start_over(make_config: MakeConfig, tmp_path: Path) -> None:
    """Both found no directory to lock; the first has trained and left when the second opens it."""
    lock = RunLock(tmp_path / "run")
    lock.take()  # nothing there yet
    train(make_config("run", "train.stop_at=2"))
    before = (tmp_path / "run" / "manifest.json").read_text()
    with pytest.raises(LamaeError, match="another start trained here meanwhile"):
        open_run_directory(tmp_path / "run", lock, config_yaml="", manifest={})
    lock.close()
    assert (tmp_path / "run" / "manifest.json").read_text() == before


@pytest.mark.parametrize("locks_directories", [True, False], ids=["local", "nfs"])
def test_removing_the_lock_file_lets_nobody_in(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locks_directories: bool
) -> None:
    real = fcntl.flock

    def flock(descriptor: int, operation: int) -> None:
        if not locks_directories and stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EBADF, "no locks on directories")
        real(descriptor, operation)

    train(make_config("run", "train.stop_at=2"))
    monkeypatch.setattr("lamae.base.lock.fcntl.flock", flock)
    monkeypatch.setattr("lamae.train.rundir.LOCK_KEEP_EVERY_S", 0.1)
    monkeypatch.setattr("lamae.base.lock.PATIENCE_S", 0.3)
    first = RunLock(tmp_path / "run")
    first.take()
    first.sign()
    (tmp_path / "run" / "checkpoints" / ".lock").unlink()
    with pytest.raises(LamaeError, match=r"is training there; end it") as caught:
        train(make_config("run"))
    assert "remove" not in str(caught.value)
    first.close()
    assert train(make_config("run")) == EXIT_DONE


def test_a_second_start_waits_for_the_first_or_says_who_it_is(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Else it would resume from before what the first is about to save, and clear that away."""
    train(make_config("run", "train.stop_at=2"))
    first = RunLock(tmp_path / "run")
    first.take()
    first.sign()
    monkeypatch.setattr("lamae.base.lock.PATIENCE_S", 0.3)
    with caplog.at_level("INFO"), pytest.raises(LamaeError, match=rf"process {os.getpid()} on .* is training there"):
        train(make_config("run"))
    assert "waiting for process" in caplog.text
    threading.Timer(0.1, first.close).start()
    monkeypatch.setattr("lamae.base.lock.PATIENCE_S", 10.0)
    assert train(make_config("run")) == EXIT_DONE
