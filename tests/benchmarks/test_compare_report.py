"""Comparing results, joining them, and the page made of them."""

import json
import sys

import pytest

from lamae.base.errors import UsageError
from lamae.benchmarks.compare import MOVED, ONLY_ONE, WITHIN, compare, differing_conditions
from lamae.benchmarks.report import render_report
from lamae.benchmarks.result import combine, describe_result, read_result, write_result
from lamae.benchmarks.timing import Ratio, Timing, ratio_entries
from lamae.cli import app as cli


def make_result(name="loader", **ratios):
    timing = Timing((0.5, 0.25, 0.4), 100)
    return {
        **describe_result(name, quick=False),
        "wall_s": 1.0,
        "settings": {},
        "measurements": {"ours": timing.to_dict()},
        **ratio_entries({ratio: Ratio(values) for ratio, values in ratios.items()}),
    }


@pytest.fixture
def lamae(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["lamae", "bench", *map(str, arguments)])
        monkeypatch.setattr(cli.console, "console", cli.console.Console(width=200))
        with pytest.raises(SystemExit) as caught:
            cli.main()
        printed = capsys.readouterr()
        return caught.value.code or 0, printed.out, printed.err

    return run


def test_only_what_leaves_both_spreads_has_moved():
    before = make_result(steady=(1.0, 1.1, 1.2), faster=(1.0, 1.1, 1.2), gone=(1.0,))
    after = make_result(steady=(1.15, 1.3, 1.4), faster=(1.3, 1.4, 1.5), new=(2.0,))
    changes = {change.name: change for change in compare(before, after)}
    assert changes["steady"].verdict == WITHIN
    assert changes["faster"].verdict == MOVED
    assert changes["faster"].factor == pytest.approx(1.4 / 1.1)
    assert changes["gone"].verdict == changes["new"].verdict == ONLY_ONE
    slower = {change.name: change.verdict for change in compare(after, before)}
    assert slower["faster"] == MOVED


def test_a_report_names_the_command_with_its_options(lamae, tmp_path, monkeypatch):
    monkeypatch.setattr(cli.bench_cli, "run_benchmark", lambda name, **options: make_result(name, a=(1.0,)))
    path = tmp_path / "r.json"
    options = ["--mode", "weak,strong", "--zero", "1,2", "--size", "base", "--precision", "bf16"]
    assert lamae("scaling", "optim.lr=0.1", *options, "--json", path)[0] == 0
    command = "lamae bench scaling optim.lr=0.1 --mode weak,strong --zero 1,2 --precision bf16 --size base --records 4"
    assert f"`{command}`" in lamae("report", path)[1]
    assert lamae("kernels", "--quick", "--json", path)[0] == 0
    assert "`lamae bench kernels --quick`" in lamae("report", path)[1]


def test_conditions_that_differ_are_named():
    before, after = make_result(a=(1.0,)), make_result(a=(1.0,))
    assert differing_conditions(before, after) == []
    after["versions"] = after["versions"] | {"torch": "0.1"}
    after["quick"] = True
    lines = differing_conditions(before, after)
    assert len(lines) == 2
    assert any("torch" in line and "0.1" in line for line in lines)


def test_compare_prints_ratios_and_flags(lamae, tmp_path):
    write_result(make_result(up=(1.0, 1.01), same=(2.0, 2.1)), tmp_path / "a.json")
    write_result(make_result(up=(1.5, 1.6), same=(2.05, 2.2)), tmp_path / "b.json")
    code, output, _ = lamae("compare", tmp_path / "a.json", tmp_path / "b.json")
    assert code == 0
    assert "1 of 2 moved beyond both spreads" in output


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file"),
        ("{", "not JSON"),
        ("[1]", "no benchmark result"),
        ('{"ratios": {"a": 1}, "schema_version": 99}', "schema 99"),
    ],
)
def test_files_that_are_no_results_are_refused(text, message, tmp_path):
    path = tmp_path / "a.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError, match=message):
        read_result(path)


def test_results_without_a_ratio_in_common_are_refused(lamae, tmp_path):
    write_result(make_result(one=(1.0,)), tmp_path / "a.json")
    write_result(make_result(two=(1.0,)), tmp_path / "b.json")
    code, _, errors = lamae("compare", tmp_path / "a.json", tmp_path / "b.json")
    assert code == 2
    assert "no ratio in common" in errors


def test_report_of_joined_results_shows_every_benchmark_and_every_failure(lamae, tmp_path):
    joined = combine(
        {"loader": make_result(vs_peer=(2.0, 3.0)), "shard": make_result("shard", vs_copy=(0.5,))},
        failed={"step": "MemoryError: none left"},
        quick=False,
    )
    assert joined["ratios"] == {"loader.vs_peer": 2.5, "shard.vs_copy": 0.5}
    write_result(joined, tmp_path / "all.json")
    assert lamae("report", tmp_path / "all.json", "--out", tmp_path / "report.md")[0] == 0
    page = (tmp_path / "report.md").read_text()
    assert page.index("## shard") < page.index("## loader") < page.index("## Failed")
    assert "| vs_peer | 2.5 | 2 to 3 |" in page
    assert "MemoryError: none left" in page
    assert json.loads((tmp_path / "all.json").read_text())["failed"]


def test_the_last_of_two_results_of_a_benchmark_is_shown():
    page = render_report([make_result(a=(1.0,)), make_result(a=(4.0,))])
    assert "| a | 4 | 4 to 4 |" in page
    assert page.count("## loader") == 1


def test_bad_benchmark_arguments_are_one_line(lamae):
    code, _, errors = lamae("scaling", "--processes", "1,x")
    assert code == 2
    assert errors.startswith("lamae: --processes 1,x")
