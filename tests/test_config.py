"""A configuration is composed in layers, and whatever is wrong in it is one line that names the key."""

import dataclasses

import pytest

from lamae.base import keys, settings
from lamae.base.errors import UsageError
from lamae.cluster import profile
from lamae.evaluate.finetune.options import FinetuneOptions
from lamae.sharding.options import PackOptions
from lamae.study.plan import StudyPlan, load_plan
from lamae.train import runconfig


@pytest.fixture
def yaml_file(tmp_path):
    def write(text: str):
        path = tmp_path / "run.yaml"
        path.write_text(text)
        return path

    return write


COMPLETE = "run: {dir: out}\ndata: {path: shards}\ntrain: {steps: 7}\n"


def test_layers_override_in_order(yaml_file):
    loaded = runconfig.load(yaml_file(COMPLETE), ["train.seed=3", "optim.lr=0.01"])
    assert (loaded.train.steps, loaded.train.seed, loaded.optim.lr) == (7, 3, 0.01)
    assert loaded.engine.zero_stage == 1  # a default that neither layer touches


def test_stored_configuration_comes_back_equal(yaml_file):
    loaded = runconfig.load(yaml_file(COMPLETE), ["engine.deepspeed={zero_optimization: {overlap_comm: false}}"])
    again = runconfig.from_dict(settings.to_dict(loaded))
    assert again == loaded
    assert again.engine.deepspeed == {"zero_optimization": {"overlap_comm": False}}
    assert runconfig.load(yaml_file(settings.to_yaml(loaded))) == loaded


def test_hash_ignores_where_the_run_lives_and_nothing_else(yaml_file):
    loaded = runconfig.load(yaml_file(COMPLETE))
    moved = runconfig.load(yaml_file(COMPLETE), ["run.dir=elsewhere"])
    longer = runconfig.load(yaml_file(COMPLETE), ["train.steps=8"])
    assert runconfig.config_hash(loaded) == runconfig.config_hash(moved) != runconfig.config_hash(longer)


def test_a_bad_value_is_laid_at_the_door_of_whoever_gave_it(yaml_file):
    with pytest.raises(UsageError, match=r"^command line: train\.steps=0 must be at least 1"):
        runconfig.load(yaml_file(COMPLETE), ["train.steps=0"])
    path = yaml_file(COMPLETE.replace("steps: 7", "steps: 0"))
    with pytest.raises(UsageError, match=r"^.*run\.yaml: train\.steps=0 must be at least 1"):
        runconfig.load(path, ["train.seed=1"])
    with pytest.raises(UsageError, match=r"^command line: engine\.deepspeed\.fp16 is refused"):
        runconfig.load(path, ["train.steps=3", "engine.deepspeed={fp16: {enabled: true}}"])
    with pytest.raises(UsageError, match=r"^command line: nodes=2: kind=local has one node"):  # a key without a dot
        profile.load("local", ["nodes=2"])


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (COMPLETE, ["train.stepz=1"], r"command line: unknown key train\.stepz; did you mean train\.steps\?"),
        (COMPLETE + "trainer: {}\n", [], r"run\.yaml: unknown key trainer; did you mean train\?"),
        (COMPLETE, ["zzz=1"], r"unknown key zzz; known are .*engine"),
        (COMPLETE, ["train.steps"], r"override 'train\.steps' has no '='"),
        (COMPLETE, ["train.steps=many"], r"train\.steps: .*many"),
        (COMPLETE, ["engine.precision=fp16"], r"engine\.precision='fp16' is none of auto, fp32, bf16"),
        (COMPLETE, ["engine.zero_stage=0", "engine.precision=bf16"], r"engine\.zero_stage=0 .*wrong"),
        ("train: {steps: 7}\n", [], r"data\.path, run\.dir must be given"),
        ("- a\n- list\n", [], r"run\.yaml: a configuration is a mapping"),
        ("train: {steps: [\n", [], r"run\.yaml: not valid YAML"),
        ("5", [], r"run\.yaml: not valid YAML: no mapping of keys"),
        (COMPLETE + "model: [1, 2]\n", [], r"run\.yaml: model: expected a mapping of keys, not \[1, 2\]"),
        (COMPLETE + "model:\n", [], r"run\.yaml: model: expected a mapping of keys, not None"),
        (COMPLETE, ["model=5"], r"command line: model: expected a mapping of keys, not 5"),
        (COMPLETE + "model: {width: [1]}\n", [], r"model\.width: expected a whole number, not \[1\]"),
        (COMPLETE + "model.width: 64\n", [], r"model\.width: write it as a mapping, model: \{width: …\}"),
        (COMPLETE + "mask: {weights: [1]}\n", [], r"mask\.weights: expected a mapping of names to a number, not \[1\]"),
        (COMPLETE + "engine: {deepspeed: [1]}\n", [], r"engine\.deepspeed: expected a mapping of names to any value"),
        (COMPLETE, ["run.dir=[a]"], r"run\.dir: expected text, not \['a'\]"),
        (COMPLETE, ["run.dir="], r"run\.dir: expected text, not None"),
        (COMPLETE, ["run.dir=' '"], r"run\.dir=' ' must name a directory"),
    ],
)
def test_bad_configuration_is_one_line(yaml_file, text, overrides, message):
    with pytest.raises(UsageError, match=message) as caught:
        runconfig.load(yaml_file(text), overrides)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "value", ["${oc.env:SECRET}", "/data/${oc.env:SECRET}", "${data.path}", "${nowhere}", "${x:y}"]
)
def test_nothing_is_filled_in_from_the_environment_or_elsewhere(yaml_file, monkeypatch, value):
    """A configuration, checkpoint or plan from somewhere else must not read what is ours."""
    monkeypatch.setenv("SECRET", "hunter2")
    message = r"is not filled in; write the value itself"
    for load in (
        lambda: runconfig.load(yaml_file(COMPLETE.replace("out", f"'{value}'"))),
        lambda: runconfig.load(yaml_file(COMPLETE + f"engine: {{deepspeed: {{a: ['{value}']}}}}")),
        lambda: runconfig.load(yaml_file(COMPLETE + f"model: '{value}'")),
        lambda: runconfig.load(yaml_file(COMPLETE), [f"run.dir={value}"]),
        lambda: runconfig.from_dict({"run": {"dir": value}, "data": {"path": "shards"}}),
        lambda: profile.load(yaml_file(f"environment: {{A: '{value}'}}")),
        lambda: load_plan(yaml_file(f"set: ['run.dir={value}']")),
    ):
        with pytest.raises(UsageError, match=message) as caught:
            load()
        assert "hunter2" not in str(caught.value)


