"""Every benchmark runs in its short form on even smaller inputs and gives the one schema with sane numbers.

Its figures mean nothing here; that they are there, positive and finite does.
"""

import dataclasses
import importlib
import json
import math
import sys

import pytest
import torch

from lamae.benchmarks import cli as benchmarks_cli
from lamae.benchmarks import kernels, loader, result, scaling, shard, step, timing
from lamae.benchmarks.forecast import validate
from lamae.benchmarks.report import render_report
from lamae.benchmarks.synthetic import load_run
from lamae.cli import app as cli
from lamae.sharding.synth import synthesize

NUM_RECORDS = 64


@pytest.fixture
def tiny_inputs(monkeypatch):
    """The benchmarks' own code on a few records, few repeats, small matrices and the smallest model."""

    def synthesize_few(out, **_):
        synthesize(out, num_records=NUM_RECORDS, num_subjects=16, seed=0)

    def time_few(candidates, *, repeats, progress):
        few = {
            name: dataclasses.replace(candidate, warmup_batches=1, timed_batches=2)
            for name, candidate in candidates.items()
            if name.startswith(("ours", "memcpy", "webdataset")) and "2_workers" not in name
        }
        return timing_streams(few, repeats=2, progress=progress)

    def time_twice(candidates, *, repeats, warmup=1, seed=0, **options):
        return timing.time_side_by_side(candidates, repeats=2, warmup=1, **options)

    timing_streams = loader.time_streams
    monkeypatch.setattr(shard, "synthesize", synthesize_few)
    monkeypatch.setattr(loader, "synthesize", synthesize_few)
    monkeypatch.setattr(loader, "time_streams", time_few)
    monkeypatch.setattr(loader, "BUFFER", 8)
    monkeypatch.setattr(step, "SQUARE", (64, 64, 64))
    monkeypatch.setattr(step, "PEAK_SHAPES", ((64, 64, 64), (32, 64, 128)))
    monkeypatch.setattr(kernels, "load_run", lambda _: load_run("tiny"))
    for module in (shard, kernels, step):
        monkeypatch.setattr(module, "time_side_by_side", time_twice)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def check_schema(measured):
    """What every reader of a result relies on."""
    assert json.loads(json.dumps(measured))["schema_version"] == result.SCHEMA_VERSION
    assert {"hardware", "versions", "revision", "settings", "measurements"} <= measured.keys()
    assert measured["ratios"]
    assert measured["ratios"].keys() == measured["ratio_spread"].keys()
    for name, value in measured["ratios"].items():
        least, most = measured["ratio_spread"][name]
        assert math.isfinite(most), name
        assert 0 < least <= value <= most, name
    for name, entry in measured["measurements"].items():
        for key in {"per_s", "min", "max", "records_per_s"} & entry.keys():
            assert math.isfinite(entry[key]), f"{name}: {key}"
            assert entry[key] > 0, f"{name}: {key}"


@pytest.mark.parametrize(
    ("name", "options", "headline"),
    [
        ("shard", {}, "vs_tar_copy"),
        ("loader", {}, "vs_webdataset_tutorial"),
        ("kernels", {}, "eager_vs_copy_floor_fp32"),
        ("step", {"sizes": ("tiny",), "precisions": ("fp32",)}, "mfu_tiny_fp32"),
        ("probe", {}, "vs_scikit_learn_5_codes"),
    ],
)
def test_quick_form_gives_the_schema(name, options, headline, tiny_inputs):
    measured = result.run_benchmark(name, quick=True, **options)
    check_schema(measured)
    assert headline in measured["ratios"]
    assert measured["benchmark"] == name
    if name in ("kernels", "step") and not torch.cuda.is_available():
        assert measured["notes"] == ["GPU times were not measured: no CUDA device"]
        assert measured["notes"][0] in render_report([measured])


def test_all_goes_on_past_a_failure_and_fails(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmarks_cli, "BENCHMARKS", {"nothing": "", "checkpoint": ""})
    path, page = tmp_path / "all.json", tmp_path / "all.md"
    arguments = ["bench", "all", "--quick", "--json", str(path), "--report", str(page)]
    monkeypatch.setattr(sys, "argv", ["lamae", *arguments])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 1
    assert "bench all: nothing failed" in capsys.readouterr().err
    joined = result.read_result(path)
    assert list(joined["failed"]) == ["nothing"]
    check_schema(joined["results"]["checkpoint"])
    assert joined["ratios"]["checkpoint.vs_plain_write"] > 0
    assert "## checkpoint" in page.read_text()


def test_scaling_counts_the_bytes_that_it_computes(tiny_inputs):
    measured = result.run_benchmark("scaling", quick=True, zero=(0, 1, 3))
    check_schema(measured)
    assert {"weak_1_2", "weak_1_2_zero0", "weak_1_2_zero3"} <= measured["ratios"].keys()
    for stage in (0, 1, 3):
        entry = measured["measurements"][f"zero{stage}_2_processes_8_records"]
        sent = entry["sent_bytes_per_rank"]
        # Beside weights and gradients only norms and flags travel.
        assert sent["collectives"] == pytest.approx(sent["computed"], rel=0.01)
        assert 0 < entry["communication_share"] < 1
        alone = measured["measurements"][f"zero{stage}_1_processes_4_records"]
        assert alone["per_s"] > 0
        assert "sent_bytes_per_rank" not in alone


@pytest.mark.parametrize(
    "options",
    [
        {"modes": ("sideways",)},
        {"zero": (4,)},
        {"processes": (0,)},
        {"precision": "bf16"},
        {"processes": (3, 4), "modes": ("strong",)},
        {"processes": (2,)},
    ],
)
def test_scaling_refuses_what_makes_no_sense(options):
    with pytest.raises(result.UsageError):
        scaling.run(quick=True, **options)


def test_every_benchmark_is_a_verb_and_has_a_quick_test():
    from lamae.benchmarks.cli import app

    verbs = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert result.BENCHMARKS.keys() <= verbs
    assert all(hasattr(importlib.import_module(f"benchmarks.{name}"), "run") for name in result.BENCHMARKS)


def test_the_plan_is_held_against_steps_of_this_machine(tiny_inputs, monkeypatch):
    monkeypatch.setattr(validate, "RECORDS", {"tiny": 4})
    measured = validate.validate(sizes=("tiny",), zero=(1,), processes=(1,))
    check_schema({**result.describe_result("plan", quick=True), **measured})
    entry = measured["measurements"]["tiny_zero1_1_processes"]
    # Weights, gradients, master and moments of 0.6 M parameters are there to be seen, imports are not.
    assert entry["memory_bytes"]["measured"] is None or 7e6 < entry["memory_bytes"]["measured"] < 80e6
    assert entry["step_s"]["measured"] > 0
