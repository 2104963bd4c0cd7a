"""Two revisions of one benchmark, each run by its own code."""

import subprocess
import sys
from pathlib import Path

import pytest

from lamae.base.errors import LamaeError, UsageError
from lamae.benchmarks import against
from lamae.cli import app as cli

BENCHMARK = """
import json, sys
from lamae import RATE
result = {"schema_version": 1, "quick": "--quick" in sys.argv, "wall_s": 1, "settings": {"size": "tiny"}, "ratios": {}}
result["measurements"] = {"save": {"per_s": RATE}, "floor": {"per_s": 5.0}, str(RATE): {"per_s": 1.0}, "sizes": {}}
open(sys.argv[sys.argv.index("--json") + 1], "w").write(json.dumps(result))
"""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree whose benchmark saves at 2.0 a second in its only commit and at 6.0 in its files."""
    root = tmp_path / "repository"
    (root / "lamae").mkdir(parents=True)
    (root / "lamae" / "__main__.py").write_text(BENCHMARK)
    (root / "lamae" / "__init__.py").write_text("RATE = 2.0")
    who = ["-c", "user.name=nobody", "-c", "user.email=nobody@localhost"]
    for arguments in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "-m", "Save"], ["tag", "before"]):
        subprocess.run(["git", "-C", str(root), *arguments], check=True)
    (root / "lamae" / "__init__.py").write_text("RATE = 6.0")
    monkeypatch.setattr(against, "ROOT", root)
    return root


def test_each_round_gives_the_ratio_of_what_both_revisions_measure(repository: Path) -> None:
    result = against.run_against("before", "checkpoint", ["--quick"], rounds=2)
    assert result["ratios"] == {"save": 3.0, "floor": 1.0}
    assert result["ratio_spread"]["save"] == [3.0, 3.0]
    assert result["measurements"]["save there"] == {"per_s": 2.0, "min": 2.0, "max": 2.0, "repeats": 2}
    assert result["quick"]
    assert result["settings"]["rounds"] == 2
    assert result["benchmark"].startswith("checkpoint against ")


def test_unknown_names_and_failures_are_one_line(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match="no benchmark 'checkpoints'"):
        against.run_against("before", "checkpoints", rounds=1)
    monkeypatch.setattr(sys, "argv", ["lamae", "bench", "against", "after", "checkpoint", "--size", "tiny"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    assert "git rev-parse says: fatal: Needed a single revision" in capsys.readouterr().err
    (repository / "lamae" / "__init__.py").write_text("raise SystemExit('no disk')")
    with pytest.raises(LamaeError, match=r"lamae bench checkpoint --json .* failed: no disk"):
        against.run_against("before", "checkpoint", rounds=1)