def test_missing_file_is_named_with_the_names_there_are(tmp_path):
    with pytest.raises(UsageError, match=r"nowhere\.yaml: No such file .*: base, large, small, tiny, tiny-200ms$"):
        runconfig.load("nowhere.yaml")
    with pytest.raises(UsageError, match=r"^smal: No such file .*did you mean small\?"):
        runconfig.load("smal")
    with pytest.raises(UsageError, match=r"^lokal: .*did you mean local\? .*cpu-partition, generic-gpu, local$"):
        profile.load("lokal")
    with pytest.raises(UsageError, match=r"Is a directory; names that"):
        runconfig.load(tmp_path)
    (tmp_path / "config.yaml").write_text(COMPLETE)
    with pytest.raises(UsageError, match=rf"Is a directory; did you mean {tmp_path}/config.yaml\?"):
        runconfig.load(tmp_path)


def test_a_name_is_found_beside_a_directory_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    for name in ("tiny", "tiny.yaml"):
        assert runconfig.load(name, ["run.dir=tiny", "data.path=shards"]).model.width == 128


def test_what_must_be_given_is_said_with_what_it_is(yaml_file):
    with pytest.raises(UsageError, match=r"data\.path must be given.*data\.path is: .*'lamae shard'"):
        runconfig.load("tiny", ["run.dir=out"])
    path = yaml_file(COMPLETE + 'monitor: {probe_labels: "???"}\n')  # has a default, and the file takes it away
    with pytest.raises(UsageError, match=r"monitor\.probe_labels must be given"):
        runconfig.load(path)
    assert runconfig.load(path, ["monitor.probe_labels=x.zarr"]).monitor.probe_labels == "x.zarr"


def sections(cls):
    yield cls
    for field in dataclasses.fields(cls):
        section = keys.section_of(cls, field.name)
        if section is not None:
            yield from sections(section)


ALL = (runconfig.RunConfig, PackOptions, FinetuneOptions, StudyPlan, profile.Profile)


@pytest.mark.parametrize("cls", [section for cls in ALL for section in sections(cls)], ids=lambda cls: cls.__name__)
def test_every_key_says_what_it_is(cls):
    assert [name for name, text in keys.docstrings(cls).items() if not text.strip()] == []


