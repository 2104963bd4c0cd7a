"""A run's log file: what the console says, over all its starts."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from lamae.base.errors import LamaeError
from lamae.train.loop import train
from lamae.train.monitor.runlog import RunLog
from lamae.train.runconfig import RunConfig

MakeConfig = Callable[..., RunConfig]


@pytest.fixture(autouse=True)
def told(caplog: pytest.LogCaptureFixture) -> None:
    """As the command line sets it."""
    caplog.set_level("INFO", logger="lamae")


def test_the_log_goes_on_over_starts_and_a_finished_run_is_left_alone(make_config: MakeConfig, tmp_path: Path) -> None:
    train(make_config("run", "train.stop_at=2"))
    first = (tmp_path / "run" / "log.txt").read_text()
    assert "steps 1 to 8" in first
    assert first.count("step 2/8") == 1
    train(make_config("run"))
    both = (tmp_path / "run" / "log.txt").read_text()
    assert both.startswith(first)
    assert "resuming" in both[len(first) :]
    assert "step 8/8" in both
    train(make_config("run"))
    assert (tmp_path / "run" / "log.txt").read_text() == both
    assert not [handler for handler in logging.getLogger().handlers if isinstance(handler, RunLog)]


def test_why_a_run_failed_is_its_last_line(make_config: MakeConfig, tmp_path: Path) -> None:
    def full(model: object) -> dict[str, float]:
        raise LamaeError("no space left")

    with pytest.raises(LamaeError):
        train(make_config("run", "monitor.probe_every=2"), probe=full)
    assert (tmp_path / "run" / "log.txt").read_text().splitlines()[-1].endswith("E failed: no space left")

    def wrong(model: object) -> dict[str, float]:
        return {}["a fault of ours"]

    with pytest.raises(KeyError):
        train(make_config("other", "monitor.probe_every=2"), probe=wrong)
    assert "Traceback" in (tmp_path / "other" / "log.txt").read_text()


def test_a_refused_start_leaves_no_log(make_config: MakeConfig, tmp_path: Path) -> None:
    with pytest.raises(LamaeError):
        train(make_config("run", "data.path=nowhere"))
    assert not (tmp_path / "run").exists()


def test_a_log_that_cannot_be_written_costs_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "log.txt").symlink_to("/dev/full")
    with caplog.at_level(logging.WARNING), RunLog(tmp_path, is_main=True) as run_log:
        run_log.begin()
        for _ in range(3):
            logging.getLogger("lamae.train").warning("something")
    assert caplog.text.count("could not be written: No space left on device") == 1


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    with RunLog(tmp_path, is_main=False) as run_log:
        run_log.begin()
        logging.getLogger("lamae.train").warning("something")
    assert not list(tmp_path.iterdir())
