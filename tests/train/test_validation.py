"""Validation loss: fixed records, fixed masks, no effect on training."""

import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lamae.base.errors import EXIT_DONE, EXIT_STOPPED, LamaeError, UsageError
from lamae.base.rowfile import read_rows
from lamae.data.transforms import Signal
from lamae.sharding.format import ShardSet
from lamae.train.clock import PHASES
from lamae.train.loop import train
from lamae.train.runconfig import RunConfig
from tests.runs import assert_same_state, losses, tiny_config, write_tiny_shards
from tests.shardsets import corrupt, random_adc, write_shard_set

MakeConfig = Callable[..., RunConfig]


def validation_losses(run_dir: Path) -> dict[int, float]:
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return {row["step"]: row["validation_loss"] for row in rows if "validation_loss" in row}


def test_validation_is_told_when_due_and_leaves_training_alone(make_config: MakeConfig, tmp_path: Path) -> None:
    train(make_config("with", "train.validate_every=3", "train.validate_records=5"))
    train(make_config("without"))
    assert list(validation_losses(tmp_path / "with")) == [3, 6]
    assert losses(tmp_path / "with") == losses(tmp_path / "without")
    assert_same_state(tmp_path / "with", tmp_path / "without")


def test_what_is_validated_and_probed_is_said_with_the_loss_by_part(
    make_config: MakeConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="lamae")
    config = make_config("run", "train.steps=2", "train.validate_every=2", "monitor.probe_every=2")
    train(config, probe=lambda model: {"macro_auroc": 0.75})
    log = caplog.text
    (said,) = re.findall(r"validation at step 2: loss (\d\.\d{4}) \((.*)\)", log)
    (row,) = [row for row in read_rows(tmp_path / "run" / "metrics.jsonl") if row["step"] == 2]
    assert float(said[0]) == pytest.approx(row["validation_loss"], abs=1e-4)
    assert f"hidden_spans {row['validation/hidden_spans']:.4f}" in said[1]
    assert "_derived" not in said[1]
    assert "probe at step 2: macro_auroc 0.7500" in log
    assert "validation at step 0: loss" in log  # what the weights are worth at the start


def test_a_probe_that_nobody_hands_down_is_warned_of(make_config: MakeConfig, caplog: pytest.LogCaptureFixture) -> None:
    config = make_config("run", "train.steps=2", "monitor.probe_every=1")
    with caplog.at_level("WARNING"):
        train(config)
    assert caplog.text.count("monitor.probe_every=1 is ignored") == 1


def test_validation_loss_of_the_same_weights_is_the_same(make_config: MakeConfig, tmp_path: Path) -> None:
    """Micro-batches of another size change only rounding."""
    for name, micro in (("a", 4), ("b", 2)):
        overrides = ("train.validate_every=2", "train.stop_at=2", f"train.micro_batch_size={micro}")
        train(make_config(name, "engine.precision=fp32", *overrides))
    a, b = validation_losses(tmp_path / "a"), validation_losses(tmp_path / "b")
    assert a[2] == pytest.approx(b[2], rel=1e-5)


def test_a_probe_is_asked_when_due_and_its_figures_are_told(make_config: MakeConfig, tmp_path: Path) -> None:
    states: list[bool] = []

    def probe(model: torch.nn.Module) -> dict[str, float]:
        states.append(model.training)
        return {"auroc": 0.5 + len(states) / 10}

    train(make_config("run", "monitor.probe_every=4", "monitor.log_every=3"), probe=probe)
    assert states == [False, False]
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {row["step"]: row["probe/auroc"] for row in rows if "probe/auroc" in row} == {4: 0.6, 8: 0.7}
    assert [row["step"] for row in rows] == [3, 4, 6, 8]


def test_an_empty_validation_split_is_refused_when_asked_for(tmp_path: Path) -> None:
    shards = write_shard_set(tmp_path / "set", random_adc(8, 500), rate_hz=100.0)
    with pytest.raises(UsageError, match=r"train.validate_every=2, but .* has no records in its val split"):
        train(tiny_config(shards, tmp_path / "run", "train.validate_every=2"))


def test_a_run_that_is_to_stop_does_not_wait_for_a_validation(make_config: MakeConfig, tmp_path: Path) -> None:
    def ask_to_stop(model: torch.nn.Module) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGTERM)
        return {}

    measured = ("train.validate_every=4", "monitor.probe_every=2")
    assert train(make_config("run", "train.steps=6", *measured), probe=ask_to_stop) == EXIT_STOPPED
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert (rows[-1]["step"], validation_losses(tmp_path / "run")) == (4, {})
    # But for the last step, after which nothing goes on.
    assert train(make_config("whole", "train.steps=4", *measured), probe=ask_to_stop) == EXIT_DONE
    assert list(validation_losses(tmp_path / "whole")) == [4]


def test_what_is_measured_and_drawn_between_steps_is_none_of_their_time(
    make_config: MakeConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def take_long(*_: object) -> dict[str, float]:
        time.sleep(1)
        return {}

    intervals = ("monitor.log_every=2", "monitor.probe_every=2", "monitor.figures_every=2", "checkpoint.every=2")
    config = make_config("run", *intervals, "train.steps=4", "checkpoint.notice_s=1.5")
    train(config, probe=take_long, draw_figures=take_long)
    *_, row = read_rows(tmp_path / "run" / "metrics.jsonl")
    assert row["pauses/validation_s"] > 1 < row["pauses/figures_s"]
    assert "pauses/profile_s" not in row
    assert row["step_s"] < sum(row[f"time/{phase}_s"] for phase in (*PHASES, "other")) + 0.5
    assert row["checkpoint_s"] < 1
    assert row["records_per_s"] == pytest.approx(8 / row["step_s"])
    assert "checkpoint.notice_s" not in caplog.text


def test_a_corrupt_record_of_validation_and_figures_is_replaced_or_ends_the_run_before_its_first_step(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shards = write_tiny_shards(tmp_path / "set")
    shard_set = ShardSet.open(shards)
    row = int(shard_set.rows_of_split("val")[0])
    corrupt(shard_set, row)
    drawn: list[list[int]] = []

    def draw(model: torch.nn.Module, signal: Signal, *_: object) -> dict[str, object]:
        drawn.append(signal.row.tolist())
        return {}

    def run(name: str, *overrides: str) -> int:
        config = tiny_config(shards, tmp_path / name, "train.steps=4", "checkpoint.every=2", *overrides)
        return train(config, draw_figures=draw)

    measured = {"validated": "train.validate_every=2", "drawn": "monitor.figures_every=2"}
    for name, option in measured.items():
        with pytest.raises(LamaeError, match=r"is corrupt: .*data\.on_corrupt=skip"):
            run(name, option)
        assert not (tmp_path / name / "metrics.jsonl").exists()
    assert run("skip", *measured.values(), "data.on_corrupt=skip") == EXIT_DONE
    assert [len(rows) for rows in drawn] == [6, 6]
    assert row not in drawn[0]
    assert list(validation_losses(tmp_path / "skip")) == [2, 4]
    assert "validation at step 4: corrupt records replaced by others: 1" in caplog.text
