"""Files of results: whether they can be written is known before the work."""

import errno
import os
import re
import stat
from types import SimpleNamespace

import pytest

from lamae.base import files, outputs, validate
from lamae.base.errors import LamaeError, UsageError


def test_a_place_that_takes_no_files_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "x.json", "/proc/self/x.json", "/proc/none/x.json"):
        with pytest.raises(UsageError, match=r"--json .*x\.json: nothing can be written there"):
            files.check_writable("--json", type(tmp_path)(path))
    with pytest.raises(UsageError, match="is a directory"):
        files.check_writable("--json", tmp_path)
    files.check_writable("--json", tmp_path / "new" / "x.json")
    files.check_writable("--json", None)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_writing_that_fails_is_one_line(tmp_path):
    with pytest.raises(LamaeError, match=r"/proc/none/x\.json: cannot be written"):
        files.write_json(type(tmp_path)("/proc/none/x.json"), {})


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO])
def test_a_share_that_cannot_sync_directories_takes_files_all_the_same(tmp_path, monkeypatch, number):
    real = os.fsync

    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    if number == errno.EIO:
        with pytest.raises(LamaeError, match="cannot be written"):
            files.write_json(tmp_path / "x.json", {"a": 1})
    else:
        files.write_json(tmp_path / "x.json", {"a": 1})
    assert files.read_json(tmp_path / "x.json") == {"a": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_what_differs_is_named_by_its_key_with_both_values(tmp_path):
    found = {"steps": 2, "model": {"width": 8, "kind": "lamae"}, "labels_sha256": "0" * 64}
    wanted = {"steps": 2, "model": {"width": 16, "kind": "lamae"}, "labels_sha256": "1" * 64, "leads": (0, 1)}
    with pytest.raises(UsageError) as caught:
        outputs.refuse_other(found, wanted, "out: holds another run")
    assert str(caught.value) == (
        "out: holds another run (labels_sha256 differs; leads: None -> [0, 1]; model.width: 8 -> 16); "
        "remove it or choose another name"
    )
    outputs.refuse_other({"leads": [0, 1]}, {"leads": (0, 1)}, "out: the same, as JSON keeps it")


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (lambda config: validate.at_least(config, "train", steps=3), "train.steps=2 must be at least 3"),
        (lambda config: validate.above(config, steps=2), "steps=2 must be above 2"),
        (lambda config: validate.below(config, "optim", beta=1), "optim.beta=nan must lie in [0, 1)"),
        (lambda config: validate.is_share(config, "", "steps"), "steps=2 must lie in 0..1"),
        (lambda config: validate.one_of(config, "model", kind=("a", "b")), "model.kind='c' is none of a, b"),
    ],
)
def test_a_value_against_its_rule_is_named_with_it(rule, message):
    config = SimpleNamespace(steps=2, beta=float("nan"), kind="c", stop_at=None)
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        rule(config)
    validate.at_least(config, stop_at=1)  # None: not given


@pytest.mark.parametrize(
    "arguments",
    [
        ["plan", "tiny", "--json", "/proc/x.json"],
        ["plan", "tiny", "--plot", "/proc/x.png"],
        ["bench", "kernels", "--json", "/proc/x.json"],
        ["bench", "all", "--report", "/proc/x.md"],
        ["demo", "--out", "/proc/demo"],
        ["submit", "verify", "shards", "--folder", "/proc/jobs"],
        ["submit", "train", "tiny", "run.dir=/proc/run", "data.path=shards"],
    ],
)
def test_verbs_refuse_such_places_at_once(lamae, arguments, monkeypatch):
    from lamae.benchmarks import cli

    monkeypatch.setattr(cli, "run_benchmark", lambda *words, **options: pytest.fail("worked first"))
    code, _, errors = lamae(*arguments)
    assert code in (1, 2)
    assert [line.startswith("lamae: /proc/" if "--" not in line else "lamae: --") for line in errors.splitlines()] == [
        True
    ]
