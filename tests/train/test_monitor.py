"""What a run tells: TensorBoard with settings and environment, rows that survive a full disk."""

import logging
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from lamae.base.rowfile import RowFile, Throttle, read_rows
from lamae.base.text import format_duration
from lamae.sharding.format import ShardSet
from lamae.train.clock import PHASES
from lamae.train.loop import train
from lamae.train.monitor.events import Monitor
from lamae.train.runconfig import RunConfig
from tests.runs import tiny_config, write_tiny_shards
from tests.shardsets import corrupt

MakeConfig = Callable[..., RunConfig]


@pytest.fixture
def events(make_config: MakeConfig, tmp_path: Path) -> EventAccumulator:
    """Of a run that was stopped at step 4 and went on from step 2."""
    overrides = ("monitor.tensorboard=true", "train.steps=6", "checkpoint.every=2", "checkpoint.keep=0")
    train(make_config("run", *overrides, "train.stop_at=4"))
    (tmp_path / "run" / "checkpoints" / "step-00000004" / "checkpoint.json").unlink()
    train(make_config("run", *overrides))
    accumulator = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    accumulator.Reload()
    return accumulator


def test_tensorboard_holds_every_scalar_once_and_what_the_run_is(events: EventAccumulator) -> None:
    scalars = set(events.Tags()["scalars"])
    expected = {"learning_rate", "weight_decay", "gradient_norm", "skipped_steps", "records_per_s"}
    expected |= {"patches_per_s", "tflops_per_device", "data_wait_share", "communication_share", "memory_gb"}
    assert {f"train/{name}" for name in expected | {"checkpoint_s", "step_s"}} <= scalars
    assert {f"time/{phase}_s" for phase in (*PHASES, "other")} <= scalars
    assert {"weight_of_lead/I", "parts/hidden_spans", "ranks/slowest_forward_s"} <= scalars
    groups = sorted({tag.partition("/")[0] for tag in scalars})
    assert (groups[0], groups[-1]) == ("loss", "weight_of_lead"), "TensorBoard opens the first"
    assert "train/mfu" not in scalars, "this processor's peak is not known"
    assert [event.step for event in events.Scalars("loss/train")] == [1, 2, 3, 4, 5, 6]
    texts = {tag: events.Tensors(tag)[-1].tensor_proto.string_val[0].decode() for tag in events.Tags()["tensors"]}
    assert "zero_stage: 1" in texts["config/text_summary"]
    assert '"deepspeed": "0.19.8"' in texts["environment/text_summary"]


def test_settings_are_told_as_hparams(events: EventAccumulator) -> None:
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    told = HParamsPluginData.FromString(content).session_start_info.hparams
    assert told["optim.lr"].number_value == 3e-3
    assert told["engine.precision"].string_value in ("fp32", "bf16"), "what auto came to"
    assert told["mask.limb_tied"].number_value == 1


def test_values_that_are_not_finite_are_null(tmp_path: Path) -> None:
    monitor = Monitor(tmp_path, steps=1, resume_step=0, tensorboard=False, is_main=True)
    monitor.scalars(1, {"loss": float("nan"), "gradient_norm": float("inf")}, samples=8)
    monitor.close()
    assert read_rows(tmp_path / "metrics.jsonl") == [{"step": 1, "samples": 8, "loss": None, "gradient_norm": None}]


def test_replaced_records_are_those_since_the_row_before(tmp_path: Path) -> None:
    """Two of the 24 records of an epoch of three steps; their sum is right through a resume, too."""
    shards = write_tiny_shards(tmp_path / "set")
    corrupt(ShardSet.open(shards), 0, 7)
    for stop in (4, 6):
        train(tiny_config(shards, tmp_path / "run", "data.on_corrupt=skip", f"train.stop_at={stop}"))
    replaced = [row["replaced_records"] for row in read_rows(tmp_path / "run" / "metrics.jsonl")]
    assert (sum(replaced[:3]), sum(replaced[3:]), len(replaced)) == (2, 2, 6)


def test_a_full_disk_costs_rows_and_not_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = RowFile(tmp_path / "rows.jsonl", resume_step=0, is_main=True)
    rows.add([{"step": 1}])
    (tmp_path / "rows.jsonl").rename(tmp_path / "kept.jsonl")
    (tmp_path / "rows.jsonl").symlink_to("/dev/full")
    with caplog.at_level(logging.WARNING):
        rows.add([{"step": 2}])
        rows.add([{"step": 3}])
    assert caplog.text.count("No space left on device") == 1
    (tmp_path / "rows.jsonl").unlink()
    (tmp_path / "kept.jsonl").rename(tmp_path / "rows.jsonl")
    with (tmp_path / "rows.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # as far as it went
    rows.add([{"step": 5}])
    assert read_rows(tmp_path / "rows.jsonl") == [{"step": 1}, {"step": 5}]


def test_events_that_a_full_disk_swallows_cost_a_warning_and_the_next_are_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monitor = Monitor(tmp_path, steps=3, resume_step=0, tensorboard=True, is_main=True)
    monitor.scalars(1, {"loss": 1.0}, samples=8)
    monitor._tensorboard.flush()
    # What the writer's thread leaves when a write fails: every later write raises it.
    monitor._tensorboard.file_writer.event_writer._async_writer._worker.exception = OSError(
        28, "No space left on device"
    )
    with caplog.at_level(logging.WARNING):
        monitor.scalars(2, {"loss": 2.0}, samples=16)
        monitor.lead_weights(2, [1 / 12] * 12)
    assert caplog.text.count("tensorboard could not be written: No space left on device") == 1
    monitor.scalars(3, {"loss": 3.0}, samples=24)
    monitor.close()
    assert [row["step"] for row in read_rows(tmp_path / "metrics.jsonl")] == [1, 2, 3]
    accumulator = EventAccumulator(str(tmp_path / "tensorboard"))
    accumulator.Reload()
    assert [event.step for event in accumulator.Scalars("loss/train")] == [1, 3]


def test_a_warning_held_back_is_counted() -> None:
    now = 0.0
    with patch("lamae.base.rowfile.time.monotonic", lambda: now):
        throttle = Throttle(10.0)
        assert throttle.passes() == ""
        assert throttle.passes() is None
        assert throttle.passes() is None
        now = 11.0
        assert throttle.passes() == " (2 more since the last such line)"


@pytest.mark.parametrize(
    ("seconds", "text"), [(59.4, "59 s"), (723, "12:03"), (7384, "2:03:04"), (3 * 86400 + 7380, "3 d 02:03")]
)
def test_durations_read_as_people_write_them(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