def test_the_list_of_keys_shows_meaning_and_origin_and_loads_again(yaml_file):
    overrides = ["optim.lr=0.01", "engine.deepspeed={zero_optimization: {overlap_comm: false}}", "run.dir=out"]
    page = settings.explain(runconfig.RunConfig(), "tiny", overrides, kind="pretrain")
    lines = [line.strip() for line in page.splitlines()]
    assert lines[lines.index("lr: 0.01  # command line, default 0.001") - 1] == (
        "# Learning rate at the end of the warm-up."
    )
    assert "rate_hz: 100  # tiny, default 250" in lines
    assert "eps: 1.0e-08  # default" in lines
    assert "path: ???  # default" in lines
    given = ["data.path=shards"]
    assert runconfig.load(yaml_file(page), given) == runconfig.load("tiny", [*overrides, *given])
    with pytest.raises(UsageError, match=r"command line: train\.steps=0"):
        settings.explain(runconfig.RunConfig(), "tiny", ["train.steps=0"], kind="pretrain")


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (["train", "tiny", "train.steps=7"], ["steps: 7  # command line, default 10000", "dir: ???  # default"]),
        (["train"], ["steps: 10000  # default"]),
        (
            ["shard", "--rate", "100", "quality.flat=reject"],
            ["rate_hz: 100.0  # command line, default null", "flat: reject  # command line, default mask"],
        ),
        (["finetune", "lr=1"], ["lr: 1.0  # command line, default 0.001"]),
        (["study", "claim"], ["lamae: [model.kind=lamae]", "protocol: patients  # claim, default splits"]),
        (["study"], ["methods: {}  # default"]),
        (["submit", "--cluster", "generic-gpu", "--set", "nodes=3"], ["nodes: '3'  # command line, default '1'"]),
    ],
)
def test_every_verb_with_keys_lists_them(lamae, tmp_path, arguments, lines):
    code, output, errors = lamae(*arguments, "--print-config")
    assert (code, errors) == (0, "")
    assert all(line in output for line in lines), output
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["tiny", "tiny-200ms", "small", "base", "large"])
def test_named_runs_are_complete(name):
    loaded = runconfig.load(f"configs/pretrain/{name}.yaml", ["run.dir=out", "data.path=shards"])
    assert loaded.model.kind == "lamae"


def test_named_runs_are_found_from_any_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert runconfig.load("configs/pretrain/tiny.yaml", ["run.dir=out", "data.path=shards"]).train.steps > 0


def test_text_is_taken_as_it_is_written(yaml_file):
    written = yaml_file("account: 0012\nslurm: {time: 1:30:00, nice: 100, exclusive: on}\nenvironment: {A: 0123}\n")
    chosen = profile.load(written, ["qos=on", "slurm.begin=16:00", "environment.B=1e3", "exclude_failing_nodes=off"])
    assert (chosen.account, chosen.qos) == ("0012", "on")
    assert chosen.slurm == {"time": "1:30:00", "nice": 100, "exclusive": True, "begin": "16:00"}
    assert chosen.environment == {"A": "0123", "B": "1e3"}
    assert chosen.exclude_failing_nodes is False
    config = runconfig.load("tiny", ["run.dir=007", "data.path=[001,002]", "optim.lr=1e-3", "train.steps=1_000"])
    assert (config.run.dir, config.data.paths) == ("007", ["001", "002"])
    assert (config.optim.lr, config.train.steps) == (1e-3, 1000)


@pytest.mark.parametrize(
    "override",
    [
        "optim.lr=.inf",
        "optim.weight_decay=.inf",
        "optim.eps=.inf",
        "optim.clip_norm=.inf",
        "optim.restart_lr=.inf",
        "model.align_weight=.inf",
        "signal.clip_mv=.inf",
        "monitor.hang_factor=.inf",
        "signal.scale_mv=.inf",
        "signal.seconds=.inf",
        "engine.timeout_s=.inf",
    ],
)
def test_what_is_infinite_is_refused(override):
    key = override.partition("=")[0]
    with pytest.raises(UsageError, match=f"{key}=inf must be finite"):
        runconfig.load("tiny", ["run.dir=r", "data.path=d", override])


def test_raw_options_of_another_shape_are_refused():
    with pytest.raises(UsageError, match=r"engine.deepspeed.zero_optimization=3 must be a mapping"):
        runconfig.load("tiny", ["run.dir=r", "data.path=d", "engine.deepspeed.zero_optimization=3"])


def test_any_configuration_takes_overrides():
    changed = settings.override(PackOptions(workers=2), ["quality.flat=reject", "max_per_subject=5"])
    assert (changed.workers, changed.quality.flat, changed.max_per_subject) == (2, "reject", 5)
    with pytest.raises(UsageError, match=r"unknown key quality\.flatt; did you mean quality\.flat\?"):
        settings.override(PackOptions(), ["quality.flatt=reject"])
    with pytest.raises(UsageError, match=r"quality\.flat='loud' is none of"):
        settings.override(PackOptions(), ["quality.flat=loud"])


def test_configurations_of_before_load_without_the_keys_that_are_gone(yaml_file):
    before = COMPLETE + "model: {positions: sincos, huber_delta: 1.0}\nsignal: {highpass_hz: 0, noise_mv: 0}\n"
    assert runconfig.load(yaml_file(before)) == runconfig.load(yaml_file(COMPLETE))
    with pytest.raises(UsageError, match=r"unknown key model\.positions"):
        runconfig.load(yaml_file(COMPLETE + "model: {positions: learned}\n"))


def test_a_section_is_checked_before_what_all_of_them_say_together(yaml_file):
    with pytest.raises(UsageError, match=r"train\.steps=-5 must be at least 1"):
        runconfig.load(yaml_file(COMPLETE), ["train.steps=-5"])
