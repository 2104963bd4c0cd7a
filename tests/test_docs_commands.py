"""Every command of README and docs is one that exists, with options and keys that exist; the README's way works."""

import re
import shutil
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from lamae.base.errors import UsageError
from lamae.base.settings import override
from lamae.cli import app as cli
from lamae.evaluate.finetune.options import FinetuneOptions
from lamae.sharding.options import PackOptions
from lamae.study.plan import load_plan
from lamae.train.runconfig import load
from tests.documented import FENCE, PAGES, ROOT, Command, lamae_commands, make_targets

COMMANDS = lamae_commands()
PLACEHOLDER = re.compile(r"[A-Z][A-Z_]*|…|key=value|\[.*\]")
NUMBERS = {"N": "1", "M": "1", "S": "1", "K": "1"}
OPTIONS = {"shard": PackOptions(), "finetune": FinetuneOptions()}


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_documented_command_parses(command):
    check(list(command.words), inline=command.inline)


def check(words, *, inline):
    """Verb, options and keys of a call of lamae; a verb that is submitted is looked at in turn."""
    known, name = typer.main.get_command(cli.app), ""
    while isinstance(known, TyperGroup) and words:
        name, words = words[0], words[1:]
        if PLACEHOLDER.fullmatch(name):
            return
        if name.startswith("--"):  # of the command itself
            assert any(name in parameter.opts for parameter in known.params), name
            return
        known = known.get_command(typer.Context(known), name)
        assert known is not None, f"no verb {name}"
    words = [NUMBERS.get(word, word) for word in words if word not in ("…", "key=value")]
    if inline:  # may leave required arguments out
        options = {name for parameter in known.params for name in (*parameter.opts, *parameter.secondary_opts)}
        assert {word for word in words if word.startswith("--")} <= options | {"--help"}
        return
    parsed = known.make_context(name, words).params
    if name == "submit":
        check([parsed["verb"], *parsed["arguments"]], inline=False)
    for word in words:
        if word.startswith("configs/"):
            assert (ROOT / word).is_file(), word
    check_keys(name, parsed)


def check_keys(verb, parsed):
    keys = parsed.get("overrides") or []
    config = parsed.get("config") or parsed.get("plan")
    if config and not PLACEHOLDER.fullmatch(config) and verb == "study":
        load_plan(config, keys)
    elif config and not PLACEHOLDER.fullmatch(config):
        load(config, ["run.dir=unused", "data.path=unused", *keys])
    elif verb in OPTIONS:
        override(OPTIONS[verb], keys)


def test_what_does_not_exist_would_be_noticed():
    for line in ("trian x", "train tiny train.stepz=1", "submit train none"):
        with pytest.raises((AssertionError, UsageError)):
            check(line.split(), inline=False)
    for line in ("verify --deep", "bench shard --jason FILE"):
        with pytest.raises((AssertionError, TyperException)):
            check(line.split(), inline=True)
    assert Command("README.md", ("verify", "shards"), inline=False) in COMMANDS
    assert len({command.words[0] for command in COMMANDS}) > 12


def test_a_heading_is_a_line_of_its_own():
    headings = [line for page in PAGES for line in FENCE.sub("", page.read_text()).splitlines() if line[:1] == "#"]
    assert len(headings) > 100
    assert max(map(len, headings)) <= 70, "one that took in the sentence after it"


def test_documented_targets_are_in_the_makefile():
    makefile = (ROOT / "Makefile").read_text()
    assert make_targets() >= {"demo", "test"}
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in make_targets())


# What a laptop puts in place of the README's archive, figures and cluster.
INSTEAD = {
    "DEST": "mimic",
    "8": "1",
    "small": "tiny",
    "base": "tiny",
    "generic-gpu": "local",
}
TINY = {
    "train": ["train.steps=2", "train.global_batch_size=8", "train.micro_batch_size=8", "train.num_threads=1"],
    "submit": ["--dry-run"],
    "labels": ["--min-count", "4"],
    "embed": ["--device", "cpu"],
}


def test_the_readme_from_packing_to_the_probe(lamae):
    """Its commands, in its order, each on what the ones before left."""
    assert lamae("synth", "mimic", "--records", 320, "--subjects", 160, "--seed", 1)[0] == 0
    shutil.copy("mimic/records_w_diag_icd10.csv", ".")
    key = Path("mimic/record_list.csv").read_text().splitlines()[1].split(",")[1]
    ran = []
    for command in COMMANDS:
        if command.page != "README.md" or command.inline or command.words[0] == "jobs":  # nothing was submitted
            continue
        words = [INSTEAD.get(word, key if word.isdigit() and len(word) == 8 else word) for word in command.words]
        code, output, errors = lamae(*words, *TINY.get(words[0], []))
        assert code == 0, f"{command}: {errors or output}"
        ran.append(words[0])
    assert {"shard", "verify", "inspect", "train", "submit", "labels", "embed", "probe"} <= set(ran)
