"""The first check of a GPU, in its short form on a CPU: every part on its own, started again it goes on."""

import json
import sys
import time

import pytest
import torch

from lamae.base.errors import LamaeError, UsageError
from lamae.benchmarks import gpu_check
from lamae.benchmarks.gpu_check import Part
from lamae.benchmarks.report import render_report
from lamae.benchmarks.result import read_result
from lamae.cli import app as cli

BENCHMARKS = ("kernels", "step-small", "step-base")
"""Parts that other tests run in forms that are smaller still."""


def fail(_folder, *, quick):
    raise RuntimeError(f"nothing of that kind\nhere, quick={quick}")


def hang(_folder, *, quick):
    time.sleep(300)


def small_part(_folder, *, quick):
    return {"settings": {"quick": quick}, "ratios": {"a": 2.0}, "ratio_spread": {"a": [1.0, 3.0]}}


def run_here(function, /, *, timeout_s, **arguments):
    return function({}, **arguments)


@pytest.mark.timeout(600)
def test_the_short_form_runs_on_a_cpu_and_goes_on_where_it_was(tmp_path, monkeypatch, capsys):
    path = tmp_path / "check.json"
    parts = {name: part for name, part in gpu_check.PARTS.items() if name not in BENCHMARKS}
    monkeypatch.setattr(gpu_check, "PARTS", {"no-such-part": Part(fail, 60), **parts})
    monkeypatch.setattr(sys, "argv", ["lamae", "bench", "gpu-check", "--quick", "--minutes", "20", "--json", str(path)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 1
    assert "gpu-check: no-such-part failed" in capsys.readouterr().err
    report = read_result(path)
    assert report["quick"] is True
    assert report["failed"] == {"no-such-part": "KeyError: 'no-such-part'"}  # and it did not stop the others
    results = report["results"]
    assert results.keys() == parts.keys()
    for part, count, most in (("kernel-parity", 4, 3e-2), ("zero-parity", 6, 5e-2)):
        errors = [entry["error"] for entry in results[part]["measurements"].values()]
        assert len(errors) == count
        assert max(errors) <= most
    training = results["training"]
    assert training["settings"] == {"device": "cpu", "steps": 4, "pinned": False}
    assert 0 <= training["measurements"]["training"]["data_wait_share"] < 1
    assert results["embed"]["measurements"]["embed"]["records_per_s"] > 0
    assert any(line.startswith("forward") for line in results["profile"]["table"])
    assert list((tmp_path / "check.json.profile").glob("*/*.json.gz"))
    assert "## training" in render_report([report])

    monkeypatch.setattr(gpu_check, "PARTS", parts)
    began = time.monotonic()
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert not left.value.code
    assert time.monotonic() - began < 10  # nothing was run again
    assert not (tmp_path / "check.json.work").exists()
    assert read_result(path)["results"] == results


def test_a_part_that_hangs_ends_at_its_limit_and_one_without_time_left_is_not_begun(tmp_path, monkeypatch):
    path = tmp_path / "check.json"
    monkeypatch.setattr(gpu_check, "run_part", hang_part)
    monkeypatch.setattr(gpu_check, "PARTS", {"hanging": Part(hang, 4.0)})
    report = gpu_check.check(path, minutes=1.0, quick=True)
    assert report["failed"] == {"hanging": "rank 0 of 1: no answer in time"}
    report = gpu_check.check(path, minutes=0.01, quick=True)
    assert report["failed"] == {"hanging": "not begun: 0.01 minutes were over; run the same command again"}


def hang_part(_session, **_options):
    time.sleep(300)


def test_a_part_is_in_the_report_before_the_next_begins_with_what_it_was_made_on(tmp_path, monkeypatch):
    path, seen = tmp_path / "check.json", []

    def look(_folder, *, quick):
        seen.append(json.loads(path.read_text())["ratios"])
        return {}

    monkeypatch.setattr(gpu_check, "call_apart", run_here)
    monkeypatch.setattr(gpu_check, "PARTS", {"one": Part(small_part, 9), "two": Part(look, 9)})
    report = gpu_check.check(path, minutes=1.0, quick=False)
    assert seen == [{"one.a": 2.0}]
    assert report["results"]["one"]["settings"] == {"device": "cpu", "quick": False}
    assert {"hardware", "versions", "revision", "wall_s"} <= report["results"]["two"].keys()
    with pytest.raises(UsageError, match="no report of this form of gpu-check"):
        gpu_check.check(path, minutes=1.0, quick=True)


def test_attention_whose_gradient_is_no_number_fails_the_check(tmp_path, monkeypatch):
    attend = gpu_check._attend

    def without_gradient(qkv, mask, implementation):
        out, gradient = attend(qkv, mask, implementation)
        return out, gradient * (float("nan") if implementation == "sdpa" and qkv.dtype == torch.float32 else 1)

    monkeypatch.setattr(gpu_check, "_attend", without_gradient)
    with pytest.raises(LamaeError, match=r"differs from float64: sdpa in fp32 by nan$"):
        gpu_check.check_kernels(tmp_path, quick=True)
