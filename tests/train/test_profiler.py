"""A few steps looked at closely, asked for beforehand or of a run on its way, without changing what it computes."""

import gzip
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lamae.base.errors import EXIT_DONE, UsageError
from lamae.train.clock import PHASES, StepTimes
from lamae.train.inputs import Inputs
from lamae.train.loop import train
from lamae.train.monitor.profiler import format_table
from lamae.train.runconfig import RunConfig
from tests.runs import assert_same_state, losses

MakeConfig = Callable[..., RunConfig]


def lasting_events(path: Path) -> list[dict[str, Any]]:
    """The events of a trace that lasted."""
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    return [event for event in events if event.get("ph") == "X"]


def trace_names(path: Path) -> list[str]:
    """Names of the events of a trace, one entry per event that lasted."""
    return [event["name"] for event in lasting_events(path)]


def crossing(events: list[dict[str, Any]]) -> list[str]:
    """Names of events that neither lie within one another nor apart: Perfetto draws no such slices of a thread."""
    found = []
    lanes: dict[Any, list[tuple[float, float, str]]] = {}
    for event in events:
        lanes.setdefault((event["pid"], event["tid"]), []).append((event["ts"], -event["dur"], event["name"]))
    for lane in lanes.values():
        open_ends: list[float] = []
        for start, minus_duration, name in sorted(lane):
            while open_ends and open_ends[-1] <= start:
                open_ends.pop()
            if open_ends and start - minus_duration > open_ends[-1] + 1e-3:  # microseconds
                found.append(name)
            open_ends.append(start - minus_duration)
    return found


def test_the_steps_asked_for_are_traced_and_tabled(make_config: MakeConfig, tmp_path: Path) -> None:
    train(make_config("calm", "train.steps=5"))
    assert train(make_config("run", "train.steps=5", "profile.steps=[2,4]")) == EXIT_DONE
    folder = tmp_path / "run" / "profile" / "step-00000002"
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert crossing(lasting_events(folder / "rank-00000.pt.trace.json.gz")) == []
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


def test_what_is_left_of_a_window_at_a_start_or_after_another_is_profiled(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(make_config("run", "train.stop_at=2"))
    train(make_config("run", "train.stop_at=4", "profile.steps=[2,4]"))
    assert [path.name for path in (run / "profile").iterdir()] == ["step-00000003"]
    assert (run / "profile" / "step-00000003" / "table.txt").read_text().startswith("steps 3 to 4, 1 rank")
    (run / "profile.now").touch()  # seen after step 5, agreed on after step 6
    train(make_config("run", "train.steps=9", "profile.steps=[8,9]", "profile.on_demand_steps=2"))
    assert (run / "profile" / "step-00000009" / "table.txt").read_text().startswith("steps 9 to 9, 1 rank")


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


def test_slices_that_cross_would_be_noticed() -> None:
    def event(name: str, start: float, duration: float, thread: int = 1) -> dict[str, Any]:
        return {"pid": 1, "tid": thread, "ts": start, "dur": duration, "name": name}

    apart_and_within = [event("a", 0, 10), event("b", 2, 8), event("c", 10, 5), event("d", 1, 20, thread=2)]
    assert crossing(apart_and_within) == []
    assert crossing([*apart_and_within, event("e", 12, 9)]) == ["e"]


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
