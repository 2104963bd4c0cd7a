"""The whole way, small: every station runs on the files of the one before, and an interrupted demo goes on."""

import json

import pytest

from lamae.base.errors import UsageError
from lamae.demo import run_demo

SMALL = {"num_records": 120, "seed": 1, "num_processes": 2, "steps": 4}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "out"
    return out, run_demo(out, **SMALL)


def test_report_carries_every_station(demo):
    out, report = demo
    page = (out / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")  # self-contained: nothing is fetched
    assert json.loads((out / "report.json").read_text()).keys() == report.keys()
    assert report["dataset"]["num_records"] + sum(report["dataset"]["rejects"].values()) == SMALL["num_records"]
    assert {run["steps"] for run in report["runs"].values()} == {SMALL["steps"]}
    assert set(report["probe"]) == {"LAMAE", "independent leads", "random weights"}
    assert all(0 <= probe["macro_auroc"]["value"] <= 1 for probe in report["probe"].values())
    situations = {row["situation"] for row in report["reconstruction"]["LAMAE"]}
    assert {"hidden lead, visible instant", "visible lead, hidden span"} <= situations


def test_verdicts_follow_from_the_numbers(demo):
    _, report = demo
    rows = report["reconstruction"]["LAMAE"]
    ratio = next(
        row["ratio_to_best_trivial"]["value"]
        for row in rows
        if row["situation"] == "hidden lead, visible instant" and row["group"] == "I, II, V1-V6"
    )
    assert report["claims"][0]["verdict"] == ("holds" if ratio <= 0.8 else "does not hold")
    # Four steps teach nothing, and the report must say so.
    assert report["claims"][0]["verdict"] == "does not hold"


def test_interrupted_demo_goes_on_where_it_stopped(demo):
    out, report = demo
    untouched = (out / "runs" / "lamae" / "done.json").stat().st_mtime_ns
    (out / "report.html").unlink()
    again = run_demo(out, **SMALL)
    assert again["probe"] == report["probe"]
    assert (out / "runs" / "lamae" / "done.json").stat().st_mtime_ns == untouched


def test_directory_of_another_demo_or_of_anything_else_is_refused(demo, tmp_path):
    out, _ = demo
    with pytest.raises(UsageError, match="other settings"):
        run_demo(out, **{**SMALL, "seed": 2})
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UsageError, match="not empty and no demo"):
        run_demo(tmp_path, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
