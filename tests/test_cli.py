"""The command as a user meets it: help for every verb, one line and an exit code for whatever is wrong."""

import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from lamae import console
from lamae.cli import app as cli
from tests.shardsets import random_adc, write_shard_set

VERBS = sorted(command.callback.__name__ for command in cli.app.registered_commands)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb):
    result = CliRunner(env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"}).invoke(
        cli.app, [verb.replace("_", "-"), "--help"]
    )
    assert result.exit_code == 0, result.output
    assert "Usage" in result.output
    assert not re.search(r"\w…", result.output), "cut off in 80 columns"
    assert "[default: no-" not in result.output, "an option that turns off what is off"


def test_help_comes_without_loading_torch():
    code = "import sys, lamae.cli; assert 'torch' not in sys.modules, 'torch was imported'"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["shard", "nowhere", "out"], "nowhere"),
        (["verify", "nowhere"], "nowhere: no such directory; make a shard set"),
        (["inspect", "nowhere"], "nowhere: no such directory"),
        (["train", "nowhere.yaml"], "nowhere.yaml: No such file"),
        (
            ["train", "configs/pretrain/tiny.yaml", "run.dir=r", "data.path=d", "train.stepz=1"],
            "did you mean train.steps",
        ),
        (["train", "configs/pretrain/tiny.yaml", "run.dir=r"], "data.path must be given"),
        (["train", "configs/pretrain/tiny.yaml", "run.dir=r", "data.path=nowhere"], "nowhere: no such directory"),
        (["embed", "nowhere", "shards", "out.zarr"], "no such directory"),
        (["embed", "nowhere", "shards", "out.zarr", "--leads", "I,V9"], "'V9' is no lead"),
        (["probe", "nowhere.zarr", "labels.zarr"], "no such store"),
        (["embed", "nowhere", "shards", "out.zarr", "--device", "foo"], "--device foo: is none of cpu, cuda, auto"),
        (["bench", "nothing"], "no benchmark 'nothing'"),
        (["checkpoints", "nowhere"], "nowhere: no checkpoints/"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(lamae, arguments, message, tmp_path):
    code, _, errors = lamae(*arguments)
    assert code == 2
    lines = [line for line in errors.splitlines() if line.startswith("lamae: ")]
    assert len(lines) == 1, errors
    assert message in lines[0]
    assert not list(tmp_path.iterdir()), "a refused command left something behind"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["embed", "run"], "Missing argument 'SHARDS'"),
        (["probe", "store.zarr", "labels.zarr", "--fractoin", "0.1"], "No such option: --fractoin"),
        (["compare", "shards", "labels.zarr", "--device"], "requires an argument"),
        (["bench", "loader", "--quik"], "No such option: --quik"),
        (["bench", "nothing"], "no benchmark 'nothing'"),
        (["finetune", "run", "shards", "labels.zarr", "out", "stepz=4"], "did you mean steps"),
        (["study", "claim", "--out", "studies", "nokey=3"], "unknown key nokey"),
    ],
)
def test_what_a_verb_would_not_understand_is_not_submitted(lamae, arguments, message, tmp_path):
    code, output, errors = lamae("submit", *arguments, "--cluster", "local")
    assert code == 2
    assert message in errors
    assert "plan:" not in output
    assert not list(tmp_path.iterdir())


def test_options_and_words_of_a_submitted_verb_are_taken_together(lamae):
    code, output, _ = lamae(
        "submit", "shard", "source", "out", "--seconds", "10", "windows=all", "--cluster", "local", "--dry-run"
    )
    assert code == 0
    assert "shard source out --seconds 10 windows=all" in output


def test_module_and_exit_code_reach_the_shell(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "lamae", "verify", "nowhere"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("lamae: nowhere: no such directory")


@pytest.mark.parametrize("name", ["ptb-xl-1.0.3", "mimic.zip"])
def test_recordings_in_place_of_a_shard_set_are_packed_beside_them(lamae, tmp_path, name):
    if name.endswith(".zip"):
        (tmp_path / name).write_text("")
    else:
        (tmp_path / name).mkdir()
        (tmp_path / name / "ptbxl_database.csv").write_text("ecg_id\n")
    code, _, errors = lamae("train", "tiny", "run.dir=r", f"data.path={name}")
    assert code == 2
    assert f"'lamae shard {name} {name.removesuffix('.zip')}-shards'" in errors


def test_a_rate_that_does_not_divide_is_answered_with_how_to_pack(lamae, tmp_path):
    write_shard_set(tmp_path / "shards", random_adc(3, 2570), rate_hz=257.0)
    code, _, errors = lamae("train", "tiny", "run.dir=r", "data.path=shards")
    assert code == 2
    assert "257 Hz" in errors
    assert "--rate 100" in errors


def test_inspect_prints_a_record_and_saves_its_plot(lamae, tmp_path):
    write_shard_set(tmp_path / "shards", random_adc(3, 5000))
    code, output, _ = lamae("inspect", "shards", "--save", "plot.png")
    assert code == 0
    assert "V6" in output
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_verify_names_the_damaged_shard_and_fails(lamae, tmp_path):
    write_shard_set(tmp_path / "shards", random_adc(3, 500))
    tar = tmp_path / "shards" / "shards" / "000000.tar"
    content = bytearray(tar.read_bytes())
    content[1200] ^= 1
    tar.write_bytes(content)
    code, _, errors = lamae("verify", "shards")
    assert code == 1
    assert "000000.tar" in errors


def test_version_is_told(lamae):
    code, output, _ = lamae("--version")
    assert code == 0
    assert output.split()[0] == "lamae"


def test_training_into_a_shard_set_is_refused(lamae, tmp_path):
    write_shard_set(tmp_path / "shards", random_adc(3, 5000))
    code, _, errors = lamae("train", "configs/pretrain/tiny.yaml", "run.dir=shards", "data.path=shards")
    assert code == 2
    assert "run.dir=shards: is a shard set" in errors
    assert not (tmp_path / "shards" / "checkpoints").exists()


def test_what_is_printed_is_not_obeyed_by_the_terminal(capsys):
    name = "a\x1b]0;title\x07b\x9b2J"
    console.say(f"record {name}\nnext")
    console.print_table("records", ["key", name], [[name, "line\nbreak"]])
    console.print_error(f"no record {name}")
    printed = "".join(capsys.readouterr())
    assert not set(printed) & {"\x1b", "\x07", "\x9b"}
    assert printed.count(r"a\x1b]0;title\x07b\x9b2J") == 4
    assert r"line\nbreak" in printed
