"""Files of results: whether they can be written is known before the work."""

import pytest

from lamae.base import files
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
