"""What the command line shows: names as they are, as much as was asked for, and a word whenever it ends."""

import logging
import os
import signal
import subprocess
import sys

import pytest
import typer

from lamae import console
from lamae.base.errors import LamaeError, UsageError
from lamae.base.place import prints_error
from lamae.cli import app as cli
from tests.shardsets import random_adc, write_shard_set


@pytest.fixture(autouse=True)
def verbosity(monkeypatch):
    monkeypatch.setenv(console.VERBOSITY_VARIABLE, "")
    yield
    console.set_verbosity("")


def lamae_process(*arguments, **settings):
    command = [sys.executable, "-m", "lamae", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **settings)


@pytest.mark.parametrize("name", ["a[/]b", "[bold]", "[red]x[/red]", "x:smile:y"])
def test_brackets_and_colons_in_a_path_are_printed_as_they_are(lamae, tmp_path, name):
    write_shard_set(tmp_path / name, random_adc(3, 5000))
    code, output, errors = lamae("inspect", name, "--save", f"{name}.png")
    assert (code, errors) == (0, "")
    assert f"plot: {name}.png" in output


def test_a_bar_shows_a_stage_as_it_is_named(monkeypatch):
    from rich.console import Console

    terminal = Console(force_terminal=True, width=120, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    monkeypatch.setattr(console, "console", terminal)
    with console.show_progress() as progress:
        progress("packing [/x]", 1, 1)
    assert "packing [/x]" in terminal.export_text()


def test_a_title_longer_than_its_table_stays_one_line(capsys):
    title = "/scratch/some/where/far/away: packed " + "and a word more " * 12
    console.print_table(title, ["", "n"], [["[x]", "1"]])
    first, *table = capsys.readouterr().out.splitlines()
    assert first == title
    assert "[x]" in "".join(table)


def test_a_name_that_is_no_text_is_printed_all_the_same(tmp_path):
    write_shard_set(tmp_path / "shards", random_adc(2, 500))
    odd = os.fsdecode(b"caf\xe9.png")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    output, errors = lamae_process(
        "inspect", tmp_path / "shards", "--save", tmp_path / odd, env=environment
    ).communicate()
    assert "plot: " in output, errors
    assert (tmp_path / odd).exists()


def test_quiet_leaves_the_result_and_verbose_adds_records(lamae):
    assert lamae("synth", "tree", "--records", 30, "--subjects", 20)[1].splitlines()[-1].startswith("next: ")
    code, output, errors = lamae("shard", "tree", "shards", "--quiet")
    assert (code, errors) == (0, "")
    assert output.startswith("shards: packed\n")
    assert not [line for line in output.splitlines() if line.startswith(("next:", "pack"))]
    console.set_verbosity("")
    assert lamae("-q", "verify", "shards")[1].splitlines() == ["shards: whole, 30 records in 1 shards"]
    console.set_verbosity("")
    assert len(lamae("verify", "shards")[1].splitlines()) > 1
    code, _, errors = lamae("verify", "nowhere", "--quiet")
    assert (code, errors.count("lamae: ")) == (2, 1)
    lamae("-v", "verify", "shards")
    assert logging.getLogger("lamae").level == logging.DEBUG
    code, _, errors = lamae("verify", "shards", "-q", "-v")
    assert code == 2
    assert "which of the two?" in errors


def test_quiet_keeps_warnings_of_the_log_and_what_is_below_them_for_a_file(monkeypatch):
    handler = logging.StreamHandler()
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    console.set_verbosity("quiet")
    assert handler.level == logging.WARNING
    assert logging.getLogger("lamae").level == logging.INFO


def test_a_shell_completes_verbs():
    environment = {**os.environ, "_LAMAE_COMPLETE": "complete_bash", "COMP_WORDS": "lamae che", "COMP_CWORD": "1"}
    program = "import sys; from lamae.cli.app import main; sys.argv = ['lamae']; main()"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["checkpoints"], done.stderr


def test_a_read_beyond_the_end_is_no_silent_abort(monkeypatch):
    app = typer.Typer(cls=cli.app.info.cls)
    app.callback()(lambda: None)

    @app.command()
    def read() -> None:
        raise EOFError

    monkeypatch.setattr(sys, "argv", ["lamae", "read"])
    with pytest.raises(RuntimeError, match="beyond its end"):
        app()


def test_a_terminated_command_says_so_and_ends_as_the_signal_would(tmp_path):
    process = lamae_process("synth", tmp_path / "out", "--records", "100000")
    assert process.stdout is not None
    process.stdout.readline()
    process.terminate()
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGTERM
    assert errors.splitlines()[-1].startswith("lamae: terminated by SIGTERM; what is complete stays")


@pytest.mark.parametrize(
    ("error", "printed_by"),
    [
        (UsageError("no such directory"), [0, 2]),  # one of each machine
        (LamaeError("record corrupt"), [0, 1, 2, 3]),
    ],
)
def test_a_refusal_is_printed_once_and_a_ranks_own_failure_by_that_rank(error, printed_by):
    places = [{"RANK": str(rank), "LOCAL_RANK": str(rank % 2)} for rank in range(4)]
    assert [rank for rank, place in enumerate(places) if prints_error(error, place)] == printed_by
    error.all_ranks = True
    assert [rank for rank, place in enumerate(places) if prints_error(error, place)] == [0]
    assert prints_error(error, {})
