"""A configuration is composed in layers, and whatever is wrong in it is one line that names the key."""

import pytest

from lamae import config
from lamae.sharding.errors import UsageError
from lamae.sharding.options import PackOptions


@pytest.fixture
def yaml_file(tmp_path):
    def write(text: str):
        path = tmp_path / "run.yaml"
        path.write_text(text)
        return path

    return write


COMPLETE = "run: {dir: out}\ndata: {path: shards}\ntrain: {steps: 7}\n"


def test_layers_override_in_order(yaml_file):
    loaded = config.load(yaml_file(COMPLETE), ["train.seed=3", "optim.lr=0.01"])
    assert (loaded.train.steps, loaded.train.seed, loaded.optim.lr) == (7, 3, 0.01)
    assert loaded.engine.zero_stage == 1  # a default that neither layer touches


def test_stored_configuration_comes_back_equal(yaml_file):
    loaded = config.load(yaml_file(COMPLETE), ["engine.deepspeed={zero_optimization: {overlap_comm: false}}"])
    again = config.from_dict(config.to_dict(loaded))
    assert again == loaded
    assert again.engine.deepspeed == {"zero_optimization": {"overlap_comm": False}}
    assert config.load(yaml_file(config.to_yaml(loaded))) == loaded


def test_hash_ignores_where_the_run_lives_and_nothing_else(yaml_file):
    loaded = config.load(yaml_file(COMPLETE))
    moved = config.load(yaml_file(COMPLETE), ["run.dir=elsewhere"])
    longer = config.load(yaml_file(COMPLETE), ["train.steps=8"])
    assert config.config_hash(loaded) == config.config_hash(moved) != config.config_hash(longer)


def test_a_bad_value_is_laid_at_the_door_of_whoever_gave_it(yaml_file):
    with pytest.raises(UsageError, match=r"^command line: train\.steps=0 must be at least 1"):
        config.load(yaml_file(COMPLETE), ["train.steps=0"])
    path = yaml_file(COMPLETE.replace("steps: 7", "steps: 0"))
    with pytest.raises(UsageError, match=r"^.*run\.yaml: train\.steps=0 must be at least 1"):
        config.load(path, ["train.seed=1"])
    with pytest.raises(UsageError, match=r"^command line: engine\.deepspeed\.fp16 is refused"):
        config.load(path, ["train.steps=3", "engine.deepspeed={fp16: {enabled: true}}"])


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        (COMPLETE, ["train.stepz=1"], r"command line: unknown key train\.stepz; did you mean train\.steps\?"),
        (COMPLETE + "trainer: {}\n", [], r"run\.yaml: unknown key trainer; did you mean train\?"),
        (COMPLETE, ["zzz=1"], r"unknown key zzz; known are .*engine"),
        (COMPLETE, ["train.steps"], r"override 'train\.steps' has no '='"),
        (COMPLETE, ["train.steps=many"], r"train\.steps: .*many"),
        (COMPLETE, ["engine.precision=fp16"], r"engine\.precision='fp16' is none of fp32, bf16"),
        (COMPLETE, ["engine.zero_stage=0"], r"engine\.zero_stage=0 .*wrong"),
        ("train: {steps: 7}\n", [], r"data\.path, run\.dir must be given"),
        ("- a\n- list\n", [], r"run\.yaml: a configuration is a mapping"),
        ("train: {steps: [\n", [], r"run\.yaml: not valid YAML"),
    ],
)
def test_bad_configuration_is_one_line(yaml_file, text, overrides, message):
    with pytest.raises(UsageError, match=message) as caught:
        config.load(yaml_file(text), overrides)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_missing_file_is_named():
    with pytest.raises(UsageError, match=r"nowhere\.yaml: No such file"):
        config.load("nowhere.yaml")


@pytest.mark.parametrize("name", ["tiny", "small", "base", "large"])
def test_named_runs_are_complete(name):
    loaded = config.load(f"configs/pretrain/{name}.yaml", ["run.dir=out", "data.path=shards"])
    assert loaded.model.kind == "lamae"


def test_named_runs_are_found_from_any_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config.load("configs/pretrain/tiny.yaml", ["run.dir=out", "data.path=shards"]).train.steps > 0


def test_any_configuration_takes_overrides():
    changed = config.override(PackOptions(workers=2), ["quality.flat=reject", "max_per_subject=5"])
    assert (changed.workers, changed.quality.flat, changed.max_per_subject) == (2, "reject", 5)
    with pytest.raises(UsageError, match=r"unknown key quality\.flatt; did you mean quality\.flat\?"):
        config.override(PackOptions(), ["quality.flatt=reject"])
    with pytest.raises(UsageError, match=r"quality\.flat='loud' is none of"):
        config.override(PackOptions(), ["quality.flat=loud"])
