"""Runs of a study as processes: what is said of them, and how they end with the study."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lamae.base.errors import LamaeError
from lamae.base.progress import ignore
from lamae.base.settings import to_yaml
from lamae.study import pool
from lamae.study.directory import StudyDirectory
from lamae.study.runs import VAL, Run
from tests.runs import tiny_config

RUN = Run("search/a", (), part=0, scored=VAL)
SAVES = """
import signal, sys, time
def leave(*_):
    print("saved", flush=True)
    sys.exit(75)
signal.signal(signal.SIGTERM, leave)
print("ready", flush=True)
time.sleep(60)
"""


def execute(study: StudyDirectory) -> None:
    pool.execute(study, [RUN], workers=1, stage="search", is_done=lambda run: False, progress=ignore)


def start_instead(monkeypatch: pytest.MonkeyPatch, code: str) -> list[subprocess.Popen]:
    started = []

    def start(*_: object, **__: object) -> subprocess.Popen:
        started.append(subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True))
        started[-1].stdout.readline()
        return started[-1]

    monkeypatch.setattr(pool, "_start", start)
    return started


def test_each_run_has_a_line_with_step_loss_and_time_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    study = StudyDirectory(tmp_path)
    run = study.run(RUN.name)
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(to_yaml(tiny_config(tmp_path, run, "train.steps=600")))
    rows = [{"step": 90, "loss": 2.0, "step_s": 1.0}, {"step": 100, "loss": 0.61234, "step_s": 0.5}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(pool, "SAY_EVERY_S", 0.0)
    start_instead(monkeypatch, "import time; print(flush=True); time.sleep(0.8)")
    execute(study)
    assert "search/a: step 100 of 600, loss 0.6123, 4:10 left" in capsys.readouterr().out


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_study_that_is_ended_lets_its_runs_save_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    started = start_instead(monkeypatch, SAVES)
    monkeypatch.setattr(pool.time, "sleep", lambda _: signal.raise_signal(number))
    with pytest.raises(SystemExit) as left:
        execute(StudyDirectory(tmp_path))
    assert left.value.code == 128 + number
    assert started[0].communicate()[0] == "saved\n"
    assert started[0].returncode == 75


def test_a_run_that_was_stopped_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start_instead(monkeypatch, "import sys; print(flush=True); sys.exit(75)")
    with pytest.raises(LamaeError, match="search/a was stopped by a signal after saving; run the same command again"):
        execute(StudyDirectory(tmp_path))
