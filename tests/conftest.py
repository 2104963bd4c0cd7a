"""Fixtures that several houses share."""

import os
import signal
import sys
import threading
from pathlib import Path

import pytest

from lamae import console
from lamae.cli import app as cli

DATA_HINT = "real recordings not found: set LAMAE_TEST_DATA to their folder"


def pytest_configure() -> None:
    """Let signals that tests send arrive: children inherit what nohup or a shell's background ignores."""
    if threading.current_thread() is threading.main_thread():
        for number, handler in ((signal.SIGHUP, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
            if signal.getsignal(number) is signal.SIG_IGN:
                signal.signal(number, handler)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real 12-lead recordings; absent on a user's machine (skip), never in CI (failure)."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    path = Path(os.environ.get("LAMAE_TEST_DATA", default))
    if not (path / "manifest.csv").is_file():
        if os.environ.get("CI"):
            pytest.fail(DATA_HINT)
        pytest.skip(DATA_HINT)
    return path


@pytest.fixture
def lamae(tmp_path, monkeypatch, capsys):
    """Runs the console entry point in an empty directory: ``(exit code, standard output, standard error)``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(console.console, "width", 200)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["lamae", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        printed = capsys.readouterr()
        return caught.value.code or 0, printed.out, printed.err

    return run
