"""A few steps looked at closely, asked for beforehand or of a run on its way, without changing what it computes."""

import gzip
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lamae.config import RunConfig
from lamae.train.clock import PHASES, StepTimes
from lamae.train.inputs import Inputs
from lamae.train.loop import EXIT_DONE, train
from lamae.train.profiler import format_table
from sharding.errors import UsageError
from tests.runs import assert_same_state, losses

MakeConfig = Callable[..., RunConfig]


def trace_names(path: Path) -> list[str]:
    """Names of the events of a trace, one entry per event that lasted."""
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    return [event["name"] for event in events if event.get("ph") == "X"]


def test_the_steps_asked_for_are_traced_and_tabled(make_config: MakeConfig, tmp_path: Path) -> None:
    train(make_config("calm", "train.steps=5"))
    assert train(make_config("run", "train.steps=5", "profile.steps=[2,4]")) == EXIT_DONE
    folder = tmp_path / "run" / "profile" / "step-00000002"
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    names = trace_names(folder / "rank-00000.pt.trace.json.gz")
    # Three steps of two micro-batches each.
    counts = {phase: names.count(f"lamae/{phase}") for phase in ("data_wait", "copy", "forward", "backward")}
    assert counts == {"data_wait": 3, "copy": 6, "forward": 6, "backward": 6}
    assert any("linear" in name or "addmm" in name or "aten::mm" in name for name in names)
    table = (folder / "table.txt").read_text()
    assert table.startswith("steps 2 to 4, 1 rank")
    assert [line.split()[0] for line in table.splitlines()[2:]] == [*PHASES, "other", "step"]
    assert sorted(path.name for path in folder.iterdir()) == ["rank-00000.pt.trace.json.gz", "table.txt"]
    assert losses(tmp_path / "run") == losses(tmp_path / "calm")
    assert_same_state(tmp_path / "run", tmp_path / "calm")


def test_a_file_in_the_run_directory_asks_for_a_profile_once(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare, calls = Inputs.prepare, 0

    def ask_in_step_2(self: Inputs, batch: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            (tmp_path / "run" / "profile.now").touch()
        return prepare(self, batch, **options)

    monkeypatch.setattr(Inputs, "prepare", ask_in_step_2)
    train(make_config("run", "train.micro_batch_size=8", "profile.on_demand_steps=1", "profile.steps=[5,5]"))
    assert not (tmp_path / "run" / "profile.now").exists()
    # Seen after step 2, agreed on after step 3; the window that the configuration names comes all the same.
    assert sorted(path.name for path in (tmp_path / "run" / "profile").iterdir()) == ["step-00000004", "step-00000005"]


def test_a_window_that_the_end_cuts_short_is_dropped_and_said(
    make_config: MakeConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        train(make_config("run", "train.steps=3", "profile.steps=[3,9]"))
    assert "the run ends before step 9, so the profile from step 3 on is dropped" in caplog.text
    assert not (tmp_path / "run" / "profile").exists()


def test_a_profile_that_cannot_be_written_does_not_end_the_run(
    make_config: MakeConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "profile").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        assert train(make_config("run", "train.steps=3", "profile.steps=[2,2]")) == EXIT_DONE
    assert "the profile could not be written" in caplog.text


@pytest.mark.parametrize("steps", ["[3]", "[0,2]", "[4,3]", "[1,2,3]"])
def test_steps_that_make_no_window_are_refused(make_config: MakeConfig, steps: str) -> None:
    with pytest.raises(UsageError, match=r"profile.steps=.* must be \[first, last\]"):
        make_config("run", f"profile.steps={steps}")


def test_the_table_tells_mean_share_and_the_slowest_rank() -> None:
    def times(backward_s: float) -> StepTimes:
        phases = dict.fromkeys((*PHASES, "other"), 0.0) | {"backward": backward_s, "other": 0.01}
        return StepTimes(backward_s + 0.01, phases)

    table = format_table([times(0.01), times(0.05)], first=1, last=2)
    (line,) = [line for line in table.splitlines() if line.startswith("backward")]
    assert line.split() == ["backward", "30.00", "75.0", "%", "1:", "50.00", "ms"]
